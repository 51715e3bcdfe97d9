// StreamMaker: writes a session's records as two well-behaved sides would, or, told so, with one
// thing wrong.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "tests/wire/capture.hpp"
#include "wire/digest.hpp"
#include "wire/messages.hpp"
#include "wire/pages.hpp"

namespace migrate::wire::testing {

/// Page content that only a seed and the place decide: one 64-byte line again and again, so that
/// captures compress well.
[[nodiscard]] std::array<std::byte, kPageSize> page_content(std::uint64_t seed);

/// A zstd frame of RLE and raw blocks, so that it is the same whatever zstd is installed.
[[nodiscard]] std::vector<std::byte> run_frame(std::span<const std::byte> content);

class StreamMaker {
 public:
  explicit StreamMaker(std::vector<Region> regions, std::uint16_t bulk_lanes);

  /// HELLO to JOINED of every lane; the control lane is connection 0, lane n connection n.
  void open();

  template <typename Message>
  void send(const Message& message, std::uint16_t connection = 0) {
    put(message, connection, Direction::kToTarget);
  }
  template <typename Message>
  void reply(const Message& message, std::uint16_t connection = 0) {
    put(message, connection, Direction::kToSource);
  }
  /// A record of any type with any body.
  void send_raw(RecordType type, std::span<const std::byte> body, std::uint16_t connection = 0);

  /// `count` pages from `first`; nullopt: zeros, else content from that seed and the page number.
  struct Run {
    std::uint64_t first = 0;
    std::uint64_t count = 1;
    std::optional<std::uint64_t> seed;
  };
  void pages(std::uint16_t lane, std::uint32_t region, std::vector<Run> runs);

  /// Before open(): both sides know all encodings and codecs.
  void agree_all_content();
  /// One page of a batch() of any encoding. kRaw: all its bytes are `fill`. kDelta: `patch` is
  /// given, and applied to what was sent last, unless it is invalid. kDuplicate: of `original`.
  struct Item {
    PageEncoding encoding = PageEncoding::kRaw;
    std::uint64_t page = 0;
    std::byte fill{};
    std::vector<std::byte> patch{};
    PageReference original{};
  };
  /// The content goes through `pack` where that is given; see run_frame().
  using Pack = std::vector<std::byte> (*)(std::span<const std::byte> content);
  void batch(std::uint16_t lane, std::uint32_t region, const std::vector<Item>& items,
             Pack pack = nullptr);

  /// BARRIER on all lanes, then on the control lane; with BARRIER_ACK.
  void end_round(bool final);
  void end_round_on_lane(std::uint16_t lane, bool final);
  void acknowledge();
  void change_regions(Regions change);

  void state(std::size_t bytes);
  void offer(std::uint32_t attempt);
  void ready(std::uint32_t attempt);

  /// Before open(): both sides know feature bit 1.
  void allow_resume();
  void allow_forward();
  void allow_attempts();
  void allow_postcopy();
  /// LAZY on all lanes, the urgent one joins; LAZY_TERMS, with units of `granule` in region 0.
  void lazy(std::uint32_t granule = 1, bool installed = false);
  /// A list of what comes lazily: these pages of region 0. From the target with `missing`.
  void list(const std::vector<std::uint64_t>& pages, bool missing = false);
  /// VOIDED, with the digest as it is.
  void agree() { reply(Voided{digest_}); }
  /// After a link that was lost when the guest ran there: up to RESUMED.
  void come_back();
  void rejoin_lazily();
  [[nodiscard]] std::uint16_t urgent() const {
    return static_cast<std::uint16_t>(hello_.bulk_lanes + 1);
  }
  void complete(std::uint64_t pages) {
    reply(Complete{pages, digest_, 2, 1, 90, 900, 950, {40, 0}});
  }
  /// The target's account of an attempt that was aborted: what it may not have as it came.
  void forget(std::uint32_t attempt, std::uint32_t region, std::uint64_t page);
  /// After a link that was lost in the rounds: RESUME on a new control lane, RESUMED for `round`,
  /// which is the open one or, when its acknowledgement was lost, the next.
  void resume(std::uint32_t round);
  /// VOID for what was sent in the open round, but for `left_out` of its pages, and VOID_END.
  void void_open_round(std::size_t left_out = 0);
  /// VOIDED, and all lanes join again.
  void rejoin();

  /// After a lost link: ASK on a new connection, whose number is given back.
  std::uint16_t ask();
  [[nodiscard]] const BootId& target_boot() const { return welcome_.boot; }

  // What a test may break.
  std::uint32_t lane_round(std::uint16_t lane) const { return rounds_.at(lane); }
  void set_lane_round(std::uint16_t lane, std::uint32_t round) { rounds_.at(lane) = round; }
  void skip_sequence(std::uint16_t connection) { ++sequence_[{connection, Direction::kToTarget}]; }
  [[nodiscard]] std::uint64_t digest() const { return digest_; }
  void spoil_digest() { ++digest_; }
  /// The next batch() says the hash of another content.
  void spoil_hash() { spoiled_hash_ = 1; }
  void spoil_proof() { secret_.bytes[5] ^= std::byte{1}; }
  /// Frames as made so far: one a record.
  [[nodiscard]] std::vector<CaptureFrame>& frames() { return frames_; }
  /// As if those pages had been sent and lost on the way.
  void lose_last_pages(std::uint16_t lane);

  /// All of it as a capture file.
  [[nodiscard]] std::vector<std::byte> capture() const;

 private:
  template <typename Message>
  void put(const Message& message, std::uint16_t connection, Direction direction);
  void put_bytes(std::span<const std::byte> bytes, std::uint16_t connection, Direction direction);
  void apply(std::uint16_t lane, RegionHandle region, std::uint64_t page, std::uint64_t hash);
  std::uint64_t take_content(RegionHandle region, const Item& item);
  void complete_round();
  void join(std::uint16_t lane, LaneRole role = LaneRole::kBulk);

  Hello hello_;
  Welcome welcome_;
  JoinSecret secret_;
  Hasher hasher_;
  std::optional<PageDigest> page_digest_;
  std::map<std::pair<std::uint16_t, Direction>, std::uint64_t> sequence_;
  std::vector<CaptureFrame> frames_;

  std::map<std::uint32_t, Region> regions_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::uint64_t> hashes_;
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::array<std::byte, kPageSize>> contents_;
  std::uint64_t spoiled_hash_ = 0;
  std::map<std::uint16_t, std::uint32_t> rounds_;   // By lane.
  std::map<std::uint16_t, Barrier> open_barriers_;  // What each lane carried in its open round.
  std::vector<Regions> pending_;
  std::uint64_t digest_ = 0;
  std::set<std::pair<std::uint32_t, std::uint64_t>> open_pages_;  // Sent in the open round.
  std::uint32_t acknowledged_ = 0;                                // Rounds.
  std::uint64_t acknowledged_digest_ = 0;
  std::uint16_t first_connection_ = 0;  // Of the control lane; the others follow.
  std::uint16_t next_connection_;
};

}  // namespace migrate::wire::testing
