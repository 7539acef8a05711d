// What would be launched for a list of shapes, on every device: nothing runs.
#pragma once

#include "common/dtype.h"
#include "common/launch.h"
#include "files.h"

// A call's shape: numbers in a file.
struct Shape {
  int64_t batch, m_h, m_w, h, w, channels, groups, with_prev;
  varfast::Dtype dtype;

  static Shape read(Files& files) {
    const std::vector<int64_t> n = files.read<int64_t>(9);
    return {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], static_cast<varfast::Dtype>(n[8])};
  }
  int64_t length() const { return h * w; }
  int64_t rows() const { return batch * length() * groups; }
  int64_t vocab() const { return channels / groups; }
};

namespace plans {

// Aligned as torch's memory is; nobody looks into it.
inline void* memory() { return reinterpret_cast<void*>(uintptr_t{1} << 20); }
inline float* room(int64_t) { return static_cast<float*>(memory()); }

// For each shape of the file and each device a line: its name, then for each launch " | " and its kernel, blocks,
// threads, blocks of a cluster, static and dynamic shared memory, registers, and why it would be refused.
template <class Plan>
int print(const char* file, Plan plan) {
  Files files(file, "/dev/null");
  varfast::simt::blocks_to_run = {varfast::simt::Blocks::none};
  for (int64_t left = files.read<int64_t>(); left > 0; --left) {
    const Shape shape = Shape::read(files);
    for (const varfast::simt::Device& device : varfast::simt::kDevices) {
      varfast::simt::device = &device;
      varfast::simt::plans.clear();
      plan(shape);
      std::printf("%s", std::string(device.name).c_str());
      for (const varfast::simt::Plan& one : varfast::simt::plans) {
        std::printf(" | %s; %lld; %d; %d; %lld; %lld; %d; %s", one.kernel.c_str(),
                    static_cast<long long>(one.shape.blocks), one.shape.threads, one.shape.cluster,
                    static_cast<long long>(one.fixed), static_cast<long long>(one.shape.shared_bytes), one.registers,
                    one.refusal.c_str());
      }
      std::printf("\n");
    }
  }
  return 0;
}

}  // namespace plans
