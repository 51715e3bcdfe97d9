// What of an image is not in the page cache is read past it, into the guest's own pages.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <memory>

#include "checkpoint/aligned_buffer.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/image_file.hpp"
#include "tests/checkpoint/image_maker.hpp"

namespace migrate::checkpoint::testing {
namespace {

constexpr std::uint64_t kPages = 200;

class DirectImage : public ::testing::Test {
 protected:
  void SetUp() override {
    ImageMaker maker(seeded_header(1), small_description(std::array{kPages}));
    for (std::uint64_t page = 0; page < kPages; ++page) pages_[page] = random_page(page);
    maker.raw(0, pages_);
    write_file(path_, maker.finish());
    const auto chain = ImageChain::open(path_);
    ASSERT_TRUE(chain) << chain.error().to_text();
    chain_ = *chain;
    FoundPage found;
    ASSERT_TRUE(chain_->find(0, 0, std::span(&found, 1)));
    file_ = static_cast<const OpenImage*>(found.file);
    at_ = found.location.offset();
    ASSERT_TRUE(memory_.reserve((kPages + 1) * kPageSize));
    evict();
    if (file_->direct_fd() < 0 || cached()) GTEST_SKIP() << "this file system has all in memory";
  }

  void evict() const {
    ASSERT_EQ(::fsync(file_->fd()), 0);
    ASSERT_EQ(::posix_fadvise(file_->fd(), 0, 0, POSIX_FADV_DONTNEED), 0);
  }
  [[nodiscard]] bool cached() const { return file_->is_cached(at_, kPages * kPageSize); }
  Status read_into(std::byte* memory) const {
    MIGRATE_ASSIGN(const auto reader, ImageReader::create(chain_));
    return reader->read(0, 0, kPages, memory);
  }
  void expect_pages(const std::byte* memory) const {
    for (const auto& [page, content] : pages_) {
      EXPECT_EQ(std::memcmp(memory + page * kPageSize, content.data(), kPageSize), 0) << page;
    }
  }

  ScratchFolder folder_;
  const std::string path_ = folder_.path("raw.img");
  ImageMaker::Pages pages_;
  std::shared_ptr<const ImageChain> chain_;
  const OpenImage* file_ = nullptr;
  std::uint64_t at_ = 0;
  AlignedBuffer memory_;
};

TEST_F(DirectImage, IsReadWithoutThePageCacheTakingIt) {
  const Status read = read_into(memory_.bytes().data());
  ASSERT_TRUE(read) << read.error().to_text();
  expect_pages(memory_.bytes().data());
  EXPECT_FALSE(cached());
}

TEST_F(DirectImage, IsReadThroughThePageCacheWhereMemoryIsNoWholePages) {
  std::byte* const memory = memory_.bytes().data() + 16;
  ASSERT_TRUE(read_into(memory));
  expect_pages(memory);
  EXPECT_TRUE(cached());
  // And from there, now that it is there.
  ASSERT_TRUE(read_into(memory_.bytes().data()));
  expect_pages(memory_.bytes().data());
}

TEST_F(DirectImage, ThatIsCutShortMeanwhileIsDamaged) {
  ASSERT_EQ(::truncate(path_.c_str(), static_cast<off_t>(at_ + (kPages / 2) * kPageSize)), 0);
  const Status read = read_into(memory_.bytes().data());
  ASSERT_FALSE(read);
  EXPECT_EQ(read.error().code, ErrorCode::kIntegrity);
  EXPECT_THAT(read.error().message, ::testing::HasSubstr("the file ends there"));
}

}  // namespace
}  // namespace migrate::checkpoint::testing
