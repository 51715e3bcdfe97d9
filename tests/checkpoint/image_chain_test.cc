#include "checkpoint/image_chain.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <optional>
#include <set>
#include <thread>

#include "tests/checkpoint/image_maker.hpp"
#include "tests/checkpoint/image_memory.hpp"
#include "tests/checkpoint/small_images.hpp"

namespace migrate::checkpoint::testing {
namespace {

using ::testing::HasSubstr;

class Image : public ::testing::Test {
 protected:
  void put(const std::string& name, std::span<const std::byte> bytes) const {
    write_file(folder_.path(name), bytes);
  }
  /// The error of opening it.
  [[nodiscard]] Error refused(const std::string& name, const ImageSearch& search = {}) const {
    auto chain = ImageChain::open(folder_.path(name), search);
    EXPECT_FALSE(chain) << name;
    return chain ? Error{} : chain.error();
  }

  ScratchFolder folder_;
  const SmallImages small_ = small_images();
};

TEST_F(Image, IsReadBack) {
  put("full.img", small_.full.bytes);
  const auto chain = ImageChain::open(folder_.path("full.img"));
  ASSERT_TRUE(chain) << chain.error().to_text();
  EXPECT_EQ((*chain)->files().size(), 1u);
  EXPECT_EQ((*chain)->top().description().guest.name, "small");
  const auto state = (*chain)->state();
  ASSERT_TRUE(state) << state.error().to_text();
  ASSERT_EQ(state->size(), 2u);
  EXPECT_EQ((*state)[1].info.name, "cpu.0");
  EXPECT_EQ((*state)[1].body.size(), 5000u);
  const auto memory = memory_of(folder_.path("full.img"));
  ASSERT_TRUE(memory) << memory.error().to_text();
  EXPECT_EQ(*memory, small_.full.pages);
}

TEST_F(Image, IncrementalIsReadBackWithItsParents) {
  put("full.img", small_.full.bytes);
  put("second.img", small_.second.bytes);
  put("third.img", small_.third.bytes);
  const auto memory = memory_of(folder_.path("third.img"));
  ASSERT_TRUE(memory) << memory.error().to_text();
  EXPECT_EQ(*memory, small_.third.pages);
}

TEST_F(Image, AChainIsFoundWhileASeriesMergesIt) {
  put("full.img", small_.full.bytes);
  put("second.img", small_.second.bytes);
  put("third.img", small_.third.bytes);
  ASSERT_TRUE(flatten_image(folder_.path("second.img"), folder_.path("merged")));
  const std::string second = folder_.path("second.img");
  std::atomic<bool> over = false;
  std::atomic<unsigned> merges = 0;
  // As a series does it: the merged one takes the place, then what it does not need goes.
  std::thread series([&] {
    for (; !over; ++merges) {
      std::filesystem::copy_file(folder_.path("merged"), folder_.path("new"));
      std::filesystem::rename(folder_.path("new"), second);
      std::filesystem::remove(folder_.path("full.img"));
      put("new", small_.full.bytes);
      std::filesystem::rename(folder_.path("new"), folder_.path("full.img"));
      put("new", small_.second.bytes);
      std::filesystem::rename(folder_.path("new"), second);
    }
  });
  for (unsigned opened = 0; opened < 2000 || merges < 500; ++opened) {
    const auto chain = ImageChain::open(folder_.path("third.img"));
    EXPECT_TRUE(chain) << "opened " << opened << ": " << chain.error().to_text();
    if (!chain) break;
  }
  over = true;
  series.join();
}

TEST_F(Image, HashesAreThoseOfThePages) {
  put("full.img", small_.full.bytes);
  put("second.img", small_.second.bytes);
  put("third.img", small_.third.bytes);
  const auto chain = ImageChain::open(folder_.path("third.img"));
  ASSERT_TRUE(chain) << chain.error().to_text();
  for (std::uint16_t region = 0; region < 2; ++region) {
    const std::uint64_t pages = (*chain)->regions()[region].range.count;
    std::vector<std::uint64_t> hashes(pages);
    ASSERT_TRUE((*chain)->hashes(region, 0, hashes));
    for (std::uint64_t page = 0; page < pages; ++page) {
      const auto at = small_.third.pages.find({region, page});
      EXPECT_EQ(hashes[page], at == small_.third.pages.end() ? (*chain)->digest().zero_hash()
                                                             : (*chain)->digest().hash(at->second));
    }
  }
}

TEST_F(Image, ReadAroundGivesThePageFirstAndOnlyWhatIsThere) {
  put("full.img", small_.full.bytes);
  auto chain = ImageChain::open(folder_.path("full.img"));
  ASSERT_TRUE(chain);
  auto reader = ImageReader::create(*chain);
  ASSERT_TRUE(reader);
  const auto around = [&](std::uint64_t page, std::uint64_t pages_max) {
    std::vector<std::uint64_t> taken;
    const Status status = (*reader)->read_around(
        0, page, pages_max, [&](std::uint64_t number, const std::byte* content) {
          const auto at = small_.full.pages.find({0, number});
          EXPECT_EQ(content != nullptr, at != small_.full.pages.end());
          if (content != nullptr) {
            EXPECT_EQ(std::memcmp(content, at->second.data(), kPageSize), 0) << number;
          }
          taken.push_back(number);
          return Status();
        });
    EXPECT_TRUE(status) << status.error().to_text();
    return taken;
  };
  using Pages = std::vector<std::uint64_t>;
  EXPECT_EQ(around(0, 8), Pages({0}));         // Zero.
  EXPECT_EQ(around(8, 8), Pages({8, 7, 11}));  // Of one frame.
  EXPECT_EQ(around(8, 2), Pages({8, 7}));      // No more than asked for.
  EXPECT_EQ(around(2, 8), Pages({2, 1}));      // A run.
  EXPECT_EQ(around(5, 8), Pages({5}));         // Stored anew.
  EXPECT_EQ(around(3, 1), Pages({3}));         // Another's equal.
}

TEST_F(Image, AParentIsFoundWhereTheUserSaysFirst) {
  std::filesystem::create_directory(folder_.path("elsewhere"));
  put("elsewhere/base", small_.full.bytes);
  put("second.img", small_.second.bytes);
  const Error missing = refused("second.img");
  EXPECT_EQ(missing.code, ErrorCode::kNotFound);
  EXPECT_THAT(missing.message, HasSubstr(folder_.path("full.img")));
  EXPECT_THAT(missing.remedy, HasSubstr("--parent"));
  const auto memory =
      memory_of(folder_.path("second.img"), {.parents = {folder_.path("elsewhere/base")}});
  ASSERT_TRUE(memory) << memory.error().to_text();
  EXPECT_EQ(*memory, small_.second.pages);
}

TEST_F(Image, AParentInTheOwnFolderIsFoundByTheLastPartOfItsPath) {
  const std::uint64_t pages[] = {4};
  const ImageHeader parent = seeded_header(1);
  put("base.img", ImageMaker(parent, small_description(pages)).finish());
  put("child.img",
      ImageMaker(seeded_header(2, &parent), small_description(pages, "/no/such/folder/base.img"))
          .finish());
  const auto chain = ImageChain::open(folder_.path("child.img"));
  ASSERT_TRUE(chain) << chain.error().to_text();
  EXPECT_EQ((*chain)->files()[1]->path(), folder_.path("base.img"));
}

TEST_F(Image, AnotherImageInTheParentsPlaceIsToldWithBothIds) {
  put("full.img", small_.third.bytes);
  put("second.img", small_.second.bytes);
  const Error error = refused("second.img");
  EXPECT_EQ(error.code, ErrorCode::kIncompatible);
  EXPECT_THAT(error.message, HasSubstr(to_text(small_.full.header.id)));
  EXPECT_THAT(error.message, HasSubstr(to_text(small_.third.header.id)));
}

TEST_F(Image, AParentWithOtherRegionsOrAnotherSecretIsRefused) {
  const std::uint64_t pages[] = {4};
  const std::uint64_t others[] = {5};
  const ImageHeader parent = seeded_header(1);
  put("base.img", ImageMaker(parent, small_description(others)).finish());
  put("child.img",
      ImageMaker(seeded_header(2, &parent), small_description(pages, "base.img")).finish());
  EXPECT_EQ(refused("child.img").code, ErrorCode::kIncompatible);
  ImageHeader stranger = seeded_header(2, &parent);
  stranger.secret = seeded_header(3).secret;
  put("child.img", ImageMaker(stranger, small_description(others, "base.img")).finish());
  EXPECT_EQ(refused("child.img").code, ErrorCode::kIncompatible);
}

TEST_F(Image, AChainThatComesBackToItselfIsRefused) {
  const std::uint64_t pages[] = {4};
  ImageHeader one = seeded_header(1);
  ImageHeader two = seeded_header(2, &one);
  one.parent = two.id;
  put("one.img", ImageMaker(one, small_description(pages, "two.img")).finish());
  put("two.img", ImageMaker(two, small_description(pages, "one.img")).finish());
  EXPECT_EQ(refused("one.img").code, ErrorCode::kIntegrity);
}

TEST_F(Image, WhatIsNoRegularFileIsRefusedAtOnce) {
  ASSERT_EQ(::mkfifo(folder_.path("fifo").c_str(), 0600), 0);
  const Error fifo = refused("fifo");
  EXPECT_EQ(fifo.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(fifo.remedy, HasSubstr("restore -"));
  std::filesystem::create_directory(folder_.path("folder"));
  EXPECT_EQ(refused("folder").code, ErrorCode::kInvalidArgument);
  put("empty", {});
  EXPECT_EQ(refused("empty").code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused("absent").code, ErrorCode::kNotFound);
  put("text", std::vector<std::byte>(10000, std::byte{'a'}));
  EXPECT_EQ(refused("text").code, ErrorCode::kInvalidArgument);
}

TEST_F(Image, AnotherVersionIsTold) {
  auto bytes = small_.full.bytes;
  bytes[kBlockHeadBytes] = std::byte{2};
  put("full.img", bytes);
  EXPECT_EQ(refused("full.img").code, ErrorCode::kVersionMismatch);
}

TEST_F(Image, OneThatIsCutShortIsRefusedWhereverItIs) {
  for (const BlockHead& block : small_.full.blocks) {
    for (const std::uint64_t size :
         {block.offset, block.offset + 1, block.offset + block.length - 1}) {
      put("full.img", std::span(small_.full.bytes).first(size));
      const Error error = refused("full.img");
      EXPECT_EQ(error.code,
                size < kBlockAlign ? ErrorCode::kInvalidArgument : ErrorCode::kIntegrity)
          << size;
    }
  }
}

TEST_F(Image, ManyThreadsReadTheIndexAtOnce) {
  put("full.img", small_.full.bytes);
  const auto chain = ImageChain::open(folder_.path("full.img"));
  ASSERT_TRUE(chain);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      std::vector<std::uint64_t> hashes((*chain)->regions()[1].range.count);
      EXPECT_TRUE((*chain)->hashes(1, 0, hashes));
      const auto memory = memory_of(*chain);
      EXPECT_TRUE(memory && *memory == small_.full.pages);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace migrate::checkpoint::testing
