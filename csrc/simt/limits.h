// What a device allows a launch, and what ptxas says each kernel takes: a launch that a device would refuse is a fault.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace varfast::simt {

[[noreturn]] void fault(const std::string& what);

// CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". `code`: whose machine code it runs, of
// those that are built.
struct Device {
  std::string_view name;
  int code;
  int64_t opt_in;  // bytes of shared memory of a block that asks for more than kGranted, static and dynamic together
  int cluster;     // blocks of a cluster; 8 is what every device with clusters has
  int slower;      // float32 operations in the time of one of float64 (its "Arithmetic Instructions")
};
constexpr int64_t kKiB = 1024;
constexpr Device kDevices[] = {{"sm_80", 80, 163 * kKiB, 1, 2},   {"sm_86", 80, 99 * kKiB, 1, 64},
                               {"sm_89", 80, 99 * kKiB, 1, 64},   {"sm_90", 90, 227 * kKiB, 8, 2},
                               {"sm_100", 100, 227 * kKiB, 8, 2}, {"sm_120", 120, 99 * kKiB, 8, 64}};
constexpr int64_t kGranted = 48 * kKiB;    // and the most that can be static
constexpr int64_t kRegisters = 64 * kKiB;  // of a block; a warp gets them by the 256

// What ptxas reports of a kernel: bytes of static shared memory, and registers of a thread on each of kCodes, rounded
// up to what a warp is given.
constexpr int kCodes[] = {80, 90, 100, 120};
struct Compiled {
  int64_t shared;
  int registers[4];
};

// The record of all kernels, beside this file or where the environment's SIMT_PTXAS says. .ci/ptxas_table.py writes it,
// and .ci/cuda holds it to what nvcc says today.
inline const std::map<std::string, Compiled>& all_compiled() {
  static const std::map<std::string, Compiled> all = [] {
    const char* const asked = std::getenv("SIMT_PTXAS");
    const std::string here = __FILE__, path = asked != nullptr ? asked : here.substr(0, here.rfind('/')) + "/ptxas.txt";
    std::ifstream file(path);
    if (!file) fault("no record of what kernels take: " + path);
    std::map<std::string, Compiled> out;
    for (std::string line; std::getline(file, line);) {
      const std::size_t bar = line.find(" | ");
      if (bar == std::string::npos) continue;
      Compiled& one = out[line.substr(0, bar)];
      std::istringstream numbers(line.substr(bar + 3));
      numbers >> one.shared;
      for (int& registers : one.registers) numbers >> registers;
    }
    return out;
  }();
  return all;
}

// Null: a kernel that nvcc has not compiled, a test's own. It takes what it declares as it runs, and no registers.
inline const Compiled* compiled(const std::string& kernel) {
  const auto found = all_compiled().find(kernel);
  return found == all_compiled().end() ? nullptr : &found->second;
}

// The device that launches are for, at first the environment's SIMT_DEVICE, sm_90 without one.
inline const Device* device = [] {
  const char* asked = std::getenv("SIMT_DEVICE");
  for (const Device& one : kDevices) {
    if (one.name == (asked == nullptr ? "sm_90" : asked)) return &one;
  }
  fault(std::string("no device '") + asked + "'");
}();

// What an op would be told of it.
inline Chip chip() { return {device->opt_in, device->cluster}; }

inline int registers_of(const Compiled& kernel, const Device& on) {
  int out = 0;
  for (int i = 0; i < 4; ++i) {
    if (kCodes[i] == on.code) out = kernel.registers[i];
  }
  return out;
}

// One launch, as a device is asked for it.
struct Plan {
  std::string kernel;
  Launch shape;
  int64_t fixed = 0;  // bytes of static shared memory
  int registers = 0;  // of a thread; 0: ptxas has not seen the kernel
  int threads = 0;    // that the kernel is compiled for at most; 0: any number
  std::string refusal;
};

// Why the device refuses a launch; empty: it does not. What no device takes is for malformed() to say (launch.h).
inline std::string refused(const Plan& plan, const Device& on) {
  const Launch& shape = plan.shape;
  const auto more = [&](const char* what, int64_t has, int64_t most) {
    return std::string(on.name) + " refuses " + plan.kernel + ": " + std::to_string(has) + " " + what + ", at most " +
           std::to_string(most);
  };
  if (shape.cluster > on.cluster) return more("blocks of a cluster", shape.cluster, on.cluster);
  if (plan.threads > 0 && shape.threads > plan.threads) {
    return more("threads, by the kernel's launch bounds", shape.threads, plan.threads);
  }
  if (plan.fixed > kGranted) return more("bytes of static shared memory", plan.fixed, kGranted);
  const int64_t shared = plan.fixed + shape.shared_bytes, most = asks_for_more(shape) ? on.opt_in : kGranted;
  if (shared > most) {
    return more(asks_for_more(shape) ? "bytes of shared memory, static and dynamic"
                                     : "bytes of shared memory, static and dynamic, without asking for more",
                shared, most);
  }
  const int64_t registers = int64_t{plan.registers} * shape.threads;
  if (registers > kRegisters) return more("registers of a block", registers, kRegisters);
  return {};
}

// All launches of this program, in order.
inline std::vector<Plan> plans;

}  // namespace varfast::simt
