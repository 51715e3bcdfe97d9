// ScriptedSource: a source that says on the wire what a test tells it to, wrong or right, to the
// real target.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "migrate/channel.hpp"
#include "transport/record_channel.hpp"
#include "wire/digest.hpp"
#include "wire/messages.hpp"

namespace migrate::testing {

class ScriptedSource {
 public:
  static constexpr std::chrono::seconds kPatience{5};

  ScriptedSource(std::unique_ptr<Connector> connector, std::vector<Region> regions)
      : connector_(std::move(connector)) {
    hello_.session.bytes.fill(std::byte{0x51});
    hello_.random.bytes.fill(std::byte{7});
    hello_.guest.name = "scripted";
    hello_.guest.vcpus = 1;
    hello_.guest.regions = std::move(regions);
  }

  /// HELLO to WELCOME.
  Status greet() {
    MIGRATE_ASSIGN(auto channel, connector_->connect(kPatience));
    control_ = std::make_unique<RecordChannel>(std::move(channel));
    MIGRATE_TRY(control_->send(hello_, kPatience));
    MIGRATE_ASSIGN(const auto welcome, control_->expect<wire::Welcome>(kPatience));
    hasher_ = wire::Hasher(hello_.random, welcome.random);
    secret_ = welcome.secret;
    control_->set_hasher(hasher_);
    return {};
  }

  /// HELLO to JOINED, with one bulk lane.
  Status open() {
    MIGRATE_TRY(greet());
    return join_bulk();
  }

  /// RESUME on a new connection.
  Result<std::unique_ptr<RecordChannel>> begin_resume(const wire::SessionId& session,
                                                      const wire::JoinSecret& proof,
                                                      std::uint32_t round) {
    MIGRATE_ASSIGN(auto channel, connector_->connect(kPatience));
    auto control = std::make_unique<RecordChannel>(std::move(channel), hasher_);
    MIGRATE_TRY(control->send(wire::Resume{session, proof, round}, kPatience));
    return control;
  }
  /// The same; it is the control lane once RESUMED has come.
  Result<wire::Resumed> resume(const wire::SessionId& session, const wire::JoinSecret& proof,
                               std::uint32_t round) {
    MIGRATE_ASSIGN(auto control, begin_resume(session, proof, round));
    auto resumed = control->expect<wire::Resumed>(kPatience);
    if (resumed) control_ = std::move(control);
    return resumed;
  }
  /// ASK on a new connection, which is the control lane from now on.
  Status ask() {
    MIGRATE_ASSIGN(auto channel, connector_->connect(kPatience));
    control_ = std::make_unique<RecordChannel>(std::move(channel), hasher_);
    return control_->send(wire::Ask{hello_.session, secret_}, kPatience);
  }
  [[nodiscard]] const wire::SessionId& session() const { return hello_.session; }
  [[nodiscard]] const wire::JoinSecret& secret() const { return secret_; }
  [[nodiscard]] std::uint64_t digest() const { return digest_; }

  /// LAZY to LAZY_TERMS, with the urgent lane; it ends the bulk lane's rounds.
  Status begin_lazy(std::uint32_t window_ms = 10'000) {
    const wire::Lazy lazy{round_, window_ms, false};
    MIGRATE_TRY(lane_->send(lazy, kPatience));
    MIGRATE_TRY(control_->send(lazy, kPatience));
    MIGRATE_TRY(join_urgent());
    MIGRATE_TRY(control_->expect<wire::LazyTerms>(kPatience));
    return {};
  }
  Status join_urgent() { return join(urgent_, 2, wire::LaneRole::kUrgent); }
  Status join_bulk() { return join(lane_, 1, wire::LaneRole::kBulk); }
  RecordChannel& urgent() { return *urgent_; }
  RecordChannel& bulk() { return *lane_; }
  [[nodiscard]] std::uint32_t round() const { return round_; }

  /// One page of region 0 on `lane`, all bytes `value`, with a hash that is right or is not.
  Status lazy_page(RecordChannel& lane, std::uint64_t number, std::byte value, std::uint32_t round,
                   bool right = true) {
    std::vector<std::byte> content(kPageSize, value);
    const wire::PageDigest digest(hasher_);
    const std::uint64_t hash = digest.hash(content);
    encoder_.begin(wire::RegionHandle{0}, round);
    encoder_.add_raw(number, hash);
    if (!right) content[100] ^= std::byte{1};
    const iovec part{content.data(), content.size()};
    if (right) digest_ += digest.mix(wire::RegionHandle{0}, number, hash);
    return lane.send_pages(encoder_, {&part, 1}, kPatience);
  }

  /// One page of region `handle`, all bytes `value`, never sent before.
  Status page(std::uint32_t handle, std::uint64_t number, std::byte value) {
    std::vector<std::byte> content(kPageSize, value);
    const wire::PageDigest digest(hasher_);
    const std::uint64_t hash = digest.hash(content);
    encoder_.begin(wire::RegionHandle{handle}, round_);
    encoder_.add_raw(number, hash);
    const iovec part{content.data(), content.size()};
    MIGRATE_TRY(lane_->send_pages(encoder_, {&part, 1}, kPatience));
    ++pages_;
    change_ += digest.mix(wire::RegionHandle{handle}, number, hash);
    return {};
  }

  /// BARRIER on the lane and on the control lane.
  Status end_round(bool final) {
    const wire::Barrier barrier{round_++, final, pages_, change_};
    digest_ += std::exchange(change_, 0);
    pages_ = 0;
    MIGRATE_TRY(lane_->send(barrier, kPatience));
    return control_->send(barrier, kPatience);
  }

  /// A whole attempt of a guest that stands paused, up to READY.
  Status offer(std::uint32_t attempt, std::uint64_t total_pages) {
    MIGRATE_TRY(control_->send(wire::StateEnd{0, 0}, kPatience));
    MIGRATE_TRY(end_round(true));
    wire::Offer offer;
    offer.attempt = attempt;
    offer.run_state = RunState::kPaused;
    offer.digest = digest_;
    offer.total_pages = total_pages;
    MIGRATE_TRY(control_->send(offer, kPatience));
    MIGRATE_TRY(control_->expect<wire::BarrierAck>(kPatience));
    MIGRATE_TRY(control_->expect<wire::Ready>(kPatience));
    return {};
  }

  template <typename Message>
  Status say(const Message& message) {
    return control_->send(message, kPatience);
  }
  template <typename Message>
  Result<Message> hear() {
    return control_->expect<Message>(kPatience);
  }

  /// The error with which the target ends the session.
  Error hear_end() {
    for (;;) {
      auto record = control_->receive(kPatience);
      if (!record) return std::move(record).error();
      if (record->header.type != wire::RecordType::kDiscarded) continue;
      auto discarded = wire::decode<wire::Discarded>(record->body);
      return discarded ? std::move(discarded->error) : std::move(discarded).error();
    }
  }

  RecordChannel& control() { return *control_; }

  void close() {
    control_.reset();
    lane_.reset();
    urgent_.reset();
  }

 private:
  Status join(std::unique_ptr<RecordChannel>& lane, std::uint16_t number, wire::LaneRole role) {
    MIGRATE_ASSIGN(auto channel, connector_->connect(kPatience));
    lane = std::make_unique<RecordChannel>(std::move(channel), hasher_);
    MIGRATE_TRY(
        lane->send(wire::Join{hello_.session, wire::LaneId{number}, role, secret_}, kPatience));
    MIGRATE_TRY(lane->expect<wire::Joined>(kPatience));
    return {};
  }

  std::unique_ptr<Connector> connector_;
  wire::Hello hello_;
  wire::Hasher hasher_;
  wire::JoinSecret secret_;
  std::unique_ptr<RecordChannel> control_;
  std::unique_ptr<RecordChannel> lane_;
  std::unique_ptr<RecordChannel> urgent_;
  wire::PagesEncoder encoder_;
  std::uint32_t round_ = 0;
  std::uint64_t pages_ = 0;
  std::uint64_t change_ = 0;
  std::uint64_t digest_ = 0;
};

}  // namespace migrate::testing
