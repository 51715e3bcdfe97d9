// AskResponder: tells a source that asks late what became of its guest.
//
// Incoming answers within the ask window. A source whose operator asks hours later (`migrate
// resolve
// --resume`) must still hear that the guest runs here, for as long as it does.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "migrate/channel.hpp"
#include "migrate/result.hpp"
#include "wire/messages.hpp"

namespace migrate::tool {

class AskResponder {
 public:
  /// Answers ASK of `session` with STARTED on a thread of its own, until it is destroyed. Says
  /// nothing, and logs why, where there is no thread: the guest that arrived runs all the same.
  AskResponder(std::unique_ptr<Acceptor> acceptor, const wire::SessionId& session,
               std::uint32_t attempt);
  ~AskResponder();
  AskResponder(const AskResponder&) = delete;
  AskResponder& operator=(const AskResponder&) = delete;

 private:
  void run();
  void answer(std::unique_ptr<Channel> channel);

  std::unique_ptr<Acceptor> acceptor_;
  const wire::SessionId session_;
  const wire::Answer answer_;
  std::thread thread_;
};

}  // namespace migrate::tool
