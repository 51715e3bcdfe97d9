// ThreadWriter: a thread that counts up one word of random pages as fast as it can, by stores, by
// read(2) or by process_vm_writev(2), and keeps a log of what it has written.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <vector>

#include "tests/dirtylog/contract/bed.hpp"
#include "tests/dirtylog/contract/chance.hpp"

namespace migrate::testing {

/// One word to be written.
struct Put {
  GuestPage page;
  std::byte* address = nullptr;  ///< As the writing side knows it: of this or another process.
  std::uint64_t value = 0;
};
/// Writes them all; on return they are written.
using PutAll = std::function<void(std::span<const Put>)>;

[[nodiscard]] PutAll by_stores();
/// From a pipe, by one readv(2).
[[nodiscard]] PutAll by_read();
/// `pid` may be this process.
[[nodiscard]] PutAll by_process_vm_writev(pid_t pid);
/// A store to page after page through `put`, and `then` when all have been written.
[[nodiscard]] PutAll followed_by(PutAll put, std::function<void(GuestPage)> then);

/// Pages of an area, and where its first one is for the writing side.
struct PlacedArea {
  PageRange pages;
  std::byte* address = nullptr;
};

class ThreadWriter final : public Writer {
 public:
  /// Writes word `word` of each page, which nobody else does.
  ThreadWriter(std::string_view name, std::vector<PlacedArea> areas, std::size_t word, PutAll put,
               std::uint64_t seed);
  ~ThreadWriter() override;
  ThreadWriter(const ThreadWriter&) = delete;
  ThreadWriter& operator=(const ThreadWriter&) = delete;

  [[nodiscard]] std::string_view name() const override { return name_; }
  void resume() override;
  void pause() override;
  [[nodiscard]] std::uint64_t writes() const override { return writes_.load(); }

  void for_each_logged(PageRange pages, const std::function<void(const LoggedWord&)>& f) const;

 private:
  struct Area {
    PlacedArea place;
    /// Of each page, stored after the page's word has been: memory is never older than it.
    std::vector<std::atomic<std::uint64_t>> log;
  };
  struct Target {
    Area* area = nullptr;
    std::uint64_t page = 0;
  };
  enum class Pattern : std::uint8_t { kSweep, kAnywhere, kHot, kEdges };
  static constexpr std::uint64_t kPatterns = 4;

  void run();
  void write_some(Pattern pattern);
  Target pick(Pattern pattern);
  Target at(std::uint64_t index);

  const std::string_view name_;
  std::vector<Area> areas_;
  std::uint64_t pages_ = 0;
  const std::size_t word_;
  const PutAll put_;
  Chance chance_;             ///< The thread's.
  std::uint64_t cursor_ = 0;  ///< The thread's.
  std::atomic<std::uint64_t> writes_{0};

  std::mutex mutex_;
  std::condition_variable changed_;
  bool paused_ = true;
  bool parked_ = true;
  bool quit_ = false;
  std::thread thread_;
};

}  // namespace migrate::testing
