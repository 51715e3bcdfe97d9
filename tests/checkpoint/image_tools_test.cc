#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "checkpoint/image_chain.hpp"
#include "migrate/image.hpp"
#include "tests/checkpoint/image_maker.hpp"
#include "tests/checkpoint/image_memory.hpp"
#include "tests/checkpoint/small_images.hpp"

namespace migrate::checkpoint::testing {
namespace {

using ::testing::HasSubstr;

class ImageTools : public ::testing::Test {
 protected:
  void SetUp() override {
    write_file(full_, small_.full.bytes);
    write_file(second_, small_.second.bytes);
    write_file(third_, small_.third.bytes);
  }

  ScratchFolder folder_;
  const SmallImages small_ = small_images();
  const std::string full_ = folder_.path("full.img");
  const std::string second_ = folder_.path("second.img");
  const std::string third_ = folder_.path("third.img");
};

TEST_F(ImageTools, InspectTellsOfTheWholeChain) {
  const auto info = inspect_image(third_);
  ASSERT_TRUE(info) << info.error().to_text();
  ASSERT_EQ(info->chain.size(), 3u);
  EXPECT_EQ(info->chain[0].path, third_);
  EXPECT_EQ(info->chain[0].parent, info->chain[1].id);
  EXPECT_EQ(info->chain[2].parent, "");
  EXPECT_EQ(info->chain[2].stored_pages, 9u);
  EXPECT_EQ(info->chain[2].duplicate_pages, 2u);
  EXPECT_EQ(info->chain[2].file_bytes, small_.full.bytes.size());
  EXPECT_EQ(info->guest.name, "small");
  EXPECT_EQ(info->run_state, RunState::kPaused);
  ASSERT_EQ(info->sections.size(), 2u);
  EXPECT_EQ(info->sections[1].bytes, 5000u);
}

TEST_F(ImageTools, VerifyReadsEveryFile) {
  for (const unsigned threads : {1u, 3u, 0u}) {
    const auto verified = verify_image(third_, {}, threads);
    ASSERT_TRUE(verified) << verified.error().to_text();
    EXPECT_EQ(verified->files, 3u);
    EXPECT_EQ(verified->pages, 10u + 3u + 1u);  // One page is stored twice.
    EXPECT_EQ(verified->bytes,
              small_.full.bytes.size() + small_.second.bytes.size() + small_.third.bytes.size());
  }
}

// Within a frame there are bits that mean nothing; all else is hashed, or must be zero.
TEST_F(ImageTools, AFlippedByteIsFoundOrChangesNothing) {
  const auto frame = [&](std::size_t at) {
    return std::any_of(small_.full.blocks.begin(), small_.full.blocks.end(),
                       [&](const BlockHead& head) {
                         return head.type == BlockType::kPacked && at >= head.offset &&
                                at < head.offset + head.length;
                       });
  };
  auto bytes = small_.full.bytes;
  for (std::size_t at = 0; at < bytes.size(); at += 397) {
    bytes[at] ^= std::byte{1};
    write_file(full_, bytes);
    const auto memory = memory_of(full_);
    if (memory) {
      EXPECT_EQ(*memory, small_.full.pages) << at;
    }
    const auto verified = verify_image(full_, {}, 1);
    EXPECT_TRUE(!verified || frame(at)) << at;
    if (verified) {
      EXPECT_TRUE(memory) << at;
    } else {
      EXPECT_THAT(verified.error().message, HasSubstr(full_)) << at;
    }
    bytes[at] ^= std::byte{1};
  }
}

TEST_F(ImageTools, DamageInAParentIsFound) {
  auto bytes = small_.full.bytes;
  const auto raw = std::find_if(small_.full.blocks.begin(), small_.full.blocks.end(),
                                [](const BlockHead& b) { return b.type == BlockType::kRaw; });
  ASSERT_NE(raw, small_.full.blocks.end());
  const std::size_t at = raw->offset + raw->payload_at() + 5;
  bytes[at] ^= std::byte{1};
  write_file(full_, bytes);
  const auto verified = verify_image(third_);
  ASSERT_FALSE(verified);
  EXPECT_EQ(verified.error().code, ErrorCode::kIntegrity);
  EXPECT_THAT(verified.error().message, HasSubstr("full.img"));
  EXPECT_THAT(verified.error().message, HasSubstr(std::to_string(at - 5)));
}

TEST_F(ImageTools, FlattenMakesOneFullImageOfAChain) {
  const std::string flat = folder_.path("flat.img");
  const auto written = flatten_image(third_, flat);
  ASSERT_TRUE(written) << written.error().to_text();
  std::filesystem::remove(full_);
  const auto verified = verify_image(flat);
  ASSERT_TRUE(verified) << verified.error().to_text();
  const auto memory = memory_of(flat);
  ASSERT_TRUE(memory) << memory.error().to_text();
  EXPECT_EQ(*memory, small_.third.pages);
  const auto info = inspect_image(flat);
  ASSERT_TRUE(info);
  ASSERT_EQ(info->chain.size(), 1u);
  EXPECT_EQ(info->chain[0].id, written->id);
  EXPECT_EQ(info->chain[0].id, to_text(small_.third.header.id));
  EXPECT_EQ(info->chain[0].created_ns, small_.third.header.created_ns);
  EXPECT_EQ(info->run_state, RunState::kPaused);
  EXPECT_EQ(info->sections.size(), 2u);
}

TEST_F(ImageTools, TheIndependentReaderTakesWhatIsWritten) {
  for (const auto mode : {CompressionChoice::Mode::kNone, CompressionChoice::Mode::kZstd}) {
    const std::string flat = folder_.path("flat.img");
    const auto written = flatten_image(third_, flat, {}, {.mode = mode, .level = 1});
    ASSERT_TRUE(written) << written.error().to_text();
    const std::string command = std::string(MIGRATE_VERIFY_IMAGE) + " " + flat + " > /dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
}

TEST_F(ImageTools, FlattenMayReplaceTheImage) {
  ASSERT_TRUE(flatten_image(third_, third_));
  std::filesystem::remove(full_);
  std::filesystem::remove(second_);
  const auto memory = memory_of(third_);
  ASSERT_TRUE(memory) << memory.error().to_text();
  EXPECT_EQ(*memory, small_.third.pages);
}

TEST_F(ImageTools, WhatIsBasedOnAMergedImageStaysSo) {
  ASSERT_TRUE(flatten_image(second_, second_));
  std::filesystem::remove(full_);
  const auto verified = verify_image(third_);
  ASSERT_TRUE(verified) << verified.error().to_text();
  EXPECT_EQ(verified->files, 2u);
  const auto memory = memory_of(third_);
  ASSERT_TRUE(memory) << memory.error().to_text();
  EXPECT_EQ(*memory, small_.third.pages);
}

TEST_F(ImageTools, FlattenOfADamagedChainLeavesNothing) {
  auto bytes = small_.full.bytes;
  const auto raw = std::find_if(small_.full.blocks.begin(), small_.full.blocks.end(),
                                [](const BlockHead& b) { return b.type == BlockType::kRaw; });
  ASSERT_NE(raw, small_.full.blocks.end());
  bytes[raw->offset + raw->payload_at() + kPageSize] ^= std::byte{1};
  write_file(full_, bytes);
  const auto written = flatten_image(third_, folder_.path("flat.img"));
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::kIntegrity);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.folder()), {}), 3);
}

}  // namespace
}  // namespace migrate::checkpoint::testing
