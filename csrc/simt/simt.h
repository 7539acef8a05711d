// Runs CUDA kernels on the CPU and watches them: the other side of common/launch.h, used by tests alone.
//
// A block's threads are fibers, run one at a time. Between two barriers the order is random (from `seed`), so a result
// that depends on it differs from run to run; and every access to shared memory is checked: inside the array, of
// something that was written, and not touched by another thread since the last barrier where either of the two writes
// (racecheck's hazard, found in whatever order the threads ran; atomics may meet each other, but nothing else).
// Barriers must be met by all threads of the block (or warp) at one place in the source. A fault ends the program with
// exit code 70 and one line that names it.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <source_location>
#include <string>
#include <type_traits>
#include <vector>

#define VF_KERNEL void
#define VF_UNROLL(count) static_assert((count) > 0);
#define VF_DEVICE inline
#define VF_SHARED(T, name, count)      \
  static const char name##_identity{}; \
  const ::varfast::VF_ISA::view<T> name = ::varfast::simt::shared<T>(&name##_identity, count)
#define VF_SHARED_DYNAMIC(T, name, count) \
  const ::varfast::VF_ISA::view<T> name = ::varfast::simt::dynamic_shared<T>(count)
#define VF_LAUNCH(kernel, shape, ...) ::varfast::simt::launch(kernel, shape, __VA_ARGS__)

namespace varfast::simt {

using Site = std::source_location;
constexpr int kWarp = 32;
constexpr std::size_t kStack = 128 * 1024;
constexpr std::size_t kWidestShuffle = 64;

inline uint64_t seed = 0;

[[noreturn]] inline void fault(const std::string& what) {
  std::fflush(stdout);
  std::fprintf(stderr, "simt: %s\n", what.c_str());
  std::_Exit(70);
}

inline std::string at(const Site& site) {
  return std::string(site.file_name()).substr(std::string(site.file_name()).rfind('/') + 1) + ":" +
         std::to_string(site.line());
}

enum class State { ready, at_warp_barrier, at_block_barrier, done };

struct Thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  State state = State::ready;
  Site site;
  uint32_t warp_epoch = 0;  // warp barriers passed
  int shuffles = 0;
};

// Who touched one element of shared memory, and in which interval between barriers.
struct Touch {
  int thread = -1;
  uint32_t block_epoch = 0, warp_epoch = 0;
  bool several = false, several_warps = false;  // threads of that interval beyond the last one
};
struct Cell {
  bool written = false;
  Touch write, read, atomic;
};
struct SharedArray {
  std::vector<unsigned char> bytes;
  std::vector<Cell> cells;
  std::size_t width = 0;
};

struct Block {
  int64_t index = 0;
  int size = 0, current = -1, live = 0;
  uint32_t epoch = 0;  // block barriers passed
  int64_t dynamic_bytes = 0;
  ucontext_t scheduler;
  std::vector<Thread> threads;
  std::vector<int> ready;
  std::map<const void*, SharedArray> shared;
  std::vector<unsigned char> exchange;  // [warp][parity][lane] values on their way through a shuffle
  std::function<void()> body;
  std::mt19937_64 random;

  Thread& self() { return threads[current]; }
};

inline Block* block = nullptr;  // the one that is running

inline std::string who() {
  return "thread " + std::to_string(block->current) + " of block " + std::to_string(block->index);
}

// Gives the processor back until the scheduler picks this thread again.
inline void wait(State state, const Site& site) {
  Thread& me = block->self();
  me.state = state;
  me.site = site;
  swapcontext(&me.context, &block->scheduler);
}

inline void fiber_main() {
  block->body();
  block->self().state = State::done;
  --block->live;
  setcontext(&block->scheduler);
}

// Lets threads [begin, end) go on where all of them wait at one barrier.
inline bool release(int begin, int end, State state) {
  for (int t = begin; t < end; ++t) {
    if (block->threads[t].state != state) return false;
  }
  for (int t = begin; t < end; ++t) {
    Thread& thread = block->threads[t];
    if (thread.site.line() != block->threads[begin].site.line()) {
      fault("divergent barrier: threads " + std::to_string(begin) + " and " + std::to_string(t) + " wait at " +
            at(block->threads[begin].site) + " and " + at(thread.site));
    }
    thread.state = State::ready;
    block->ready.push_back(t);
  }
  return true;
}

[[noreturn]] inline void report_stuck() {
  int done = 0, waiting = -1;
  for (int t = 0; t < block->size; ++t) {
    if (block->threads[t].state == State::done) {
      ++done;
    } else {
      waiting = t;
    }
  }
  fault("divergent barrier: thread " + std::to_string(waiting) + " waits at " + at(block->threads[waiting].site) +
        " for threads that are elsewhere (" + std::to_string(done) + " have ended)");
}

inline void run_block() {
  block->ready.resize(block->size);
  for (int t = 0; t < block->size; ++t) block->ready[t] = t;
  while (block->live > 0) {
    if (block->ready.empty()) report_stuck();
    const std::size_t pick = block->random() % block->ready.size();
    block->current = block->ready[pick];
    block->ready[pick] = block->ready.back();
    block->ready.pop_back();
    swapcontext(&block->scheduler, &block->self().context);
    const int first = block->current / kWarp * kWarp;
    if (block->self().state == State::at_warp_barrier) release(first, first + kWarp, State::at_warp_barrier);
    if (block->self().state == State::at_block_barrier && release(0, block->size, State::at_block_barrier)) {
      ++block->epoch;
    }
  }
}

template <class... Params>
const char* launch(void (*kernel)(Params...), const Launch& shape, std::type_identity_t<Params>... args) {
  if (shape.threads < kWarp || shape.threads > 1024 || shape.threads % kWarp != 0) return "bad number of threads";
  std::mt19937_64 random(seed);
  std::vector<int64_t> order(shape.blocks);
  for (int64_t b = 0; b < shape.blocks; ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), random);
  Block running;
  running.size = shape.threads;
  running.dynamic_bytes = shape.shared_bytes;
  running.random = random;
  running.body = [&] { kernel(args...); };
  running.threads.resize(shape.threads);
  running.exchange.resize(shape.threads * 2 * kWidestShuffle);
  for (Thread& thread : running.threads) thread.stack = std::make_unique<char[]>(kStack);
  block = &running;
  for (const int64_t index : order) {
    running.index = index;
    running.live = running.size;
    running.shared.clear();
    for (Thread& thread : running.threads) {
      thread.state = State::ready;
      thread.shuffles = 0;
      getcontext(&thread.context);
      thread.context.uc_stack.ss_sp = thread.stack.get();
      thread.context.uc_stack.ss_size = kStack;
      thread.context.uc_link = nullptr;
      makecontext(&thread.context, fiber_main, 0);
    }
    run_block();
  }
  block = nullptr;
  return nullptr;
}

// Whether the running thread may meet an earlier touch in the same interval: the same thread, an earlier interval of
// the block, or an earlier one of its own warp.
inline bool apart(const Touch& touch) {
  const int me = block->current;
  if (touch.thread < 0 || touch.block_epoch != block->epoch) return true;
  if (touch.several_warps) return false;
  if (touch.thread / kWarp == me / kWarp && touch.warp_epoch != block->self().warp_epoch) return true;
  return touch.thread == me && !touch.several;
}

inline void note(Touch& touch) {
  const int me = block->current;
  const bool same = touch.thread >= 0 && touch.block_epoch == block->epoch;
  const bool other_warp = same && (touch.several_warps || touch.thread / kWarp != me / kWarp);
  const bool other = same && touch.warp_epoch == block->self().warp_epoch && (touch.several || touch.thread != me);
  touch = {me, block->epoch, block->self().warp_epoch, other, other_warp};
}

// Faults where one of the `others` touched element i of shared memory since the last barrier; else notes the touch.
inline void check(const char* verb, int64_t i, std::initializer_list<const Touch*> others, Touch& mine) {
  for (const Touch* other : others) {
    if (apart(*other)) continue;
    fault("race: " + who() + " " + verb + " element " + std::to_string(i) + " that thread " +
          std::to_string(other->thread) + " touched since the last barrier");
  }
  note(mine);
}

inline void check_written(const Cell& cell, int64_t i) {
  if (cell.written) return;
  fault("uninitialised read: " + who() + " reads element " + std::to_string(i) + " of shared memory");
}

inline void check_read(Cell& cell, int64_t i) {
  check_written(cell, i);
  check("reads", i, {&cell.write, &cell.atomic}, cell.read);
}

inline void check_write(Cell& cell, int64_t i) {
  check("writes", i, {&cell.write, &cell.read, &cell.atomic}, cell.write);
  cell.written = true;
}

inline void check_atomic(Cell& cell, int64_t i) {
  check_written(cell, i);
  check("updates", i, {&cell.write, &cell.read}, cell.atomic);
}

}  // namespace varfast::simt

VF_BEGIN

// One element of an array: reading and writing are told apart.
template <class T>
class Element {
 public:
  using Value = std::remove_const_t<T>;
  Element(T* value, simt::Cell* cell, int64_t index) : value_(value), cell_(cell), index_(index) {}
  operator Value() const {
    if (cell_ != nullptr) simt::check_read(*cell_, index_);
    return *value_;
  }
  const Element& operator=(const Value& value) const {
    if (cell_ != nullptr) simt::check_write(*cell_, index_);
    *value_ = value;
    return *this;
  }
  const Element& operator=(const Element& other) const { return *this = static_cast<Value>(other); }
  // An atomic step from x to op(x); returns x. Fibers change places at barriers alone, so nothing comes between.
  template <class Op>
  Value update(Op op) const {
    if (cell_ != nullptr) simt::check_atomic(*cell_, index_);
    const Value before = *value_;
    *value_ = op(before);
    return before;
  }

 private:
  T* value_;
  simt::Cell* cell_;  // null: global memory
  int64_t index_;
};

template <class T>
class view {
 public:
  view(T* data, int64_t size, simt::Cell* cells = nullptr) : data_(data), size_(size), cells_(cells) {}
  Element<T> operator[](int64_t i) const {
    if (i < 0 || i >= size_) {
      simt::fault("out of bounds: " + simt::who() + " touches element " + std::to_string(i) + " of " +
                  std::to_string(size_) + (cells_ != nullptr ? " of shared memory" : " of global memory"));
    }
    return {data_ + i, cells_ == nullptr ? nullptr : cells_ + i, i};
  }
  void check_aligned(int64_t i, std::size_t bytes) const {
    if (reinterpret_cast<uintptr_t>(data_ + i) % bytes == 0) return;
    simt::fault("misaligned: " + simt::who() + " touches " + std::to_string(bytes) + " bytes at element " +
                std::to_string(i) + " at once");
  }

 private:
  T* data_;
  int64_t size_;
  simt::Cell* cells_;
};

VF_END

namespace varfast::simt {

template <class T>
VF_ISA::view<T> shared(const void* identity, int64_t count) {
  SharedArray& array = block->shared[identity];
  if (array.cells.empty()) {
    array.bytes.assign(std::max<int64_t>(count, 1) * sizeof(T), 0xa5);  // a telling value for what nothing wrote
    array.cells.resize(std::max<int64_t>(count, 1));
    array.width = sizeof(T);
  }
  if (array.width != sizeof(T) || static_cast<int64_t>(array.bytes.size()) < count * static_cast<int64_t>(sizeof(T))) {
    fault("one shared array is declared with two types or sizes");
  }
  return {reinterpret_cast<T*>(array.bytes.data()), count, array.cells.data()};
}

template <class T>
VF_ISA::view<T> dynamic_shared(int64_t count) {
  if (count * static_cast<int64_t>(sizeof(T)) > block->dynamic_bytes) {
    fault("out of bounds: the launch gave " + std::to_string(block->dynamic_bytes) + " bytes of shared memory, " +
          who() + " takes " + std::to_string(count * sizeof(T)));
  }
  return shared<T>(&block->dynamic_bytes, count);
}

// The value that lane `from` of this warp gives to the same shuffle. Shuffles order no memory, as on the device.
template <class T>
T exchange(const T& value, int from, const Site& site) {
  static_assert(sizeof(T) <= kWidestShuffle && std::is_trivially_copyable_v<T>);
  Thread& me = block->self();
  const int lane = block->current % kWarp, first = block->current - lane;
  unsigned char* slots = block->exchange.data() + (2 * first + (me.shuffles++ & 1) * kWarp) * kWidestShuffle;
  memcpy(slots + lane * kWidestShuffle, &value, sizeof(T));
  wait(State::at_warp_barrier, site);
  T out;
  memcpy(&out, slots + from * kWidestShuffle, sizeof(T));
  return out;
}

}  // namespace varfast::simt

#include "simt/device.h"
