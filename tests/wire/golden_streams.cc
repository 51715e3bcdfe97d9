#include "tests/wire/golden_streams.hpp"

#include <cstdio>
#include <functional>
#include <utility>

#include "tests/wire/stream_maker.hpp"

namespace migrate::wire::testing {
namespace {

Region memory(std::uint32_t id, std::uint64_t first, std::uint64_t count) {
  return {{0, id, 0}, {GuestPage{first}, count}, Backing::kMemfd};
}

void finish(StreamMaker& maker, std::uint32_t attempt, std::uint16_t connection = 0) {
  maker.send(Commit{attempt}, connection);
  maker.reply(Started{attempt, 45}, connection);
  maker.send(Released{attempt}, connection);
}

// ---- Valid streams.

StreamMaker stop_copy() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.pages(1, 0, {{0, 2, 1}, {4, 4, std::nullopt}});
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  maker.ready(1);
  finish(maker, 1);
  return maker;
}

/// Page 3 of region 0 is data, then zero, then data; region 1 goes, region 2 comes.
StreamMaker precopy() {
  StreamMaker maker({memory(0, 0, 16), memory(1, 1 << 20, 20000)}, 2);
  maker.open();
  maker.pages(1, 0, {{0, 1, 1}, {3, 1, 1}, {5, 3, std::nullopt}});
  maker.pages(2, 0, {{8, 1, 1}});
  maker.pages(2, 1, {{0, 1, 1}, {1, 19999, std::nullopt}});
  maker.send(Ping{7, 1000});
  maker.reply(Pong{7, 1000});
  maker.change_regions({RegionHandle{2}, {memory(2, 1 << 21, 4)}, {RegionHandle{1}}});
  maker.end_round(false);

  maker.pages(2, 0, {{3, 1, std::nullopt}});
  maker.send_raw(static_cast<RecordType>(0x8123), std::vector<std::byte>(5, std::byte{9}));
  maker.pages(1, 2, {{0, 1, 2}});
  maker.end_round(false);

  maker.pages(1, 0, {{0, 1, 3}, {3, 1, 3}});
  maker.state(40);
  maker.end_round(true);
  maker.offer(1);
  maker.ready(1);
  finish(maker, 1);
  return maker;
}

/// A slow link: both sides say that they are there, before, between and after all else.
StreamMaker alive() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.reply(Alive{});
  maker.send(Alive{});
  maker.pages(1, 0, {{0, 2, 1}});
  maker.send(Alive{});
  maker.end_round_on_lane(1, false);
  maker.reply(Alive{});
  maker.end_round_on_lane(0, false);
  maker.reply(Alive{});
  maker.reply(Alive{});
  maker.acknowledge();
  maker.pages(1, 0, {{0, 1, 2}});
  maker.end_round(true);
  maker.send(SectionBegin{{"device", 1, true}});
  maker.send(Alive{});
  maker.send(SectionEnd{0});
  maker.send(StateEnd{1, 0});
  maker.offer(1);
  maker.reply(Alive{});
  maker.ready(1);
  finish(maker, 1);
  return maker;
}

/// READY of attempt 1 comes too late; attempt 2 is cut after COMMIT and asked for.
StreamMaker aborted_attempt() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.pages(1, 0, {{0, 1, 1}});
  maker.end_round(false);
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  const Error late = make_error(ErrorCode::kTimeout, "READY did not come within 20 ms");
  maker.send(Abort{1, AbortScope::kAttempt, late});
  maker.ready(1);
  maker.pages(1, 0, {{1, 1, 1}});
  maker.end_round(false);
  maker.pages(1, 0, {{1, 1, 2}});
  maker.end_round(true);
  maker.state(40);
  maker.offer(2);
  maker.ready(2);
  maker.send(Commit{2});
  const std::uint16_t asked = maker.ask();
  maker.reply(Answer{JournalState::kReady, 2, maker.target_boot(), true}, asked);
  finish(maker, 2, asked);
  return maker;
}

StreamMaker given_up() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.allow_attempts();
  maker.open();
  maker.pages(1, 0, {{0, 3, 1}});
  maker.end_round(false);
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  const Error late = make_error(ErrorCode::kTimeout, "READY did not come within 20 ms");
  maker.send(Abort{1, AbortScope::kAttempt, late});
  maker.ready(1);
  return maker;
}

/// Loading the state of the first attempt has written to page 1, which the guest does not write.
StreamMaker forgotten() {
  StreamMaker maker = given_up();
  maker.forget(1, 0, 1);
  maker.pages(1, 0, {{1, 1, 1}, {5, 1, 4}});
  maker.end_round(false);
  maker.end_round(true);
  maker.state(40);
  maker.offer(2);
  maker.ready(2);
  finish(maker, 2);
  return maker;
}

/// The page does not come again.
StreamMaker forgotten_at_offer() {
  StreamMaker maker = given_up();
  maker.forget(1, 0, 1);
  maker.end_round(true);
  maker.state(40);
  maker.offer(2);
  return maker;
}

StreamMaker round_before_account() {
  StreamMaker maker = given_up();
  maker.pages(1, 0, {{1, 1, 1}});
  return maker;
}

StreamMaker void_unasked() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.pages(1, 0, {{0, 1, 1}});
  maker.end_round(false);
  maker.reply(Void{RegionHandle{0}, 0, {1}});
  return maker;
}

StreamMaker account_digest_mismatch() {
  StreamMaker maker = given_up();
  maker.spoil_digest();
  maker.forget(1, 0, 1);
  return maker;
}

StreamMaker committed() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.pages(1, 0, {{7, 1, 1}});
  maker.end_round(true);
  maker.state(0);
  maker.offer(1);
  maker.ready(1);
  maker.send(Commit{1});
  return maker;
}

/// The lease of attempt 1 runs out before COMMIT arrives.
StreamMaker discarded() {
  StreamMaker maker = committed();
  maker.reply(Discarded{
      1, AbortScope::kSession,
      make_error(ErrorCode::kLeaseExpired, "COMMIT came after the lease's end").on(Side::kTarget)});
  return maker;
}

/// STARTED is lost with the link; the target says it again when asked.
StreamMaker asked_after_start() {
  StreamMaker maker = committed();
  const std::uint16_t connection = maker.ask();
  maker.reply(Started{1, 45}, connection);
  maker.send(Released{1}, connection);
  return maker;
}

/// The start fails after a vCPU may have run.
StreamMaker lost() {
  StreamMaker maker = committed();
  maker.reply(Answer{JournalState::kStarting, 1, maker.target_boot(), false});
  maker.send(Released{1});
  return maker;
}

StreamMaker refused() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.reply(ErrorRecord{make_error(ErrorCode::kNameTaken, "a guest named demo is here already")
                              .at(Phase::kPreflight)
                              .on(Side::kTarget)
                              .advise("choose another name with recv --name")});
  return maker;
}

/// Round 0 is acknowledged; the link is lost in round 1, and region 2 does not come yet.
StreamMaker cut_in_round_1() {
  StreamMaker maker({memory(0, 0, 16), memory(1, 1 << 20, 200)}, 2);
  maker.allow_resume();
  maker.open();
  maker.send(ResumeTerms{30'000});
  maker.pages(1, 0, {{0, 1, 1}, {3, 1, 1}});
  maker.pages(2, 1, {{130, 1, 1}});
  maker.end_round(false);
  maker.pages(1, 0, {{0, 1, 2}, {3, 1, std::nullopt}});
  maker.pages(2, 1, {{7, 1, 1}, {129, 3, std::nullopt}});
  maker.change_regions({RegionHandle{2}, {memory(2, 1 << 21, 4)}, {}});
  return maker;
}

void finish_resumed(StreamMaker& maker) {
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  maker.ready(1);
  finish(maker, 1);
}

/// The link is lost in round 1, again while the void pages are told, and after round 1, before its
/// acknowledgement. Page 3, void, is zero and then data; page 0 comes a round later than it was
/// sent first.
StreamMaker resumed() {
  StreamMaker maker = cut_in_round_1();
  maker.resume(1);
  maker.void_open_round();
  maker.resume(1);
  maker.void_open_round();
  maker.rejoin();
  maker.pages(2, 0, {{3, 1, std::nullopt}});
  maker.pages(1, 1, {{7, 1, 1}, {129, 2, std::nullopt}, {131, 1, 1}});
  maker.change_regions({RegionHandle{2}, {memory(2, 1 << 21, 4)}, {RegionHandle{1}}});
  maker.end_round_on_lane(1, false);
  maker.end_round_on_lane(2, false);
  maker.end_round_on_lane(0, false);
  maker.resume(2);
  maker.void_open_round();
  maker.rejoin();
  maker.pages(1, 0, {{0, 1, 3}, {3, 1, 4}});
  maker.pages(1, 2, {{0, 1, 2}});
  finish_resumed(maker);
  return maker;
}

Forward frame_of(std::uint32_t card, std::size_t bytes) {
  return {card, std::vector<std::byte>(bytes, std::byte{7})};
}

/// Frames come to the guest at the source while it starts at the target, and a little longer.
StreamMaker forwarded() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.allow_forward();
  maker.open();
  maker.end_round(true);
  maker.state(0);
  maker.offer(1);
  maker.ready(1);
  maker.send(Commit{1});
  maker.send(frame_of(0, 60));
  maker.reply(Started{1, 45});
  maker.send(frame_of(1, 14));
  maker.send(Released{1});
  return maker;
}

// ---- Invalid streams: stop_copy() with one thing wrong.

StreamMaker forward_before_commit() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.allow_forward();
  maker.open();
  maker.end_round(true);
  maker.state(0);
  maker.offer(1);
  maker.ready(1);
  maker.send(frame_of(0, 60));
  return maker;
}

StreamMaker forward_unasked() {
  StreamMaker maker = committed();
  maker.send(frame_of(0, 60));
  return maker;
}

/// On a connection that asks what became of the guest.
StreamMaker forward_when_asking() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.allow_forward();
  maker.open();
  maker.end_round(true);
  maker.state(0);
  maker.offer(1);
  maker.ready(1);
  maker.send(Commit{1});
  const std::uint16_t connection = maker.ask();
  maker.reply(Started{1, 45}, connection);
  maker.send(frame_of(0, 60), connection);
  return maker;
}

/// The valid beginning: opened, one batch sent in round 0.
StreamMaker begun() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.open();
  maker.pages(1, 0, {{2, 1, 1}});
  return maker;
}

std::vector<std::byte>& last_frame(StreamMaker& maker) { return maker.frames().back().bytes; }

StreamMaker bad_checksum() {
  StreamMaker maker = begun();
  maker.end_round_on_lane(1, true);
  last_frame(maker)[20] ^= std::byte{4};
  return maker;
}

StreamMaker flipped_page_byte() {
  StreamMaker maker = begun();
  last_frame(maker).back() ^= std::byte{1};
  return maker;
}

StreamMaker alive_on_a_bulk_lane() {
  StreamMaker maker = begun();
  maker.send(Alive{}, 1);
  return maker;
}

StreamMaker alive_with_a_body() {
  StreamMaker maker = begun();
  maker.send(Alive{});
  last_frame(maker)[4] = std::byte{1};
  return maker;
}

StreamMaker page_twice() {
  StreamMaker maker = begun();
  maker.pages(1, 0, {{1, 3, std::nullopt}});
  return maker;
}

StreamMaker unknown_type() {
  StreamMaker maker = begun();
  maker.send_raw(static_cast<RecordType>(0x8099), std::vector<std::byte>(3));
  last_frame(maker)[1] = std::byte{0};
  return maker;
}

StreamMaker oversize_length() {
  StreamMaker maker = begun();
  maker.send(Ping{1, 2});
  last_frame(maker)[5] = std::byte{1};
  return maker;
}

StreamMaker wrong_sequence() {
  StreamMaker maker = begun();
  maker.skip_sequence(1);
  maker.end_round_on_lane(1, true);
  return maker;
}

StreamMaker digest_mismatch() {
  StreamMaker maker = begun();
  maker.end_round(true);
  maker.state(40);
  maker.spoil_digest();
  maker.offer(1);
  return maker;
}

StreamMaker stale_digest_of_target() {
  StreamMaker maker = begun();
  maker.end_round_on_lane(1, true);
  maker.end_round_on_lane(0, true);
  maker.spoil_digest();
  maker.acknowledge();
  return maker;
}

StreamMaker beyond_barrier() {
  StreamMaker maker = begun();
  maker.end_round_on_lane(1, false);
  maker.set_lane_round(1, 0);
  maker.pages(1, 0, {{3, 1, 1}});
  return maker;
}

StreamMaker lost_page() {
  StreamMaker maker = begun();
  maker.pages(1, 0, {{3, 1, 1}});
  maker.lose_last_pages(1);
  maker.end_round(true);
  return maker;
}

StreamMaker page_outside_region() {
  StreamMaker maker = begun();
  maker.pages(1, 0, {{7, 2, std::nullopt}});
  maker.end_round(true);
  return maker;
}

StreamMaker commit_before_ready() {
  StreamMaker maker = begun();
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  maker.send(Commit{1});
  return maker;
}

StreamMaker commit_after_abort() {
  StreamMaker maker = begun();
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  maker.ready(1);
  maker.send(Abort{1, AbortScope::kAttempt, make_error(ErrorCode::kTimeout, "too late")});
  maker.send(Commit{1});
  return maker;
}

StreamMaker wrong_proof() {
  StreamMaker maker({memory(0, 0, 8)}, 1);
  maker.spoil_proof();
  maker.open();
  return maker;
}

StreamMaker truncated() {
  StreamMaker maker = stop_copy();
  last_frame(maker).resize(last_frame(maker).size() - 2);
  return maker;
}

StreamMaker incomplete() {
  StreamMaker maker = stop_copy();
  maker.frames().pop_back();
  return maker;
}

StreamMaker page_not_void() {
  StreamMaker maker = cut_in_round_1();
  maker.resume(1);
  maker.void_open_round(1);
  return maker;
}

StreamMaker void_at_offer() {
  StreamMaker maker = cut_in_round_1();
  maker.resume(1);
  maker.void_open_round();
  maker.rejoin();
  maker.pages(1, 0, {{0, 1, 2}});
  finish_resumed(maker);
  return maker;
}

StreamMaker barrier_before_voided() {
  StreamMaker maker = cut_in_round_1();
  maker.resume(1);
  maker.end_round_on_lane(0, false);
  return maker;
}

/// The target claims a round of which not all was sent.
StreamMaker resumed_too_far() {
  StreamMaker maker = cut_in_round_1();
  maker.resume(2);
  return maker;
}

StreamMaker void_digest_mismatch() {
  StreamMaker maker = cut_in_round_1();
  maker.resume(1);
  maker.void_open_round();
  maker.spoil_digest();
  maker.rejoin();
  return maker;
}

StreamMaker resume_without_proof() {
  StreamMaker maker = cut_in_round_1();
  maker.spoil_proof();
  maker.resume(1);
  return maker;
}

/// "length default-secret custom-secret" a line; the Python test makes the same input and secret.
GoldenFile vectors() {
  SessionRandom first;
  SessionRandom second;
  for (std::size_t i = 0; i < 96; ++i) {
    first.bytes[i] = static_cast<std::byte>((i * 37 + 11) ^ (i >> 2));
    second.bytes[i] = static_cast<std::byte>(((i + 96) * 37 + 11) ^ ((i + 96) >> 2));
  }
  const Hasher keyed(first, second);
  std::vector<std::byte> data(8192);
  for (std::size_t i = 0; i < data.size(); ++i) {
    data[i] = static_cast<std::byte>((i * i * 7 + i * 3 + 1) >> 3);
  }
  GoldenFile file{"xxh3_vectors.txt", {}};
  for (std::size_t size = 0; size <= data.size(); size += size < 260 ? 1 : size < 1100 ? 63 : 509) {
    const auto input = std::span(data).first(size);
    char line[64];
    const int length = std::snprintf(line, sizeof line, "%zu %016llx %016llx\n", size,
                                     static_cast<unsigned long long>(Hasher().hash(input)),
                                     static_cast<unsigned long long>(keyed.hash(input)));
    const auto bytes = std::as_bytes(std::span(line, static_cast<std::size_t>(length)));
    file.bytes.insert(file.bytes.end(), bytes.begin(), bytes.end());
  }
  return file;
}

}  // namespace

std::vector<GoldenFile> make_golden_files() {
  // An invalid stream's name says, before the dot, by which rule the verifier must refuse it.
  const std::pair<const char*, std::function<StreamMaker()>> streams[] = {
      {"valid/stop_copy", stop_copy},
      {"valid/precopy", precopy},
      {"valid/alive", alive},
      {"valid/aborted_attempt", aborted_attempt},
      {"valid/discarded", discarded},
      {"valid/forgotten", forgotten},
      {"valid/asked_after_start", asked_after_start},
      {"valid/forwarded", forwarded},
      {"valid/lost", lost},
      {"valid/refused", refused},
      {"valid/resumed", resumed},
      {"invalid/checksum.bad_checksum", bad_checksum},
      {"invalid/page-hash.flipped_page_byte", flipped_page_byte},
      {"invalid/page-twice.page_twice", page_twice},
      {"invalid/direction.alive_on_a_bulk_lane", alive_on_a_bulk_lane},
      {"invalid/length.alive_with_a_body", alive_with_a_body},
      {"invalid/type.unknown_type", unknown_type},
      {"invalid/length.oversize_length", oversize_length},
      {"invalid/sequence.wrong_sequence", wrong_sequence},
      {"invalid/digest.digest_mismatch", digest_mismatch},
      {"invalid/digest.stale_digest_of_target", stale_digest_of_target},
      {"invalid/round.beyond_barrier", beyond_barrier},
      {"invalid/round.lost_page", lost_page},
      {"invalid/region.page_outside_region", page_outside_region},
      {"invalid/handover.commit_before_ready", commit_before_ready},
      {"invalid/handover.commit_after_abort", commit_after_abort},
      {"invalid/forward.forward_before_commit", forward_before_commit},
      {"invalid/forward.forward_unasked", forward_unasked},
      {"invalid/direction.forward_when_asking", forward_when_asking},
      {"invalid/session.wrong_proof", wrong_proof},
      {"invalid/session.resume_without_proof", resume_without_proof},
      {"invalid/resume.page_not_void", page_not_void},
      {"invalid/resume.forgotten_at_offer", forgotten_at_offer},
      {"invalid/resume.void_unasked", void_unasked},
      {"invalid/handover.round_before_account", round_before_account},
      {"invalid/digest.account_digest_mismatch", account_digest_mismatch},
      {"invalid/resume.void_at_offer", void_at_offer},
      {"invalid/resume.barrier_before_voided", barrier_before_voided},
      {"invalid/resume.resumed_too_far", resumed_too_far},
      {"invalid/digest.void_digest_mismatch", void_digest_mismatch},
      {"invalid/truncated.truncated", truncated},
      {"invalid/incomplete.incomplete", incomplete},
  };
  std::vector<GoldenFile> files;
  for (const auto& [name, make] : streams) {
    files.push_back({std::string(name) + ".capture", make().capture()});
  }
  add_content_streams(files);
  add_lazy_streams(files);
  files.push_back(vectors());
  return files;
}

}  // namespace migrate::wire::testing
