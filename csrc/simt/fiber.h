// Stacks that take turns on one thread of the CPU.
//
// swapcontext also saves and sets the signal mask: two system calls, which were 70% of the time of an emulated block of
// 768 threads. So a fiber begins by setcontext, and from then on _setjmp and _longjmp change places, which are made of
// a few instructions. Address sanitizer follows swapcontext, and takes a _longjmp for a return within one stack.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>

namespace varfast::simt {

// Where a fiber goes on, or who runs them.
class Fiber {
 public:
  // `main` runs on the stack when somebody first goes there.
  void begin(char* stack, std::size_t bytes, void (*main)()) {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, main, 0);
    fresh_ = true;
  }

  // From here to `other`; returns when somebody comes back.
  [[gnu::noinline]] void leave_for(Fiber& other) {
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&context_, &other.context_);
#else
    if (_setjmp(place_) == 0) other.enter();
#endif
  }

  // Nobody comes back to where this is called.
  [[noreturn]] void enter() {
#ifndef __SANITIZE_ADDRESS__
    if (!fresh_) _longjmp(place_, 1);
    fresh_ = false;
#endif
    setcontext(&context_);
    std::abort();
  }

 private:
  ucontext_t context_;
  jmp_buf place_;
  bool fresh_ = false;
};

}  // namespace varfast::simt
