// HugePages: 2 MiB pages reserved from the host for the length of a test.
#pragma once

#include <fcntl.h>
#include <sys/file.h>

#include <cstdint>
#include <fstream>
#include <string>

#include "base/fd.hpp"

namespace migrate::testing {

/// Raises the host's pool of huge pages by `count` and lowers it again in the end. One holder at a
/// time, over all processes: the setting is the host's.
class HugePages {
 public:
  explicit HugePages(std::uint64_t count) : lock_(::open(kPool, O_RDONLY | O_CLOEXEC)) {
    if (!lock_ || ::flock(lock_.get(), LOCK_EX) != 0) {
      why_not_ = "the setting of the host's huge pages does not open";
      return;
    }
    before_ = pool();
    std::ofstream(kPool) << before_ + count;
    held_ = true;
    if (pool() < before_ + count) why_not_ = "the host does not give huge pages";
  }
  ~HugePages() {
    if (held_) std::ofstream(kPool) << before_;
  }
  HugePages(const HugePages&) = delete;
  HugePages& operator=(const HugePages&) = delete;

  /// Empty when the pages are there.
  [[nodiscard]] const std::string& why_not() const { return why_not_; }

 private:
  static constexpr const char* kPool = "/proc/sys/vm/nr_hugepages";
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
