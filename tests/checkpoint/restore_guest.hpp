// Guest: threads that touch a restored guest's memory as vCPUs would; and a lazy restore's image.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "tests/checkpoint/restore_bed.hpp"

namespace migrate::checkpoint::testing {

/// Touches memory as a vCPU would, from the guest's start on.
class Guest {
 public:
  using Code = std::function<void(Guest&)>;
  explicit Guest(Code code, unsigned vcpus = 1) : code_(std::move(code)), vcpus_(vcpus) {}
  ~Guest() { join(); }

  [[nodiscard]] BedTarget::Script script(BedTarget::Script script = {}) {
    script.hook = [this, first = std::move(script.hook)](BedTarget& target,
                                                         const std::string& where) {
      if (first) first(target, where);
      if (where != "start") return;
      target_ = &target;
      for (unsigned i = 0; i < vcpus_; ++i) {
        threads_.emplace_back([this] {
          code_(*this);
          ++ended_;
        });
      }
    };
    return script;
  }
  [[nodiscard]] bool page_is_right(std::uint32_t region, std::uint64_t page) const {
    const auto content = page_content(region, page);
    return std::memcmp(at(region, page), content.data(), kPageSize) == 0;
  }
  /// By a system call, as KVM_RUN is one: false where memory has been made inaccessible.
  [[nodiscard]] bool can_read(std::uint32_t region, std::uint64_t page) const {
    const Fd file(::memfd_create("read", MFD_CLOEXEC));
    return ::pwrite(file.get(), at(region, page), kPageSize, 0) == ssize_t{kPageSize};
  }
  [[nodiscard]] std::byte* at(std::uint32_t region, std::uint64_t page) const {
    return target_->bytes(region).data() + page * kPageSize;
  }
  [[nodiscard]] unsigned ended() const { return ended_; }
  void join() {
    for (std::thread& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }
  std::atomic<std::uint64_t> wrong{0};
  std::atomic<std::uint64_t> turns{0};
  std::atomic<bool> stop{false};

 private:
  Code code_;
  unsigned vcpus_;
  BedTarget* target_ = nullptr;
  std::vector<std::thread> threads_;
  std::atomic<unsigned> ended_{0};
};

class LazyRestoreTest : public ::testing::Test {
 protected:
  void make_image(CompressionChoice::Mode mode = CompressionChoice::Mode::kNone) {
    spec_.compress.mode = mode;
    write_image(image_, spec_);
  }
  [[nodiscard]] RestoreOptions options() const {
    RestoreOptions options;
    options.path = image_;
    options.mode = RestoreMode::kLazy;
    return options;
  }
  /// Flips bytes of what the page holds in the file; its offset there.
  std::uint64_t damage_page(std::uint64_t page) {
    auto chain = ImageChain::open(image_);
    FoundPage found;
    EXPECT_TRUE(chain && (*chain)->find(0, page, {&found, 1}) && found.file != nullptr);
    damage(image_, found.location.offset() + 100);
    return found.location.offset();
  }
  static void damage(const std::string& path, std::uint64_t at) {
    const Fd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    std::array<std::byte, 16> bytes{};
    ASSERT_EQ(::pread(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)), 16);
    for (std::byte& byte : bytes) byte ^= std::byte{0x55};
    ASSERT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(at)), 16);
  }

  Folder folder_;
  std::string image_ = folder_.path("a.img");
  ImageSpec spec_{.regions = regions_of({20'000, 130})};
};

}  // namespace migrate::checkpoint::testing
