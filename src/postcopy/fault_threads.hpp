// FaultThreads: they read faults off the userfaultfd and hand them on.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "memory/userfault.hpp"
#include "migrate/result.hpp"

namespace migrate::postcopy {

class FaultThreads {
 public:
  /// Called by one of the threads with faults that came together. False: some could not be served
  /// for now, and `retry` is called with the same a little later.
  using Serve = std::function<bool(std::span<const PageFault> faults)>;
  using Retry = std::function<void(std::span<const PageFault> faults)>;

  struct Options {
    /// While one waits for the urgent lane's socket the other one serves.
    std::size_t threads = 2;
    std::size_t together_max = 64;  ///< Faults that one of them takes at a time.
  };
  static Result<std::unique_ptr<FaultThreads>> start(const Userfault& userfault, Serve serve,
                                                     Retry retry, Options options);
  static Result<std::unique_ptr<FaultThreads>> start(const Userfault& userfault, Serve serve,
                                                     Retry retry) {
    return start(userfault, std::move(serve), std::move(retry), Options());
  }
  ~FaultThreads();  ///< Ends them.

 private:
  FaultThreads(const Userfault& userfault, EventFd stop, Serve serve, Retry retry, Options options);
  Status start_all();
  void run(int epoll);

  struct Thread {
    Fd epoll;
    std::thread thread;
  };
  const Userfault& userfault_;
  EventFd stop_;
  const Serve serve_;
  const Retry retry_;
  const std::size_t together_max_;
  std::vector<Thread> threads_;
};

}  // namespace migrate::postcopy
