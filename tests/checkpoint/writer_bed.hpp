// What tests of writing images share: guests' memory, an image of it, and what is in the file.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/image_output.hpp"
#include "checkpoint/image_writer.hpp"

namespace migrate::checkpoint {

using Memory = std::vector<std::vector<std::byte>>;  // By region.

/// Of its own, removed with all that is in it.
class TestFolder {
 public:
  TestFolder();
  ~TestFolder();
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  [[nodiscard]] std::set<std::string> names() const;

 private:
  std::string path_;
};

constexpr CompressionChoice kNone{CompressionChoice::Mode::kNone, 1};
constexpr CompressionChoice kAuto{CompressionChoice::Mode::kAuto, 1};
constexpr CompressionChoice kZstd{CompressionChoice::Mode::kZstd, 1};

[[nodiscard]] ImageDescription description_of(const Memory& memory);
void fill_random(std::span<std::byte> page, std::uint64_t seed);
/// Runs of zero, random, text and repeated pages in every region.
[[nodiscard]] Memory mixed_memory(std::initializer_list<std::uint64_t> regions, std::uint64_t seed);

/// nullptr, and the test has failed, when there is none.
[[nodiscard]] std::unique_ptr<ImageWriter> writer_of(std::unique_ptr<ImageOutput> output,
                                                     const Memory& memory,
                                                     ImageWriter::Options options = {});
[[nodiscard]] std::unique_ptr<ImageWriter> writer_of(const std::string& path, const Memory& memory,
                                                     ImageWriter::Options options = {},
                                                     const FileOutputOptions& file = {});
/// Each lane takes every so-manieth run of pages of all regions.
void add_all(ImageWriter& writer, const Memory& memory, unsigned lanes);
ImageWriter::Written finish(ImageWriter& writer);
[[nodiscard]] std::shared_ptr<const ImageChain> chain_of(const std::string& path);
/// Reads it back by the index, every hash checked, and adds the digest up.
void expect_memory(const std::string& path, const Memory& memory);

struct Blocks {
  std::map<BlockType, std::uint64_t> count;
  std::uint64_t pages = 0;
};
/// Walks the file by the specification: block by block, without gaps, hashes right, in order.
Blocks walk(const std::string& path);

class Edit {
 public:
  Edit(ImageWriter& writer, Memory& memory) : memory_(memory) {
    auto lane = writer.make_lane();
    EXPECT_TRUE(lane) << lane.error().to_text();
    if (lane) lane_ = std::move(*lane);
  }
  void random(std::uint16_t region, std::uint64_t page, std::uint64_t seed) {
    fill_random(bytes(region, page), seed);
    add(region, page);
  }
  void add(std::uint16_t region, std::uint64_t page) {
    const Status added = lane_->add(region, page, bytes(region, page).data());
    ASSERT_TRUE(added) << added.error().to_text();
  }
  void zero(std::uint16_t region, std::uint64_t page) {
    std::ranges::fill(bytes(region, page), std::byte{0});
    ASSERT_TRUE(lane_->add_zero(region, page));
  }
  void flush() {
    const Status flushed = lane_->flush();
    ASSERT_TRUE(flushed) << flushed.error().to_text();
  }

 private:
  std::span<std::byte> bytes(std::uint16_t region, std::uint64_t page) {
    return std::span(memory_[region]).subspan(page * kPageSize, kPageSize);
  }
  Memory& memory_;
  std::unique_ptr<ImageWriter::Lane> lane_;
};

}  // namespace migrate::checkpoint
