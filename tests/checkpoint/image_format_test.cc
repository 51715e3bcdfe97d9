#include "checkpoint/image_format.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

namespace migrate::checkpoint {
namespace {

ImageHeader sample_header() {
  ImageHeader header;
  header.id.bytes[0] = std::byte{7};
  header.id.bytes[15] = std::byte{9};
  // A secret that is mostly zeros would hide what XXH3 multiplies with it.
  std::mt19937_64 random(3);
  for (std::byte& byte : header.secret.first.bytes) byte = std::byte(random());
  for (std::byte& byte : header.secret.second.bytes) byte = std::byte(random());
  header.created_ns = 123456789;
  return header;
}

ImageDescription sample_description() {
  ImageDescription description;
  description.guest = {.kind = GuestKind::kVm,
                       .name = "a",
                       .vcpus = 2,
                       .regions = {{{0, 0, 0}, {{0}, 5000}, Backing::kMemfd},
                                   {{0, 1, 0}, {{1 << 20}, 1}, Backing::kAnonymous}},
                       .properties = {{{"kvm.cpu", 3, true}, {std::byte{1}, std::byte{2}}}}};
  description.run_state = RunState::kPaused;
  description.host = "Linux";
  description.parent_path = "base.img";
  return description;
}

TEST(ImageHeader, ComesBackAsItWas) {
  ImageHeader header = sample_header();
  header.parent.bytes[4] = std::byte{4};
  const auto block = header_block(header);
  ASSERT_EQ(block.size(), kBlockAlign);
  const auto parsed = parse_header(block);
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(parsed->id, header.id);
  EXPECT_EQ(parsed->parent, header.parent);
  EXPECT_EQ(parsed->secret, header.secret);
  EXPECT_EQ(parsed->created_ns, header.created_ns);
}

TEST(ImageHeader, EveryFlippedBitIsNoticed) {
  const auto block = header_block(sample_header());
  for (std::size_t byte = 0; byte < kBlockHeadBytes + 248; ++byte) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      auto flipped = block;
      flipped[byte] ^= std::byte{1} << bit;
      EXPECT_FALSE(parse_header(flipped)) << byte << "." << bit;
    }
  }
}

TEST(ImageHeader, AnotherVersionIsTold) {
  auto block = header_block(sample_header());
  block[kBlockHeadBytes] = std::byte{2};
  const auto parsed = parse_header(block);
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, ErrorCode::kVersionMismatch);
}

TEST(ImageTrailer, ComesBackAndEveryFlippedBitIsNoticed) {
  const Trailer trailer{.directory_at = 8192,
                        .directory_bytes = 4096,
                        .file_bytes = 16384,
                        .digest = 77,
                        .id = sample_header().id,
                        .blocks = 4};
  const auto block = trailer_block(trailer, 12288);
  const auto parsed = parse_trailer(block, 12288);
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(parsed->directory_at, 8192u);
  EXPECT_EQ(parsed->digest, 77u);
  EXPECT_EQ(parsed->id, trailer.id);
  EXPECT_FALSE(parse_trailer(block, 16384));
  for (std::size_t byte = 0; byte < kBlockHeadBytes + 56; ++byte) {
    auto flipped = block;
    flipped[byte] ^= std::byte{16};
    EXPECT_FALSE(parse_trailer(flipped, 12288)) << byte;
  }
}

TEST(ImageDescription, ComesBackAsItWas) {
  const ImageDescription description = sample_description();
  const auto payload = description_payload(description);
  ASSERT_TRUE(payload);
  const auto parsed = parse_description(*payload);
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(parsed->guest.regions, description.guest.regions);
  EXPECT_EQ(parsed->guest.name, "a");
  EXPECT_EQ(parsed->guest.vcpus, 2u);
  ASSERT_EQ(parsed->guest.properties.size(), 1u);
  EXPECT_EQ(parsed->guest.properties[0].info.name, "kvm.cpu");
  EXPECT_EQ(parsed->guest.properties[0].body, description.guest.properties[0].body);
  EXPECT_EQ(parsed->run_state, RunState::kPaused);
  EXPECT_EQ(parsed->parent_path, "base.img");
}

TEST(ImageDescription, WhatIsCutShortOrGoesOnIsAnError) {
  auto payload = *description_payload(sample_description());
  for (std::size_t bytes = 0; bytes < payload.size(); ++bytes) {
    EXPECT_FALSE(parse_description(std::span(payload).first(bytes))) << bytes;
  }
  payload.push_back({});
  EXPECT_FALSE(parse_description(payload));
}

TEST(ImageDescription, RegionsThatCannotBeToldApartAreAnError) {
  const std::vector<std::byte> sample = *description_payload(sample_description());
  constexpr std::size_t kSecondRegion = 64;
  std::vector<std::byte> payload = sample;
  ASSERT_EQ(payload[kSecondRegion + 4], std::byte{1});
  payload[kSecondRegion + 4] = std::byte{0};
  EXPECT_FALSE(parse_description(payload)) << "the same id";
  payload = sample;
  ASSERT_EQ(payload[kSecondRegion + 18], std::byte{0x10});
  payload[kSecondRegion + 18] = std::byte{0};
  EXPECT_FALSE(parse_description(payload)) << "the same pages";
  payload[kSecondRegion] = std::byte{1};
  EXPECT_TRUE(parse_description(payload)) << "of another space";
}

TEST(ImageDescription, WhatNoReaderTakesIsNotWritten) {
  ImageDescription description = sample_description();
  description.guest.regions[1].range.first.number = 4999;
  EXPECT_FALSE(description_payload(description)) << "overlapping regions";
  description.guest.regions[1].id.space = 1;
  EXPECT_TRUE(description_payload(description));
  description.guest.regions[1].id = description.guest.regions[0].id;
  description.guest.regions[1].range.first.number = 5000;
  EXPECT_FALSE(description_payload(description)) << "the same id";
  description = sample_description();
  description.guest.regions[1].range.count = std::uint64_t{1} << 52;
  EXPECT_FALSE(description_payload(description)) << "more than all memory there is";
}

TEST(ImageValues, AnyBytesAreAnAnswerOrAnError) {
  std::mt19937_64 random(1);
  const auto good = *description_payload(sample_description());
  for (int i = 0; i < 20'000; ++i) {
    auto bytes = good;
    for (int flips = 0; flips < 3; ++flips) bytes[random() % bytes.size()] = std::byte(random());
    if (auto parsed = parse_description(bytes)) {
      EXPECT_FALSE(parsed->guest.regions.empty());
    }
    static_cast<void>(parse_state(bytes));
    static_cast<void>(parse_directory(bytes, sample_description().guest.regions));
  }
}

TEST(ImageState, ComesBackAsItWas) {
  const std::vector<Section> sections = {{{"a", 1, true}, {}},
                                         {{"b.c-d_e", 9, false}, std::vector<std::byte>(70'000)}};
  const auto parsed = parse_state(state_payload(sections));
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  ASSERT_EQ(parsed->size(), 2u);
  EXPECT_EQ((*parsed)[1].info.name, "b.c-d_e");
  EXPECT_EQ((*parsed)[1].info.version, 9u);
  EXPECT_FALSE((*parsed)[1].info.mandatory);
  EXPECT_EQ((*parsed)[1].body.size(), 70'000u);
}

TEST(ImageDirectory, ComesBackAndHasToFitTheRegions) {
  const auto regions = sample_description().guest.regions;
  Directory directory{.digest = 5,
                      .pages = {1, 2, 3, 4},
                      .state_at = 8192,
                      .state_bytes = 6,
                      .regions = {{{4096, 11}, {Directory::kAllParent, 0}}, {{0, 0}}}};
  const auto payload = directory_payload(directory);
  const auto parsed = parse_directory(payload, regions);
  ASSERT_TRUE(parsed) << parsed.error().to_text();
  EXPECT_EQ(parsed->pages.parent, 4u);
  EXPECT_EQ(parsed->regions[0][0].hash, 11u);
  EXPECT_EQ(parsed->regions[0][1].where, Directory::kAllParent);
  EXPECT_FALSE(parse_directory(payload, std::span(regions).first(1)));
  directory.regions[1].clear();
  EXPECT_FALSE(parse_directory(directory_payload(directory), regions));
}

TEST(PageLocation, SaysWhereAPageIs) {
  EXPECT_TRUE(PageLocation::zero().is_zero());
  EXPECT_TRUE(PageLocation::parent().is_parent());
  const auto raw = PageLocation::raw(8192);
  EXPECT_TRUE(raw.is_raw() && raw.offset() == 8192 && raw.valid());
  const auto packed = PageLocation::packed(4096, 4031);
  EXPECT_TRUE(!packed.is_raw() && packed.offset() == 4096 && packed.slot() == 4031);
  EXPECT_TRUE(packed.valid());
  EXPECT_FALSE(PageLocation{2}.valid());
  EXPECT_FALSE(PageLocation{4096 + 4032}.valid());
}

BlockHead pages_head() {
  return {.type = BlockType::kRaw,
          .region = 1,
          .length = 4096 + 2 * 4096,
          .offset = 4096,
          .image = 5,
          .count = 2,
          .payload = 2 * 4096};
}

TEST(Blocks, AHeadComesBackAndIsRefusedElsewhere) {
  std::vector<std::byte> block(3 * 4096);
  const wire::Hasher hasher(sample_header().hasher());
  seal_block(pages_head(), hasher, block);
  const auto head = get_head(std::span(block).first<kBlockHeadBytes>(), 4096, 5);
  ASSERT_TRUE(head) << head.error().to_text();
  EXPECT_EQ(head->count, 2u);
  EXPECT_EQ(head->payload_at(), 4096u);
  EXPECT_TRUE(check_block(*head, hasher, block));
  EXPECT_FALSE(get_head(std::span(block).first<kBlockHeadBytes>(), 8192, 5));
  EXPECT_FALSE(get_head(std::span(block).first<kBlockHeadBytes>(), 4096, 6));
  EXPECT_TRUE(get_head(std::span(block).first<kBlockHeadBytes>(), 4096, 0));
}

TEST(Blocks, EveryFlippedBitOfHeadAndTableIsNoticed) {
  std::vector<std::byte> block(3 * 4096);
  const wire::Hasher hasher(sample_header().hasher());
  seal_block(pages_head(), hasher, block);
  for (std::size_t byte = 0; byte < kBlockHeadBytes + 2 * kTableEntryBytes; ++byte) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      auto flipped = block;
      flipped[byte] ^= std::byte{1} << bit;
      const auto head = get_head(std::span(flipped).first<kBlockHeadBytes>(), 4096, 0);
      EXPECT_FALSE(head && (head->length != 3 * 4096 || check_block(*head, hasher, flipped)))
          << byte << "." << bit;
    }
  }
}

TEST(Blocks, AnUnknownTypeIsSkippedOnlyWhereItSaysSo) {
  std::array<std::byte, kBlockHeadBytes> bytes;
  put_head({.type = static_cast<BlockType>(99), .length = 4096}, bytes);
  const auto refused = get_head(bytes, 0, 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  put_head({.type = static_cast<BlockType>(99 | kOptionalBlock), .length = 4096}, bytes);
  EXPECT_TRUE(get_head(bytes, 0, 0));
}

}  // namespace
}  // namespace migrate::checkpoint
