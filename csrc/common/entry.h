// Where torch enters an op, and where a thread enters its share of the work: the only two places. Both set the default
// arithmetic; what runs out of memory says which op it was, and how much was asked for.
#pragma once

#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "common/arithmetic.h"
#include "common/stable.h"

namespace varfast {

// work(begin, end) by torch's threads. torch's own loses the text of what a thread throws.
template <class Work>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Work& work) {
  std::exception_ptr failure;
  std::mutex lock;
  torch::stable::parallel_for(begin, end, grain, [&](int64_t first, int64_t last) {
    const DefaultArithmetic arithmetic;
    try {
      work(first, last);
    } catch (...) {
      const std::lock_guard<std::mutex> guard(lock);
      if (!failure) failure = std::current_exception();
    }
  });
  if (failure) std::rethrow_exception(failure);
}

template <class Op, auto function>
struct Entry;
template <class Op, class Result, class... Args, Result (*function)(Args...)>
struct Entry<Op, function> {
  static Result call(Args... args) {
    const DefaultArithmetic arithmetic;
    try {
      return function(std::forward<Args>(args)...);
    } catch (const OutOfMemory& error) {
      STD_TORCH_CHECK(false, Op::name(), ": out of memory: ", error.what());
    } catch (const std::bad_alloc&) {
      STD_TORCH_CHECK(false, Op::name(), ": out of memory");
    }
  }
};

}  // namespace varfast

// VF_IMPL(m, sample, varfast::sample) registers a function as the kernel of varfast::sample.
#define VF_IMPL(m, op, function)                 \
  do {                                           \
    struct Op {                                  \
      static const char* name() { return #op; }  \
    };                                           \
    using Entry = varfast::Entry<Op, &function>; \
    (m).impl(#op, TORCH_BOX(&Entry::call));      \
  } while (0)
