// TlsAnswers: what a listener has to say itself on TLS connections that belong to no process.
//
// The handshake takes as long as the peer likes, so each has a thread of its own, and there are few
// of them.
#pragma once

#include <chrono>
#include <list>
#include <memory>
#include <optional>
#include <thread>

#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "migrate/tls.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"

namespace migrate::tool {

/// Methods are of one thread.
class TlsAnswers {
 public:
  TlsAnswers(std::shared_ptr<TlsContext> context, std::chrono::milliseconds hello_timeout);
  ~TlsAnswers();  ///< Ends those under way.
  TlsAnswers(const TlsAnswers&) = delete;
  TlsAnswers& operator=(const TlsAnswers&) = delete;

  /// Lets the peer introduce itself; then tells it `error`, or `answer` to its ASK where there is
  /// one. Closes `connection` at once when too many are being answered.
  void give(Fd connection, Error error, std::optional<wire::Answer> answer);

 private:
  struct Talk;
  static Status check_question(const Talk& talk, const RecordChannel::Record& first);
  void converse(Talk& talk);
  void reap();

  const std::shared_ptr<TlsContext> context_;
  const std::chrono::milliseconds hello_timeout_;
  std::list<std::unique_ptr<Talk>> talks_;
  Mutex mutex_;  // Of channels that end while this does.
};

}  // namespace migrate::tool
