// Valid messages of every type, made from a seed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <string_view>

#include "wire/messages.hpp"

namespace migrate::wire::testing {

class Samples {
 public:
  explicit Samples(std::uint64_t seed) : random_(seed) {}

  /// A random valid message; small.
  template <typename Message>
  Message make() {
    Message message;
    fill(message);
    return message;
  }

  std::uint64_t below(std::uint64_t bound) { return random_() % bound; }
  SessionRandom secret_half() {
    SessionRandom half;
    fixed(half.bytes);
    return half;
  }

 private:
  template <std::size_t N>
  void fixed(std::array<std::byte, N>& bytes) {
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random_());
  }
  std::uint32_t u32() { return static_cast<std::uint32_t>(random_()); }
  bool coin() { return below(2) == 1; }
  std::string text(std::size_t bytes_max, std::string_view alphabet = "abcdefghij.-_0123") {
    std::string made(1 + below(bytes_max), 'a');
    for (char& c : made) c = alphabet[below(alphabet.size())];
    return made;
  }

  void fill(SessionLimits& limits) {
    limits.batch_entries = static_cast<std::uint32_t>(1 + below(kBatchEntriesMax));
    limits.section_chunk_bytes = static_cast<std::uint32_t>(1 + below(kSectionChunkBytesMax));
    limits.state_bytes = random_();
  }
  void fill(SectionInfo& info) { info = {text(64), u32(), coin()}; }
  void fill(Region& region) {
    region.id = {u32(), u32(), u32()};
    region.range = {GuestPage{below(std::uint64_t{1} << 40)}, 1 + below(std::uint64_t{1} << 30)};
    region.backing = static_cast<Backing>(below(5));
  }
  void fill(Error& error) {
    error.code = static_cast<ErrorCode>(1 + below(24));
    error.phase = static_cast<Phase>(below(14));
    error.side = static_cast<Side>(below(3));
    error.sys_errno = static_cast<int>(below(200));
    error.message = text(40, "a message\n");
    error.remedy = text(20);
  }
  void fill(GuestDescription& guest) {
    guest.kind = coin() ? GuestKind::kVm : GuestKind::kContainer;
    guest.name = text(20);
    guest.vcpus = static_cast<std::uint32_t>(below(kVcpusMax + 1));
    guest.regions.resize(below(4));
    for (Region& region : guest.regions) fill(region);
    guest.properties.resize(below(3));
    for (auto& property : guest.properties) {
      fill(property.info);
      property.body.resize(below(20), std::byte{7});
    }
  }

  void fill(Hello& m) {
    m.version_max = static_cast<std::uint16_t>(1 + below(9));
    m.features = random_();
    fixed(m.session.bytes);
    m.page_size = u32();
    m.bulk_lanes = static_cast<std::uint16_t>(1 + below(kBulkLanesMax));
    m.encodings |= u32();
    m.codecs |= u32();
    fill(m.limits);
    fixed(m.random.bytes);
    fixed(m.boot.bytes);
    m.strategy = static_cast<Strategy>(below(5));
    m.verify = static_cast<VerifyMode>(below(2));
    m.max_downtime_us = random_();
    m.host = text(30);
    fill(m.guest);
  }
  void fill(Welcome& m) {
    m.version = static_cast<std::uint16_t>(random_());
    m.features = random_();
    m.bulk_lanes = static_cast<std::uint16_t>(1 + below(kBulkLanesMax));
    m.encodings |= u32();
    m.codecs |= u32();
    fill(m.limits);
    fixed(m.random.bytes);
    fixed(m.secret.bytes);
    fixed(m.boot.bytes);
    m.load_us = random_();
    m.host = text(30);
  }
  void fill(Join& m) {
    fixed(m.session.bytes);
    m.lane.number = static_cast<std::uint16_t>(1 + below(kBulkLanesMax + 1));
    m.role = coin() ? LaneRole::kBulk : LaneRole::kUrgent;
    fixed(m.proof.bytes);
  }
  void fill(Joined& m) { m.lane.number = static_cast<std::uint16_t>(random_()); }
  void fill(Ask& m) {
    fixed(m.session.bytes);
    fixed(m.proof.bytes);
  }
  void fill(Answer& m) {
    m.state = static_cast<JournalState>(below(6));
    m.attempt = u32();
    fixed(m.boot.bytes);
    m.process_lives = below(2) == 0;
  }
  void fill(ErrorRecord& m) { fill(m.error); }
  void fill(Ping& m) { m = {random_(), random_()}; }
  void fill(Pong& m) { m = {random_(), random_()}; }
  void fill(Alive&) {}
  void fill(Regions& m) {
    m.first_handle.number = u32() / 2;
    m.added.resize(below(4));
    for (Region& region : m.added) fill(region);
    m.removed.resize(below(4));
    for (RegionHandle& handle : m.removed) handle.number = u32();
  }
  void fill(Barrier& m) { m = {u32(), coin(), random_(), random_()}; }
  void fill(BarrierAck& m) { m = {u32(), random_()}; }
  void fill(ResumeTerms& m) { m.window_ms = u32() % (kResumeWindowMsMax + 1); }
  void fill(Resume& m) {
    fixed(m.session.bytes);
    fixed(m.proof.bytes);
    m.round = u32();
  }
  void fill(Resumed& m) { m = {u32(), random_()}; }
  void fill(Void& m) {
    m.region.number = u32();
    m.first = below(1 << 20) * 64;
    m.words.resize(below(5));
    for (std::uint64_t& word : m.words) word = random_();
  }
  void fill(VoidEnd& m) { m = {random_(), random_()}; }
  void fill(Voided& m) { m.digest = random_(); }
  void fill(SectionBegin& m) { fill(m.info); }
  void fill(SectionEnd& m) { m.bytes = random_(); }
  void fill(StateEnd& m) { m = {u32(), random_()}; }
  void fill(Offer& m) {
    m = {u32(), coin() ? RunState::kRunning : RunState::kPaused, coin(), random_(), 0, random_()};
    if (m.has_full_digest) m.full_digest = random_();
  }
  void fill(Ready& m) {
    m = {u32(), random_(), random_(), random_(), random_(), random_(), random_()};
  }
  void fill(Commit& m) { m.attempt = u32(); }
  void fill(Started& m) { m = {u32(), random_()}; }
  void fill(Released& m) { m.attempt = u32(); }
  void fill(Forward& m) {
    m.card = static_cast<std::uint32_t>(below(kForwardCardsMax));
    m.frame.resize(kForwardFrameBytesMin + below(100));
    for (std::byte& byte : m.frame) byte = static_cast<std::byte>(random_());
  }
  void fill(Lazy& m) { m = {u32(), u32() % (kResumeWindowMsMax + 1), coin()}; }
  void fill(LazyTerms& m) {
    m.granules.resize(below(4));
    for (auto& granule : m.granules) granule = {RegionHandle{u32()}, 2u << below(9)};
  }
  void fill(Demand& m) {
    m.wanted.resize(below(5));
    for (auto& pages : m.wanted) {
      pages = {RegionHandle{u32()}, below(kPageNumberMax),
               static_cast<std::uint32_t>(1 + below(kGranulePagesMax))};
    }
  }
  void fill(Installed& m) {
    m.region.number = u32();
    m.first = below(1 << 20) * 64;
    m.words.resize(below(5));
    for (std::uint64_t& word : m.words) word = random_();
  }
  void fill(Complete& m) {
    m = {random_(), random_(), random_(), random_(), random_(), random_(), random_(), {}};
    m.stall_us.resize(below(5));
    for (std::uint64_t& stall : m.stall_us) stall = random_();
  }
  void fill(Abort& m) {
    m.attempt = u32();
    m.scope = coin() ? AbortScope::kAttempt : AbortScope::kSession;
    fill(m.error);
  }
  void fill(Discarded& m) {
    m.attempt = u32();
    m.scope = coin() ? AbortScope::kAttempt : AbortScope::kSession;
    fill(m.error);
  }

  std::mt19937_64 random_;
};

}  // namespace migrate::wire::testing
