// Where torch enters an op, and where a thread enters its share of the work: the only two places. Both set the default
// arithmetic; what runs out of memory says which op it was, and how much was asked for.
//
// An op has one struct of arguments. Its schema stands beside it, and `take` fills it in the schema's order.
#pragma once

#include <exception>
#include <mutex>
#include <new>
#include <stdexcept>
#include <utility>

#include "common/arithmetic.h"
#include "common/stable.h"

namespace varfast {

// The arguments of a call as the dispatcher hands them over, taken one after the other.
class Arguments {
 public:
  Arguments(const StableIValue* values, uint64_t count) : next_(values), end_(values + count) {}
  Tensor tensor() { return take<Tensor>(); }
  OptTensor maybe_tensor() { return take<OptTensor>(); }
  int64_t integer() { return take<int64_t>(); }
  std::optional<int64_t> maybe_integer() { return take<std::optional<int64_t>>(); }
  std::optional<std::vector<int64_t>> maybe_integers() { return take<std::optional<std::vector<int64_t>>>(); }
  double number() { return take<double>(); }
  bool flag() { return take<bool>(); }
  std::string text() { return take<std::string>(); }
  bool all_taken() const { return next_ == end_; }

 private:
  template <class T>
  T take() {
    STD_TORCH_CHECK(next_ != end_, "a struct of arguments takes more than its schema has");
    return torch::stable::detail::to<T>(*next_++);
  }
  const StableIValue *next_, *end_;
};

inline void give(StableIValue* values, const Tensor& result) { *values = torch::stable::detail::from(result); }
inline void give(StableIValue* values, const std::vector<Tensor>& results) {
  *values = torch::stable::detail::from(results);
}
template <class... Results>
void give(StableIValue* values, const std::tuple<Results...>& results) {
  std::apply([&](const auto&... each) { ((*values++ = torch::stable::detail::from(each)), ...); }, results);
}

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
template <class Op, class Result, class Call, Result (*function)(const Call&)>
struct Entry<Op, function> {
  static void boxed(StableIValue* values, uint64_t count, uint64_t) {
    const DefaultArithmetic arithmetic;
    try {
      Arguments arguments(values, count);
      const Call call = Call::take(arguments);
      STD_TORCH_CHECK(arguments.all_taken(), Op::name(), " takes fewer arguments than its schema has");
      give(values, function(call));
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
    (m).impl(#op, &Entry::boxed);                \
  } while (0)
