// Kernels with one planted fault each, and their correct twin: csrc/simt must report the former and let the latter be.
#include <cstdio>
#include <string>

#include "common/block.h"

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

// Every thread adds to one number of shared memory and to one of global memory, by atomics.
VF_KERNEL tally(Args args) {
  VF_SHARED(int, sum, 1);
  VF_SHARED(int64_t, most, 1);
  VF_SHARED(int, least, 1);
  const view<int> out(args.out, args.size);
  const int me = thread_x();
  if (me == 0) {
    if (args.fault != "uninitialised") sum[0] = 0;
    most[0] = -1;
    least[0] = 99;
  }
  if (args.fault != "no barrier") barrier();
  if (args.fault == "plain add") {
    sum[0] = sum[0] + me;
  } else {
    atomic_add(sum, 0, me);
  }
  atomic_max(most, 0, static_cast<int64_t>(me) << 40);
  if (args.fault == "early read" && me == 40) out[1] = sum[0];
  if (args.fault == "early write" && me == 40) sum[0] = 0;
  if (args.fault == "overrun" && me == 40) atomic_min(sum, 1, 0);
  atomic_min(least, 0, me);
  barrier();
  if (me == 0) atomic_add(out, 0, sum[0] + static_cast<int>(most[0] >> 40) - least[0]);
}

// Copies four numbers at a time.
VF_KERNEL copy(Args args) {
  VF_SHARED(int, numbers, 64);
  numbers[thread_x()] = thread_x();
  if (args.fault != "removed barrier") barrier();
  const view<int> out(args.out, args.size);
  if (thread_x() >= 16) return;
  const int at = 4 * thread_x() + (args.fault == "misaligned" && thread_x() == 3 ? 2 : 0);
  store_pack(out, block_x() * threads() + at, load_pack<4>(numbers, args.fault == "overrun" ? at + 4 : at));
}

// Blocks of a cluster trade numbers through each other's shared memory.
VF_KERNEL trade(Args args) {
  VF_SHARED(int, numbers, 64);
  const int me = thread_x(), other = (cluster_rank() + 1) % cluster_size();
  numbers[me] = static_cast<int>(block_x()) * 100 + me;
  if (args.fault == "block's barrier") {
    barrier();
  } else {
    cluster_barrier();
  }
  if (args.fault == "ended block" && cluster_rank() == 0) return;
  const int value = remote(numbers, other)[63 - me];
  if (args.fault == "overrun" && me == 0) remote(numbers, other)[64] = 1;
  if (args.fault == "no barrier before reuse") numbers[me] = 0;
  if (args.fault == "divergent" && cluster_rank() == 1) return;
  cluster_barrier();
  numbers[me] = value;
  view<int>(args.out, args.size)[block_x() * threads() + me] = numbers[me];
}

// The block's sums, one right after the other in the same shared memory.
VF_KERNEL sums(Args args) {
  VF_SHARED(int, slots, kMaxWarps);
  const auto add = [](int a, int b) -> int { return a + b; };
  const int twice = block_reduce(block_reduce(thread_x(), add, slots), add, slots) / threads();
  const int running = block_running_sum(1, slots);
  barrier();
  view<int>(args.out, args.size)[block_x() * threads() + thread_x()] = running + block_reduce(0, add, slots) + twice;
}

// Every block has its own number of global memory, and all of them add to the first number by atomics.
VF_KERNEL settle(Args args) {
  const view<int> out(args.out, args.size);
  const int me = static_cast<int>(block_x()), next = (me + 1) % 3, at = 8 * (me + 1);
  if (thread_x() == 0) {
    out[at] = me;
    if (args.fault == "neighbour's write") out[8 * (next + 1)] = next;
    if (args.fault == "same value") out[1] = 7;
    if (args.fault == "half a number") view<int16_t>(reinterpret_cast<int16_t*>(args.out), 2 * args.size)[7] = me;
    atomic_add(out, 0, 1);
  }
  barrier();
  if (args.fault == "neighbour's read" && thread_x() == 40) out[at + 1] = out[8 * (next + 1)];
  if (args.fault == "plain read of a sum" && thread_x() == 40) out[at + 1] = out[0];
  if (args.fault == "plain write of a sum" && thread_x() == 40 && me == 1) out[0] = 0;
  if (thread_x() == 63) out[at + 2] = out[at] + 1;
}

// Blocks of a cluster pass a number on through global memory.
VF_KERNEL relay(Args args) {
  const view<int> out(args.out, args.size);
  const int me = cluster_rank(), size = cluster_size();
  if (thread_x() == 0) out[me] = me;
  if (args.fault == "block's barrier") {
    barrier();
  } else {
    cluster_barrier();
  }
  const int next = out[(me + 1) % size];
  if (args.fault != "no barrier before reuse") cluster_barrier();
  if (thread_x() == 0) out[me] = next;
}

// Static shared memory and registers as tests/simt/ptxas_faults.txt says.
VF_KERNEL heavy(Args args) {
  VF_SHARED_DYNAMIC(int, numbers, threads());
  VF_SHARED(int, more, args.fault == "more than ptxas says" ? 1025 : 1024);
  numbers[thread_x()] = 1;
  more[thread_x()] = 1;
  if (thread_x() == 0) atomic_add(view<int>(args.out, args.size), 0, 1);
}

// Compiled for one block of 64 threads.
VF_KERNEL_OF(64, 1, bounded, Args args) {
  if (thread_x() == 0) atomic_add(view<int>(args.out, args.size), 0, 1);
}

template <int kThreads>
VF_KERNEL_OF(kThreads, 1, bounded_by, Args args) {
  if (thread_x() == 0) atomic_add(view<int>(args.out, args.size), 0, 1);
}

}  // namespace varfast::device

// Launches `heavy` as the fault says, and correctly: 4 KiB of static shared memory and 128 registers.
const char* launch_heavy(varfast::device::Args args) {
  varfast::Launch shape{3, 64, 44 * 1024, nullptr};
  if (args.fault == "clusters") shape.cluster = 3;
  if (args.fault == "shared memory of sm_86") shape.shared_bytes = 95 * 1024 + 16;
  if (args.fault == "shared memory of sm_80") shape.shared_bytes = 159 * 1024 + 16;
  if (args.fault == "shared memory of sm_90") shape.shared_bytes = 223 * 1024 + 16;
  if (args.fault == "registers") shape.threads = 544;
  if (args.fault == "48 KiB, static and dynamic") shape.shared_bytes = 44 * 1024 + 16;
  if (args.fault == "grid") shape.blocks = int64_t{1} << 31;
  return VF_LAUNCH(varfast::device::heavy, shape, args);
}

int main(int, char** argv) {
  const std::string kernel = argv[1];
  varfast::simt::seed = std::strtoull(argv[3], nullptr, 10);
  std::vector<int> out(3 * 64, -1);
  const varfast::device::Args args{argv[2], out.data(), static_cast<int64_t>(out.size())};
  const varfast::Launch shape{3, 64, 64 * sizeof(int), nullptr};
  const varfast::Launch bounded{3, args.fault == "too many threads" ? 96 : 64, 0, nullptr};
  if (kernel == "bounded") {
    out.assign(out.size(), 0);
    VF_LAUNCH(varfast::device::bounded, bounded, args);
  } else if (kernel == "bounded_by") {
    out.assign(out.size(), 0);
    VF_LAUNCH(varfast::device::bounded_by<64>, bounded, args);
  } else if (kernel == "reverse") {
    VF_LAUNCH(varfast::device::reverse, shape, args);
  } else if (kernel == "greedy") {
    VF_LAUNCH(varfast::device::greedy, shape, args);
  } else if (kernel == "tally") {
    out.assign(out.size(), 0);
    VF_LAUNCH(varfast::device::tally, shape, args);
  } else if (kernel == "trade") {
    VF_LAUNCH(varfast::device::trade, (varfast::Launch{3, 64, 0, nullptr, 3}), args);
  } else if (kernel == "settle") {
    out.assign(out.size(), 0);
    VF_LAUNCH(varfast::device::settle, shape, args);
  } else if (kernel == "relay") {
    VF_LAUNCH(varfast::device::relay, (varfast::Launch{3, 64, 0, nullptr, 3}), args);
  } else if (kernel == "heavy") {
    out.assign(out.size(), 0);
    if (const char* error = launch_heavy(args)) {
      std::fprintf(stderr, "%s\n", error);
      return 1;
    }
  } else if (kernel == "sums") {
    VF_LAUNCH(varfast::device::sums, shape, args);
  } else if (kernel == "copy") {
    VF_LAUNCH(varfast::device::copy, shape, args);
  } else {
    VF_LAUNCH(varfast::device::rotate, shape, args);
  }
  for (const int x : out) std::printf("%d ", x);
}
