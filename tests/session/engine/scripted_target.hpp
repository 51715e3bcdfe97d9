// ScriptedTarget: a target that takes a guest by post-copy and says on the wire what a test tells
// it to, wrong or right, to the real source.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "migrate/channel.hpp"
#include "transport/record_channel.hpp"
#include "wire/messages.hpp"
#include "wire/negotiation.hpp"

namespace migrate::testing {

class ScriptedTarget {
 public:
  static constexpr std::chrono::seconds kPatience{5};

  explicit ScriptedTarget(Acceptor& acceptor) : acceptor_(acceptor) {}

  /// HELLO to LAZY on all lanes; before that the urgent lane joins.
  Status open() {
    MIGRATE_ASSIGN(auto channel, acceptor_.accept(kPatience));
    control_ = std::make_unique<RecordChannel>(std::move(channel));
    MIGRATE_ASSIGN(const auto hello, control_->expect<wire::Hello>(kPatience));
    MIGRATE_ASSIGN(auto welcome, wire::negotiate(hello, {}));
    welcome.bulk_lanes = 1;
    welcome.random.bytes.fill(std::byte{9});
    welcome.secret.bytes.fill(std::byte{4});
    MIGRATE_TRY(control_->send(welcome, kPatience));
    hasher_ = wire::Hasher(hello.random, welcome.random);
    control_->set_hasher(hasher_);
    MIGRATE_TRY(take_lane(bulk_));
    MIGRATE_TRY(answer_pings());
    MIGRATE_TRY(take_lane(urgent_));
    MIGRATE_ASSIGN(lazy_, hear<wire::Lazy>());
    MIGRATE_TRY(bulk_->expect<wire::Lazy>(kPatience));
    return {};
  }
  /// The first list, to VOIDED.
  Status take_first_list() {
    MIGRATE_ASSIGN(const auto end, hear<wire::VoidEnd>());
    return control_->send(wire::Voided{end.digest}, kPatience);
  }
  /// From the guest's pause to STARTED.
  Status start() {
    MIGRATE_ASSIGN(const auto offer, hear<wire::Offer>());
    wire::Ready ready;
    ready.attempt = offer.attempt;
    ready.lease_ns = 10'000'000'000;
    ready.digest = offer.digest;
    digest_ = offer.digest;
    MIGRATE_TRY(control_->send(ready, kPatience));
    MIGRATE_TRY(hear<wire::Commit>());
    return control_->send(wire::Started{offer.attempt, 0}, kPatience);
  }
  /// RESUME on a new connection, which is the control lane from now on.
  Result<wire::Resume> take_resume(std::chrono::milliseconds patience = kPatience) {
    MIGRATE_ASSIGN(auto channel, acceptor_.accept(patience));
    control_ = std::make_unique<RecordChannel>(std::move(channel), hasher_);
    return control_->expect<wire::Resume>(kPatience);
  }

  /// By which the source measures a round trip, before anything else.
  Status answer_pings() {
    for (int answered = 0; answered < 4;) {
      MIGRATE_ASSIGN(const auto record, control_->receive(kPatience));
      if (record.header.type != wire::RecordType::kPing) continue;
      MIGRATE_ASSIGN(const auto ping, wire::decode<wire::Ping>(record.body));
      MIGRATE_TRY(control_->send(wire::Pong{ping.nonce, ping.time_ns}, kPatience));
      ++answered;
    }
    return {};
  }
  /// The next record of that type; others are passed over, PING is answered.
  template <typename Message>
  Result<Message> hear() {
    for (;;) {
      MIGRATE_ASSIGN(const auto record, control_->receive(kPatience));
      if (record.header.type == Message::kType) return wire::decode<Message>(record.body);
      if (record.header.type != wire::RecordType::kPing) continue;
      MIGRATE_ASSIGN(const auto ping, wire::decode<wire::Ping>(record.body));
      MIGRATE_TRY(control_->send(wire::Pong{ping.nonce, ping.time_ns}, kPatience));
    }
  }
  template <typename Message>
  Status say(const Message& message) {
    return control_->send(message, kPatience);
  }
  RecordChannel& urgent() { return *urgent_; }
  [[nodiscard]] const wire::Lazy& lazy() const { return lazy_; }
  [[nodiscard]] std::uint64_t digest() const { return digest_; }
  void close() {
    control_.reset();
    bulk_.reset();
    urgent_.reset();
  }

 private:
  Status take_lane(std::unique_ptr<RecordChannel>& lane) {
    MIGRATE_ASSIGN(auto channel, acceptor_.accept(kPatience));
    lane = std::make_unique<RecordChannel>(std::move(channel), hasher_);
    MIGRATE_ASSIGN(const auto join, lane->expect<wire::Join>(kPatience));
    return lane->send(wire::Joined{join.lane}, kPatience);
  }

  Acceptor& acceptor_;
  wire::Hasher hasher_;
  std::unique_ptr<RecordChannel> control_;
  std::unique_ptr<RecordChannel> bulk_;
  std::unique_ptr<RecordChannel> urgent_;
  wire::Lazy lazy_;
  std::uint64_t digest_ = 0;
};

}  // namespace migrate::testing
