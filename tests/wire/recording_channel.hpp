// Channels that record what goes through them, so that a test of the real engine can leave a
// capture for verify_stream.py.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "migrate/channel.hpp"
#include "tests/wire/capture.hpp"

namespace migrate::wire::testing {

/// Bytes are recorded before they are sent and after they are received, so that an answer never
/// stands before its question. When a send fails, the capture may hold more than went out; later
/// ones are not recorded then.
class RecordingChannel final : public Channel {
 public:
  /// `sends`: the direction of what send() is given. `capture` must outlive the channel.
  RecordingChannel(std::unique_ptr<Channel> inner, Capture& capture, Direction sends)
      : inner_(std::move(inner)),
        capture_(capture),
        connection_(capture.add_connection()),
        sends_(sends) {}

  Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) override {
    std::size_t size = 0;
    for (const iovec& part : parts) size += part.iov_len;
    if (!send_failed_) capture_.add(connection_, sends_, parts, size);
    Status sent = inner_->send(parts, idle_max);
    if (!sent) send_failed_ = true;
    return sent;
  }

  Result<std::size_t> receive(std::span<const iovec> parts,
                              std::chrono::nanoseconds idle_max) override {
    auto received = inner_->receive(parts, idle_max);
    if (received) {
      const auto other =
          sends_ == Direction::kToTarget ? Direction::kToSource : Direction::kToTarget;
      capture_.add(connection_, other, parts, *received);
    }
    return received;
  }

  void interrupt() noexcept override { inner_->interrupt(); }
  void resume_after_interrupt() noexcept override { inner_->resume_after_interrupt(); }
  void shutdown() noexcept override { inner_->shutdown(); }
  [[nodiscard]] std::size_t unsent_bytes() const override { return inner_->unsent_bytes(); }
  [[nodiscard]] bool has_room(std::size_t bytes) const override { return inner_->has_room(bytes); }
  [[nodiscard]] std::string peer() const override { return inner_->peer(); }
  [[nodiscard]] std::string peer_identity() const override { return inner_->peer_identity(); }

 private:
  std::unique_ptr<Channel> inner_;
  Capture& capture_;
  const std::uint16_t connection_;
  const Direction sends_;
  bool send_failed_ = false;  ///< Only the sending thread looks at it.
};

/// Records every connection it makes: the source's side.
class RecordingConnector final : public Connector {
 public:
  RecordingConnector(Connector& inner, Capture& capture) : inner_(inner), capture_(capture) {}

  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override {
    MIGRATE_ASSIGN(auto channel, inner_.connect(timeout));
    return std::unique_ptr<Channel>(
        std::make_unique<RecordingChannel>(std::move(channel), capture_, Direction::kToTarget));
  }
  void set_session(std::string_view session) override { inner_.set_session(session); }
  void interrupt() noexcept override { inner_.interrupt(); }
  void resume_after_interrupt() noexcept override { inner_.resume_after_interrupt(); }
  [[nodiscard]] std::string peer() const override { return inner_.peer(); }

 private:
  Connector& inner_;
  Capture& capture_;
};

/// Records every connection it takes: the target's side.
class RecordingAcceptor final : public Acceptor {
 public:
  RecordingAcceptor(Acceptor& inner, Capture& capture) : inner_(inner), capture_(capture) {}

  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) override {
    MIGRATE_ASSIGN(auto channel, inner_.accept(timeout));
    return std::unique_ptr<Channel>(
        std::make_unique<RecordingChannel>(std::move(channel), capture_, Direction::kToSource));
  }
  void interrupt() noexcept override { inner_.interrupt(); }
  [[nodiscard]] std::string address() const override { return inner_.address(); }

 private:
  Acceptor& inner_;
  Capture& capture_;
};

}  // namespace migrate::wire::testing
