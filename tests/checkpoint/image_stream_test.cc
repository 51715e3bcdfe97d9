#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <map>
#include <thread>

#include "base/event_fd.hpp"
#include "checkpoint/image_chain.hpp"
#include "tests/checkpoint/image_maker.hpp"
#include "tests/checkpoint/small_images.hpp"

namespace migrate::checkpoint::testing {
namespace {

using ::testing::HasSubstr;

/// A pipe, fed by a thread of its own.
class Feed {
 public:
  explicit Feed(std::vector<std::byte> bytes, bool hold_open = false) {
    int fds[2];
    if (::pipe2(fds, O_CLOEXEC) != 0) std::abort();
    read_end_ = Fd(fds[0]);
    write_end_ = Fd(fds[1]);
    thread_ = std::thread([this, bytes = std::move(bytes), hold_open] {
      std::size_t done = 0;
      while (done < bytes.size()) {
        const ssize_t put = ::write(write_end_.get(), bytes.data() + done, bytes.size() - done);
        if (put <= 0) break;
        done += static_cast<std::size_t>(put);
      }
      if (!hold_open) write_end_.reset();
    });
  }
  ~Feed() {
    read_end_.reset();  // A writer that waits gets EPIPE.
    thread_.join();
  }
  [[nodiscard]] int fd() const { return read_end_.get(); }

 private:
  Fd read_end_;
  Fd write_end_;
  std::thread thread_;
};

class IgnoredSigpipe : public ::testing::Environment {
 public:
  void SetUp() override { ::signal(SIGPIPE, SIG_IGN); }
};
const auto* const kIgnored = ::testing::AddGlobalTestEnvironment(new IgnoredSigpipe);

struct Restored {
  PageMap pages;
  ImageStreamReader::End end;
};

Result<Restored> restore(int fd) {
  Restored restored;
  MIGRATE_ASSIGN(auto reader, ImageStreamReader::create(fd));
  const ImageStreamReader::Memory memory{
      .write =
          [&](std::uint16_t region, std::uint64_t page, const std::byte* content) {
            std::copy_n(content, kPageSize, restored.pages[{region, page}].begin());
            return Status();
          },
      .read =
          [&](std::uint16_t region, std::uint64_t page, std::byte* into) {
            const PageBytes& from = restored.pages[{region, page}];
            std::copy(from.begin(), from.end(), into);
            return Status();
          },
      .zero =
          [&](std::uint16_t region, std::uint64_t page) {
            restored.pages.erase({region, page});
            return Status();
          }};
  MIGRATE_ASSIGN(restored.end, reader->read_all(memory));
  return restored;
}

Result<Restored> restore(const std::vector<std::byte>& bytes) {
  Feed feed(bytes);
  return restore(feed.fd());
}

TEST(ImageStream, IsReadFrontToBack) {
  const SmallImage image = small_images().full;
  const auto restored = restore(image.bytes);
  ASSERT_TRUE(restored) << restored.error().to_text();
  EXPECT_EQ(restored->end.bytes, image.bytes.size());
  EXPECT_EQ(restored->end.state.size(), 2u);
  EXPECT_EQ(restored->pages, image.pages);
}

TEST(ImageStream, OneWithAParentIsRefused) {
  const auto restored = restore(small_images().second.bytes);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(restored.error().remedy, HasSubstr("flatten"));
}

// Pages 0 and 1 are stored twice; the index names copies in every way that there is.
TEST(ImageStream, TheIndexSaysWhichCopyHolds) {
  const std::uint64_t pages[] = {8};
  const PageBytes a = random_page(1);
  const PageBytes b = text_page(2);
  const PageBytes c = random_page(3);
  ImageMaker maker(seeded_header(1), small_description(pages));
  maker.raw(0, {{0, a}, {1, b}, {6, c}});
  const IndexEntry first_of_0 = maker.entry(0, 0);
  const IndexEntry first_of_1 = maker.entry(0, 1);
  maker.packed(0, {{0, b}, {2, c}, {3, a}});
  const IndexEntry second_of_0 = maker.entry(0, 0);
  maker.raw(0, {{1, c}});
  const IndexEntry second_of_1 = maker.entry(0, 1);
  maker.set(0, 0, first_of_0);   // An older copy, of which page 3 is an equal.
  maker.set(0, 1, second_of_0);  // What page 0 had for a while.
  maker.set(0, 2, first_of_1);   // And what page 1 had.
  maker.zero(0, 3);              // Not zero when it was stored.
  maker.set(0, 4, first_of_0);
  maker.set(0, 5, second_of_1);
  maker.same(0, 7, 0, 6);
  const auto restored = restore(maker.finish());
  ASSERT_TRUE(restored) << restored.error().to_text();
  const PageMap expected{{{0, 0}, a}, {{0, 1}, b}, {{0, 2}, b}, {{0, 4}, a},
                         {{0, 5}, c}, {{0, 6}, c}, {{0, 7}, c}};
  EXPECT_EQ(restored->pages, expected);
}

TEST(ImageStream, TwoPagesMayChangePlaces) {
  const std::uint64_t pages[] = {2};
  ImageMaker maker(seeded_header(1), small_description(pages));
  maker.raw(0, {{0, random_page(1)}, {1, random_page(2)}});
  const IndexEntry first = maker.entry(0, 0);
  maker.same(0, 0, 0, 1);
  maker.set(0, 1, first);
  const auto restored = restore(maker.finish());
  ASSERT_TRUE(restored) << restored.error().to_text();
  EXPECT_EQ(restored->pages.at({0, 0}), random_page(2));
  EXPECT_EQ(restored->pages.at({0, 1}), random_page(1));
}

TEST(ImageStream, APartThatIsZeroInTheEndIsZero) {
  const std::uint64_t pages[] = {4};
  ImageMaker maker(seeded_header(1), small_description(pages));
  maker.raw(0, {{0, random_page(1)}});
  maker.zero(0, 0);
  const auto restored = restore(maker.finish());
  ASSERT_TRUE(restored) << restored.error().to_text();
  EXPECT_TRUE(restored->pages.empty());
}

TEST(ImageStream, WhatFollowsTheTrailerIsAnError) {
  auto bytes = small_images().full.bytes;
  bytes.push_back({});
  const auto restored = restore(bytes);
  ASSERT_FALSE(restored);
  EXPECT_EQ(restored.error().code, ErrorCode::kIntegrity);
  EXPECT_THAT(restored.error().message, HasSubstr("goes on"));
}

TEST(ImageStream, OneThatIsCutShortIsAnErrorWhereverItIs) {
  const SmallImage image = small_images().full;
  for (const BlockHead& block : image.blocks) {
    for (const std::uint64_t size : {block.offset, block.offset + 1, block.offset + 4096}) {
      if (size >= image.bytes.size()) continue;
      const auto restored =
          restore({image.bytes.begin(), image.bytes.begin() + static_cast<std::ptrdiff_t>(size)});
      ASSERT_FALSE(restored) << size;
      EXPECT_TRUE(restored.error().code == ErrorCode::kIntegrity || (size == 0 || size == 1))
          << restored.error().to_text();
    }
  }
}

TEST(ImageStream, AFlippedByteIsAnErrorOrChangesNothing) {
  const SmallImage image = small_images().full;
  for (std::size_t at = 0; at < image.bytes.size(); at += at < 8192 ? 7 : 1013) {
    auto bytes = image.bytes;
    bytes[at] ^= std::byte{0x20};
    const auto restored = restore(bytes);
    if (restored) {
      EXPECT_EQ(restored->pages, image.pages) << at;
    }
  }
}

TEST(ImageStream, AWaitCanBeEnded) {
  const SmallImage image = small_images().full;
  const std::vector<std::byte> half(image.bytes.begin(), image.bytes.begin() + 3 * kBlockAlign);
  Feed feed(half, true);
  auto reader = ImageStreamReader::create(feed.fd());
  ASSERT_TRUE(reader) << reader.error().to_text();
  std::thread other([&] { (*reader)->interrupt(); });
  const auto nothing = [](auto...) { return Status(); };
  const auto end = (*reader)->read_all({nothing, nothing, nothing});
  other.join();
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code, ErrorCode::kCancelled);
}

TEST(ImageStream, TheWaitForTheHeaderCanBeEnded) {
  Feed feed({}, true);
  auto cancel = EventFd::create();
  ASSERT_TRUE(cancel);
  std::thread other([&] { cancel->set(); });
  const auto reader = ImageStreamReader::create(feed.fd(), cancel->fd());
  other.join();
  ASSERT_FALSE(reader);
  EXPECT_EQ(reader.error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace migrate::checkpoint::testing
