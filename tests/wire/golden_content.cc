// Golden streams of what is in a batch: deltas, duplicates and packed content.
#include <initializer_list>
#include <string>
#include <utility>

#include "tests/wire/golden_streams.hpp"
#include "tests/wire/stream_maker.hpp"

namespace migrate::wire::testing {
namespace {

using Item = StreamMaker::Item;

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Item raw(std::uint64_t page, int fill) {
  return {PageEncoding::kRaw, page, static_cast<std::byte>(fill)};
}
Item zero(std::uint64_t page) { return {PageEncoding::kZeros, page}; }
Item delta(std::uint64_t page, std::initializer_list<int> patch) {
  return {PageEncoding::kDelta, page, {}, bytes_of(patch)};
}
Item duplicate(std::uint64_t page, std::uint32_t region, std::uint64_t original) {
  return {PageEncoding::kDuplicate, page, {}, {}, {RegionHandle{region}, original}};
}

void send_round_0(StreamMaker& maker) {
  maker.batch(1, 0, {raw(0, 0x11), raw(2, 0x22), raw(3, 0x33)});
  maker.batch(2, 0, {raw(8, 0x88)});
}

StreamMaker not_opened() {
  const auto memory = [](std::uint32_t id, std::uint64_t first, std::uint64_t count) {
    return Region{{0, id, 0}, {GuestPage{first}, count}, Backing::kMemfd};
  };
  return StreamMaker({memory(0, 0, 16), memory(1, 1 << 20, 8)}, 2);
}

StreamMaker opened(bool agreed = true) {
  StreamMaker maker = not_opened();
  if (agreed) maker.agree_all_content();
  maker.open();
  send_round_0(maker);
  return maker;
}

/// Round 0 is complete: region 0 has pages 0, 2, 3 and 8.
StreamMaker begun(bool agreed = true) {
  StreamMaker maker = opened(agreed);
  maker.end_round(false);
  return maker;
}

// ---- Valid.

StreamMaker encodings() {
  StreamMaker maker = begun();
  // Page 0 changes at its first, at its last and at two bytes between; page 9 was never sent.
  maker.batch(1, 0,
              {delta(0, {0, 1, 1, 0xB7, 2, 2, 5, 6, 0xC5, 0x1D, 1, 7}), duplicate(1, 0, 3), zero(2),
               delta(9, {0x10, 3, 0xA, 0xB, 0xC})});
  maker.batch(2, 1, {duplicate(2, 0, 8), raw(3, 0x99)});
  maker.end_round(false);
  // What was a duplicate changes; the page it was of goes away; an equal page of the same region.
  maker.batch(1, 0, {delta(1, {0xFF, 0x1F, 1, 0xEE}), zero(3), duplicate(4, 0, 9)});
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  maker.ready(1);
  maker.send(Commit{1});
  maker.reply(Started{1, 45});
  maker.send(Released{1});
  return maker;
}

StreamMaker packed() {
  StreamMaker maker = begun();
  maker.batch(1, 0, {delta(0, {0, 1, 1}), duplicate(1, 0, 3), zero(2), raw(4, 0x44), raw(5, 0x55)},
              run_frame);
  maker.batch(1, 1, {raw(0, 0x66)}, run_frame);
  std::vector<std::byte> whole(4 + 508, std::byte{0x77});
  whole[0] = std::byte{0x84};  // 4 + 28 * 128 = 3588 bytes stay,
  whole[1] = std::byte{0x1C};
  whole[2] = std::byte{0xFC};  // and 508 change: to the page's end.
  whole[3] = std::byte{0x03};
  maker.batch(2, 1, {{PageEncoding::kDelta, 1, {}, whole}}, run_frame);
  maker.end_round(true);
  maker.state(40);
  maker.offer(1);
  maker.ready(1);
  maker.send(Commit{1});
  maker.reply(Started{1, 45});
  maker.send(Released{1});
  return maker;
}

// ---- Invalid: a batch in round 1 with one thing wrong. The round is ended where the verifier can
// see it only then.

StreamMaker with(const Item& item, StreamMaker::Pack pack = nullptr) {
  StreamMaker maker = begun();
  maker.batch(1, 0, {item}, pack);
  maker.end_round(false);
  return maker;
}

StreamMaker delta_beyond_the_page() { return with(delta(2, {0xFF, 0x1F, 2, 1, 1})); }
StreamMaker adjacent_operations() { return with(delta(2, {5, 1, 1, 0, 1, 2})); }
StreamMaker overlong_varint() { return with(delta(2, {0x85, 0, 1, 1})); }
StreamMaker cut_delta() { return with(delta(2, {5, 3, 1, 1})); }

StreamMaker wrong_length_of_patch() {
  StreamMaker maker = begun();
  maker.batch(1, 0, {delta(2, {5, 1, 1})});
  // Behind header, batch header and one entry.
  maker.frames().back().bytes[24 + 24 + 16] = std::byte{4};
  return maker;
}

StreamMaker delta_of_another_page() {
  StreamMaker maker = begun();
  maker.spoil_hash();
  maker.batch(1, 0, {delta(2, {5, 1, 1})});
  maker.end_round(false);
  return maker;
}

StreamMaker duplicate_of_another_page() {
  StreamMaker maker = begun();
  maker.spoil_hash();
  maker.batch(1, 0, {duplicate(2, 0, 3)});
  maker.end_round(false);
  return maker;
}

/// The page it names was sent in the same round, on the other lane.
StreamMaker of_page_in_round() {
  StreamMaker maker = opened();
  maker.batch(1, 0, {duplicate(9, 0, 8)});
  maker.end_round(false);
  return maker;
}

StreamMaker of_page_not_there() { return with(duplicate(2, 1, 8)); }

StreamMaker delta_of_void_page() {
  StreamMaker maker = not_opened();
  maker.agree_all_content();
  maker.allow_resume();
  maker.open();
  maker.send(ResumeTerms{30'000});
  send_round_0(maker);
  maker.end_round(false);
  maker.batch(1, 0, {raw(2, 0x23)});
  maker.resume(1);
  maker.void_open_round();
  maker.rejoin();
  maker.batch(1, 0, {delta(2, {5, 1, 1})});
  maker.end_round(false);
  return maker;
}

std::vector<std::byte> two_frames(std::span<const std::byte> content) {
  auto frame = run_frame(content);
  const auto other = run_frame(content.first(20));
  frame.insert(frame.end(), other.begin(), other.end());
  return frame;
}
StreamMaker second_frame() { return with(raw(2, 0x22), two_frames); }

std::vector<std::byte> without_size(std::span<const std::byte> content) {
  auto frame = run_frame(content);
  frame[4] = std::byte{0};  // No content size; then the byte that follows is the window.
  return frame;
}
StreamMaker no_content_size() { return with(raw(2, 0x22), without_size); }

std::vector<std::byte> one_byte_more(std::span<const std::byte> content) {
  std::vector<std::byte> longer(content.begin(), content.end());
  longer.push_back(longer.back());
  return run_frame(longer);
}
StreamMaker size_beyond_the_table() { return with(raw(2, 0x22), one_byte_more); }

/// Three bytes, the least that the table allows, in a frame of fifteen.
std::vector<std::byte> longer_than_unpacked(std::span<const std::byte> content) {
  return run_frame(content.first(3));
}
StreamMaker not_smaller() {
  StreamMaker maker = begun();
  std::vector<std::byte> patch = bytes_of({0, 0x40});
  patch.resize(2 + 64, std::byte{9});
  maker.batch(1, 0, {{PageEncoding::kDelta, 2, {}, patch}}, longer_than_unpacked);
  return maker;
}

StreamMaker encoding_not_agreed() {
  StreamMaker maker = begun(false);
  maker.batch(1, 0, {delta(2, {5, 1, 1})});
  return maker;
}

StreamMaker codec_not_agreed() {
  StreamMaker maker = begun(false);
  maker.batch(1, 0, {raw(2, 0x23)}, run_frame);
  return maker;
}

}  // namespace

void add_content_streams(std::vector<GoldenFile>& files) {
  const std::pair<const char*, StreamMaker (*)()> streams[] = {
      {"valid/encodings", encodings},
      {"valid/packed", packed},
      {"invalid/patch.delta_beyond_the_page", delta_beyond_the_page},
      {"invalid/patch.adjacent_operations", adjacent_operations},
      {"invalid/patch.overlong_varint", overlong_varint},
      {"invalid/patch.cut_delta", cut_delta},
      {"invalid/patch.wrong_length_of_patch", wrong_length_of_patch},
      {"invalid/page-hash.delta_of_another_page", delta_of_another_page},
      {"invalid/page-hash.duplicate_of_another_page", duplicate_of_another_page},
      {"invalid/duplicate.of_page_in_round", of_page_in_round},
      {"invalid/duplicate.of_page_not_there", of_page_not_there},
      {"invalid/resume.delta_of_void_page", delta_of_void_page},
      {"invalid/packed.second_frame", second_frame},
      {"invalid/packed.no_content_size", no_content_size},
      {"invalid/packed.size_beyond_the_table", size_beyond_the_table},
      {"invalid/packed.not_smaller", not_smaller},
      {"invalid/page-table.encoding_not_agreed", encoding_not_agreed},
      {"invalid/page-table.codec_not_agreed", codec_not_agreed},
  };
  for (const auto& [name, make] : streams) {
    files.push_back({std::string(name) + ".capture", make().capture()});
  }
}

}  // namespace migrate::wire::testing
