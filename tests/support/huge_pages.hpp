// HugePages: 2 MiB pages reserved from the host for the length of a test.
#pragma once

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "base/fd.hpp"

namespace migrate::testing {

/// Raises the host's pool of huge pages by `count` and lowers it again in the end. One holder at a
/// time, over all processes: the setting is the host's.
class HugePages {
 public:
  explicit HugePages(std::uint64_t count) : lock_(::open(kPool, O_RDWR | O_CLOEXEC)) {
    if (!lock_ || ::flock(lock_.get(), LOCK_EX) != 0) {
      refused();
      return;
    }
    before_ = pool();
    held_ = set_pool(before_ + count);
    if (!held_) {
      refused();
      return;
    }
    // Memory in small pieces is no huge page until the kernel has put them together.
    for (int tries = 0; pool() < before_ + count && tries < 20; ++tries) {
      std::ofstream("/proc/sys/vm/compact_memory") << 1;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      set_pool(before_ + count);
    }
    if (pool() < before_ + count) why_not_ = "this host gives no huge pages: memory is short";
  }
  ~HugePages() {
    if (held_) set_pool(before_);
  }
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  /// Empty when the pages are there.
  [[nodiscard]] const std::string& why_not() const { return why_not_; }

 private:
  static constexpr const char* kPool = "/proc/sys/vm/nr_hugepages";
  /// The first words are also those of tests/e2e/huge_pages_test.py, and scripts/test knows them.
  void refused() {
    const int error = errno;
    why_not_ = ::geteuid() == 0 ? "this host gives no huge pages: " : "only root sets huge pages: ";
    why_not_.append(std::strerror(error));
  }
  bool set_pool(std::uint64_t pages) const {
    const std::string text = std::to_string(pages);
    return ::pwrite(lock_.get(), text.data(), text.size(), 0) >= 0;
  }
  static std::uint64_t pool() {
    std::uint64_t pages = 0;
    std::ifstream(kPool) >> pages;
    return pages;
  }

  Fd lock_;
  bool held_ = false;
  std::uint64_t before_ = 0;
  std::string why_not_;
};

}  // namespace migrate::testing
