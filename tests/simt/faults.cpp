// Kernels with one planted fault each, and their correct twin: csrc/simt must report the former and let the latter be.
#include <cstdio>
#include <string>

#include "common/launch.h"

namespace varfast::device {

struct Args {
  std::string fault;
  int* out;
  int64_t size;
};

// Reverses the numbers of a block through shared memory, and sums them by shuffles.
VF_KERNEL reverse(Args args) {
  VF_SHARED(int, numbers, 64);
  VF_SHARED(int, sums, 2);
  const view<int> out(args.out, args.size);
  const int me = thread_x(), n = threads();
  if (args.fault != "uninitialised read" || me != 5) numbers[me] = me;
  if (args.fault == "overrun" && me == n - 1) numbers[me + 1] = me;
  if (args.fault == "race") numbers[0] = me;
  if (args.fault != "removed barrier") barrier();
  if (args.fault == "divergent barrier" && me < 32) barrier();
  if (args.fault == "ended thread" && me == 40) return;
  int value = numbers[n - 1 - me];
  if (args.fault == "unordered reuse") numbers[me] = value;
  for (int mask = 16; mask > 0; mask >>= 1) value += shuffle_xor(value, mask);
  if (lane() == 0) sums[warp()] = value;
  if (args.fault == "two places" && me >= 32) {
    barrier();
  } else {
    barrier();
  }
  out[block_x() * n + me] = numbers[n - 1 - me] + sums[0] + sums[1];
  if (args.fault == "global overrun" && me == 0) out[args.size] = 1;
}

// Takes more dynamic shared memory than its launch gave.
VF_KERNEL greedy(Args args) {
  VF_SHARED_DYNAMIC(int, numbers, args.fault == "none" ? threads() : threads() + 1);
  numbers[thread_x()] = thread_x();
  view<int>(args.out, args.size)[block_x() * threads() + thread_x()] = numbers[thread_x()];
}

// Within a warp a warp barrier is enough.
VF_KERNEL rotate(Args args) {
  VF_SHARED(int, numbers, 64);
  const view<int> out(args.out, args.size);
  numbers[thread_x()] = thread_x();
  if (args.fault != "removed warp barrier") warp_barrier();
  const int next = warp() * 32 + (lane() + 1) % 32;
  out[block_x() * threads() + thread_x()] = numbers[args.fault == "other warp" ? (next + 32) % 64 : next];
}

}  // namespace varfast::device

int main(int, char** argv) {
  const std::string kernel = argv[1];
  varfast::simt::seed = std::strtoull(argv[3], nullptr, 10);
  std::vector<int> out(3 * 64, -1);
  const varfast::device::Args args{argv[2], out.data(), static_cast<int64_t>(out.size())};
  const varfast::Launch shape{3, 64, 64 * sizeof(int), nullptr};
  if (kernel == "reverse") {
    VF_LAUNCH(varfast::device::reverse, shape, args);
  } else if (kernel == "greedy") {
    VF_LAUNCH(varfast::device::greedy, shape, args);
  } else {
    VF_LAUNCH(varfast::device::rotate, shape, args);
  }
  for (const int x : out) std::printf("%d ", x);
}
