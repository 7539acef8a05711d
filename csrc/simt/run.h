// A launch: held against what the device allows, noted, and its blocks run.
#pragma once

#include <cxxabi.h>

#include <typeinfo>

namespace varfast::simt {

// Which blocks (or clusters) of a launch run. `some`: the first, the last and one at random. `none`: the launch is only
// noted, and a refusal with it.
enum class Blocks { all, some, none };
// Of the first launch, the second and so on, and the last word of all that follow: the environment's SIMT_BLOCKS.
inline std::vector<Blocks> blocks_to_run = [] {
  const char* const asked = std::getenv("SIMT_BLOCKS");
  std::istringstream words(asked == nullptr ? "all" : asked);
  std::vector<Blocks> out;
  for (std::string word; std::getline(words, word, ',');) {
    if (word != "all" && word != "some") fault("SIMT_BLOCKS is made of all and some, not '" + word + "'");
    out.push_back(word == "some" ? Blocks::some : Blocks::all);
  }
  if (out.empty()) fault("SIMT_BLOCKS is empty");
  return out;
}();
inline Blocks blocks_of_next() { return blocks_to_run[std::min(plans.size(), blocks_to_run.size() - 1)]; }

inline void run_cluster() {
  const int count = static_cast<int>(cluster->threads.size());
  cluster->ready.resize(count);
  for (int t = 0; t < count; ++t) cluster->ready[t] = t;
  for (int done = 0; done < count;) {
    if (cluster->ready.empty()) report_stuck();
    const std::size_t pick = cluster->random() % cluster->ready.size();
    cluster->current = cluster->ready[pick];
    cluster->ready[pick] = cluster->ready.back();
    cluster->ready.pop_back();
    cluster->scheduler.leave_for(cluster->self().fiber);
    const int me = cluster->current, rank = cluster->rank();
    const State state = cluster->self().state;
    if (state == State::done) ++done;
    if (state == State::at_warp_barrier) release(me / kWarp * kWarp, kWarp, state);
    if (state == State::at_block_barrier && release(rank * cluster->size, cluster->size, state)) {
      ++cluster->epoch[rank];
    }
    if (state == State::at_cluster_barrier && release(0, count, state)) ++cluster->cluster_epoch;
  }
}

// The first blocks of the clusters that run, in the order in which they do.
inline std::vector<int64_t> order_of(const Launch& shape, std::mt19937_64& random) {
  const int64_t count = shape.blocks / shape.cluster;
  std::vector<int64_t> out;
  if (blocks_of_next() == Blocks::all) {
    for (int64_t c = 0; c < count; ++c) out.push_back(c);
  } else if (count > 0) {
    out = {0, count - 1, static_cast<int64_t>(random() % static_cast<uint64_t>(count))};
    std::sort(out.begin(), out.end());
    out.erase(std::unique(out.begin(), out.end()), out.end());
  }
  std::shuffle(out.begin(), out.end(), random);
  for (int64_t& c : out) c *= shape.cluster;
  return out;
}

inline void run_blocks(const Launch& shape, const std::function<void()>& body, Cluster& running) {
  std::mt19937_64 random(seed);
  const std::vector<int64_t> order = order_of(shape, random);
  running.size = shape.threads;
  running.blocks = shape.cluster;
  running.dynamic_bytes = shape.shared_bytes;
  running.random = random;
  running.body = body;
  running.threads.resize(shape.threads * shape.cluster);
  running.exchange.resize(running.threads.size() * 2 * kWidestShuffle);
  running.epoch.resize(shape.cluster);
  for (Thread& thread : running.threads) thread.stack = std::make_unique_for_overwrite<char[]>(kStack);
  cluster = &running;
  for (const int64_t first : order) {
    running.first = first;
    running.live.assign(shape.cluster, shape.threads);
    running.shared.clear();
    for (Thread& thread : running.threads) {
      thread.state = State::ready;
      thread.shuffles = 0;
      thread.fiber.begin(thread.stack.get(), kStack, fiber_main);
    }
    run_cluster();
  }
  cluster = nullptr;
}

template <auto kernel>
struct Named {};

// "f<float, true>" of a kernel varfast::device::f<float, true>, as .ci/ptxas_table.py calls it.
template <auto kernel>
std::string name_of() {
  char* const demangled = abi::__cxa_demangle(typeid(Named<kernel>).name(), nullptr, nullptr, nullptr);
  std::string name = demangled;
  std::free(demangled);
  name = name.substr(name.find('&') + 1);
  if (name[0] == '(') {  // a template's comes with its type: (void f<float>(Args))
    name = name.substr(name.find(' ') + 1);
    int depth = 0;
    std::size_t end = 0;
    for (; depth > 0 || name[end] != '('; ++end) depth += name[end] == '<' ? 1 : name[end] == '>' ? -1 : 0;
    name.resize(end);
  } else {
    name.resize(name.find('>'));
  }
  for (const std::string space : {"varfast::device::", "varfast::"}) {
    for (std::size_t at; (at = name.find(space)) != std::string::npos;) name.erase(at, space.size());
  }
  return name;
}

// `most_threads`: that the kernel is compiled for; 0: any number.
template <auto kernel>
const char* start(const Launch& shape, int most_threads, const std::function<void()>& body) {
  if (const char* error = malformed(shape)) return error;
  if (shape.blocks == 0) return nullptr;
  Plan plan{name_of<kernel>(), shape, 0, 0, most_threads, {}};
  const Compiled* const known = compiled(plan.kernel);
  if (known != nullptr) {
    plan.fixed = known->shared;
    plan.registers = registers_of(*known, *device);
  }
  plan.refusal = refused(plan, *device);
  if (blocks_of_next() == Blocks::none) {
    plans.push_back(plan);
    return nullptr;
  }
  if (!plan.refusal.empty()) fault(plan.refusal);
  Cluster running;
  run_blocks(shape, body, running);
  if (known == nullptr) {
    plan.fixed = running.declared;
    if (const std::string why = refused(plan, *device); !why.empty()) fault(why);
  } else if (running.declared > known->shared) {
    fault("ptxas' report is old: " + plan.kernel + " declares " + std::to_string(running.declared) +
          " bytes of static shared memory, csrc/simt/ptxas.txt says " + std::to_string(known->shared));
  }
  plans.push_back(plan);
  return nullptr;
}

template <auto kernel, class Type = std::decay_t<decltype(kernel)>>
struct Launcher;
template <auto kernel, class... Params>
struct Launcher<kernel, void (*)(Params...)> {
  static const char* run(const Launch& shape, Params... args) {
    return start<kernel>(shape, 0, [&] { kernel(args...); });
  }
};
template <auto kernel, int kThreads, class... Params>
struct Launcher<kernel, void (*)(Bounds<kThreads>, Params...)> {
  static const char* run(const Launch& shape, Params... args) {
    return start<kernel>(shape, kThreads, [&] { kernel({}, args...); });
  }
};

}  // namespace varfast::simt
