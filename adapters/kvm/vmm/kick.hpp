// Getting a thread out of KVM_RUN: by a signal from another thread, or by a timer of its own.
#pragma once

#include <chrono>
#include <csignal>
#include <ctime>
#include <optional>

#include "migrate/result.hpp"

namespace migrate::vmm {

/// The signal that ends KVM_RUN. Only ever sent to a vCPU's thread, which has it blocked.
[[nodiscard]] int kick_signal();

/// All signals a thread can be rid of. Those of its own faults stay: blocked ones would kill the
/// process without a word.
[[nodiscard]] sigset_t all_but_faults();

/// Blocks all_but_faults() in the calling thread for a scope; threads made in it inherit that.
class SignalsBlocked {
 public:
  SignalsBlocked();
  ~SignalsBlocked();
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_{};
};

/// Lets the kick through while `vcpu_fd` is in KVM_RUN; the thread that runs it has it blocked
/// otherwise.
Status let_kicks_into_run(int vcpu_fd);
/// Takes off kicks that have come.
void take_kicks();

/// Kicks the thread that made it once a time has passed. Used by that thread only.
class SliceTimer {
 public:
  SliceTimer() = default;
  ~SliceTimer();
  SliceTimer(const SliceTimer&) = delete;
  SliceTimer& operator=(const SliceTimer&) = delete;

  /// Makes the timer at the first call. Where the kernel has none left, nothing happens.
  void arm(std::chrono::nanoseconds after);

 private:
  std::optional<timer_t> timer_;
};

}  // namespace migrate::vmm
