// Runs CUDA kernels on the CPU and watches them: the other side of common/launch.h, used by tests alone.
//
// A block's threads are fibers, run one at a time. Between two barriers the order is random (from `seed`), so a result
// that depends on it differs from run to run; and every access to shared memory is checked: inside the array, of
// something that was written, and not touched by another thread since the last barrier where either of the two writes
// (racecheck's hazard, found in whatever order the threads ran; atomics may meet each other, but nothing else).
// Barriers must be met by all threads of the block (warp, cluster) at one place in the source. A fault ends the program
// with exit code 70 and one line that names it. The blocks of a cluster run side by side, and between them only a
// barrier of the cluster tells before from after. What the device would refuse to launch is a fault too (limits.h).
#pragma once

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

#include "simt/fiber.h"
#include "simt/global.h"
#include "simt/limits.h"

#define VF_KERNEL void
#define VF_KERNEL_OF(threads, blocks, name, ...) void name(::varfast::simt::Bounds<(threads)>, __VA_ARGS__)
#define VF_UNROLL(count) static_assert((count) > 0);
#define VF_DEVICE inline
#define VF_SHARED(T, name, count)      \
  static const char name##_identity{}; \
  const ::varfast::VF_ISA::view<T> name = ::varfast::simt::shared<T>(&name##_identity, count)
#define VF_SHARED_DYNAMIC(T, name, count) \
  const ::varfast::VF_ISA::view<T> name = ::varfast::simt::dynamic_shared<T>(count)
#define VF_LAUNCH(kernel, shape, ...) ::varfast::simt::Launcher<kernel>::run(shape, __VA_ARGS__)

namespace varfast::simt {

using Site = std::source_location;
constexpr int kWarp = 32;
// The most threads of a block that a kernel is compiled for; a kernel's first parameter carries it.
template <int kThreads>
struct Bounds {};
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

enum class State { ready, at_warp_barrier, at_block_barrier, at_cluster_barrier, done };

struct Thread {
  Fiber fiber;
  std::unique_ptr<char[]> stack;
  State state = State::ready;
  Site site;
  uint32_t warp_epoch = 0;  // warp barriers passed
  int shuffles = 0;
};

// Who touched one element of shared memory, and in which interval between barriers.
struct Touch {
  int thread = -1;  // of the cluster
  uint32_t cluster_epoch = 0, block_epoch = 0, warp_epoch = 0;
  bool several = false, several_warps = false, several_blocks = false;  // in that interval, beyond this thread
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

// The blocks that run side by side: one, unless the launch asks for clusters. Threads are counted over all of them.
struct Cluster {
  int64_t first = 0;            // index of its first block
  int size = 0, blocks = 1;     // threads of a block, blocks
  int current = -1;             // the thread that is running
  std::vector<int> live;        // threads of each block that have not ended
  std::vector<uint32_t> epoch;  // block barriers passed
  uint32_t cluster_epoch = 0;
  int64_t dynamic_bytes = 0, declared = 0;  // of shared memory; declared: the most that any block has taken statically
  Fiber scheduler;
  std::vector<Thread> threads;
  std::vector<int> ready;
  std::map<std::pair<const void*, int>, SharedArray> shared;  // of each block
  std::vector<unsigned char> exchange;  // [warp][parity][lane] values on their way through a shuffle
  std::function<void()> body;
  std::mt19937_64 random;
  GlobalMemory global;

  Thread& self() { return threads[current]; }
  int rank() const { return current / size; }
};

inline Cluster* cluster = nullptr;  // the one that is running

inline std::string who() {
  return "thread " + std::to_string(cluster->current % cluster->size) + " of block " +
         std::to_string(cluster->first + cluster->rank());
}

// Gives the processor back until the scheduler picks this thread again.
inline void wait(State state, const Site& site) {
  Thread& me = cluster->self();
  me.state = state;
  me.site = site;
  me.fiber.leave_for(cluster->scheduler);
}

// A block's shared memory ends with it: whoever reads it later reads what nothing wrote.
inline void fiber_main() {
  cluster->body();
  cluster->self().state = State::done;
  const int rank = cluster->rank();
  if (--cluster->live[rank] == 0) {
    for (auto& [key, array] : cluster->shared) {
      if (key.second == rank) array.cells.assign(array.cells.size(), Cell{});
    }
  }
  cluster->scheduler.enter();
}

// Lets threads [begin, begin + count) go on where all of them wait at one barrier.
inline bool release(int begin, int count, State state) {
  for (int t = begin; t < begin + count; ++t) {
    if (cluster->threads[t].state != state) return false;
  }
  for (int t = begin; t < begin + count; ++t) {
    Thread& thread = cluster->threads[t];
    if (thread.site.line() != cluster->threads[begin].site.line()) {
      fault("divergent barrier: threads " + std::to_string(begin) + " and " + std::to_string(t) + " wait at " +
            at(cluster->threads[begin].site) + " and " + at(thread.site));
    }
    thread.state = State::ready;
    cluster->ready.push_back(t);
  }
  return true;
}

[[noreturn]] inline void report_stuck() {
  int done = 0, waiting = -1;
  for (std::size_t t = 0; t < cluster->threads.size(); ++t) {
    if (cluster->threads[t].state == State::done) {
      ++done;
    } else {
      waiting = static_cast<int>(t);
    }
  }
  fault("divergent barrier: thread " + std::to_string(waiting) + " waits at " + at(cluster->threads[waiting].site) +
        " for threads that are elsewhere (" + std::to_string(done) + " have ended)");
}

// Whether the running thread may meet an earlier touch in the same interval: the same thread, an earlier interval of
// the cluster, one of its own block, or one of its own warp.
inline bool apart(const Touch& touch) {
  const int me = cluster->current, rank = cluster->rank();
  if (touch.thread < 0 || touch.cluster_epoch != cluster->cluster_epoch) return true;
  if (touch.several_blocks || touch.thread / cluster->size != rank) return false;
  if (touch.block_epoch != cluster->epoch[rank]) return true;
  if (touch.several_warps) return false;
  if (touch.thread / kWarp == me / kWarp && touch.warp_epoch != cluster->self().warp_epoch) return true;
  return touch.thread == me && !touch.several;
}

inline void note(Touch& touch) {
  const int me = cluster->current, rank = cluster->rank();
  const uint32_t epoch = cluster->epoch[rank], warp_epoch = cluster->self().warp_epoch;
  const bool here = touch.thread >= 0 && touch.cluster_epoch == cluster->cluster_epoch;
  const bool other_block = here && (touch.several_blocks || touch.thread / cluster->size != rank);
  const bool same = here && touch.block_epoch == epoch;
  const bool other_warp = same && (touch.several_warps || touch.thread / kWarp != me / kWarp);
  const bool other = same && touch.warp_epoch == warp_epoch && (touch.several || touch.thread != me);
  touch = {me, cluster->cluster_epoch, epoch, warp_epoch, other, other_warp, other_block};
}

// Faults where one of the `others` touched element i of shared memory since the last barrier; else notes the touch.
inline void check(const char* verb, int64_t i, std::initializer_list<const Touch*> others, Touch& mine) {
  for (const Touch* other : others) {
    if (apart(*other)) continue;
    fault("race: " + who() + " " + verb + " element " + std::to_string(i) + " that thread " +
          std::to_string(other->thread % cluster->size) + " of block " +
          std::to_string(cluster->first + other->thread / cluster->size) + " touched since the last barrier");
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

enum class Verb { reads, writes, updates };

// A touch of `bytes` of global memory by the running block.
inline void touch_global(Verb verb, const void* data, std::size_t bytes) {
  const Here here{cluster->first + cluster->rank(), cluster->blocks, cluster->cluster_epoch};
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data);
  for (uintptr_t at = begin; at < begin + bytes; at += GlobalMemory::kGrain) {
    GlobalCell& cell = cluster->global.at(at);
    BlockTouch* const mine[] = {&cell.read, &cell.write, &cell.atomic};
    for (const Verb other : {Verb::reads, Verb::writes, Verb::updates}) {
      if (other == verb && verb != Verb::writes) continue;
      const BlockTouch& touch = *mine[static_cast<int>(other)];
      if (apart(touch, here)) continue;
      const char* const verbs[] = {"reads", "writes", "updates"};
      fault("race between blocks: " + who() + " " + verbs[static_cast<int>(verb)] +
            " global memory that a thread of block " + std::to_string(touch.block) + " " +
            verbs[static_cast<int>(other)]);
    }
    note(*mine[static_cast<int>(verb)], here);
  }
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
    if (cell_ != nullptr) {
      simt::check_read(*cell_, index_);
    } else {
      simt::touch_global(simt::Verb::reads, value_, sizeof(T));
    }
    return *value_;
  }
  const Element& operator=(const Value& value) const {
    if (cell_ != nullptr) {
      simt::check_write(*cell_, index_);
    } else {
      simt::touch_global(simt::Verb::writes, value_, sizeof(T));
    }
    *value_ = value;
    return *this;
  }
  const Element& operator=(const Element& other) const { return *this = static_cast<Value>(other); }
  // An atomic step from x to op(x); returns x. Fibers change places at barriers alone, so nothing comes between.
  template <class Op>
  Value update(Op op) const {
    if (cell_ != nullptr) {
      simt::check_atomic(*cell_, index_);
    } else {
      simt::touch_global(simt::Verb::updates, value_, sizeof(T));
    }
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
  view after(int64_t i) const { return {data_ + i, size_ - i, cells_ == nullptr ? nullptr : cells_ + i}; }
  bool is_of(const simt::Cell* cells) const { return cells_ == cells; }
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

// Static arrays begin on 16 bytes (VF_SHARED).
inline void count_declared() {
  int64_t bytes = 0;
  for (const auto& [key, array] : cluster->shared) {
    if (key.second != cluster->rank() || key.first == &cluster->dynamic_bytes) continue;
    bytes = (bytes + 15) / 16 * 16 + static_cast<int64_t>(array.bytes.size());
  }
  cluster->declared = std::max(cluster->declared, bytes);
}

template <class T>
VF_ISA::view<T> shared(const void* identity, int64_t count) {
  SharedArray& array = cluster->shared[{identity, cluster->rank()}];
  if (array.cells.empty()) {
    array.bytes.assign(std::max<int64_t>(count, 1) * sizeof(T), 0xa5);  // a telling value for what nothing wrote
    array.cells.resize(std::max<int64_t>(count, 1));
    array.width = sizeof(T);
    if (identity != &cluster->dynamic_bytes) count_declared();
  }
  if (array.width != sizeof(T) || static_cast<int64_t>(array.bytes.size()) < count * static_cast<int64_t>(sizeof(T))) {
    fault("one shared array is declared with two types or sizes");
  }
  return {reinterpret_cast<T*>(array.bytes.data()), count, array.cells.data()};
}

// The array that another block of the cluster has in the place of this block's own.
template <class T>
VF_ISA::view<T> remote(const VF_ISA::view<T>& mine, int rank) {
  const void* identity = nullptr;
  for (const auto& [key, array] : cluster->shared) {
    if (key.second == cluster->rank() && mine.is_of(array.cells.data())) identity = key.first;
  }
  const auto found = cluster->shared.find({identity, rank});
  if (found == cluster->shared.end()) {
    fault("remote memory: " + who() + " asks for an array that block " + std::to_string(cluster->first + rank) +
          " does not have (yet)");
  }
  SharedArray& array = found->second;
  return {reinterpret_cast<T*>(array.bytes.data()), static_cast<int64_t>(array.cells.size()), array.cells.data()};
}

template <class T>
VF_ISA::view<T> dynamic_shared(int64_t count) {
  if (count * static_cast<int64_t>(sizeof(T)) > cluster->dynamic_bytes) {
    fault("out of bounds: the launch gave " + std::to_string(cluster->dynamic_bytes) + " bytes of shared memory, " +
          who() + " takes " + std::to_string(count * sizeof(T)));
  }
  return shared<T>(&cluster->dynamic_bytes, count);
}

// The value that lane `from` of this warp gives to the same shuffle. Shuffles order no memory, as on the device.
template <class T>
T exchange(const T& value, int from, const Site& site) {
  static_assert(sizeof(T) <= kWidestShuffle && std::is_trivially_copyable_v<T>);
  Thread& me = cluster->self();
  const int lane = cluster->current % kWarp, first = cluster->current - lane;
  unsigned char* slots = cluster->exchange.data() + (2 * first + (me.shuffles++ & 1) * kWarp) * kWidestShuffle;
  memcpy(slots + lane * kWidestShuffle, &value, sizeof(T));
  wait(State::at_warp_barrier, site);
  T out;
  memcpy(&out, slots + from * kWidestShuffle, sizeof(T));
  return out;
}

}  // namespace varfast::simt

#include "simt/device.h"
#include "simt/run.h"
