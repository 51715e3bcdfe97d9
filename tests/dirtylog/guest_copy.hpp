// GuestCopy: a copy of a TinyGuest's memory, kept up by reading pages as a migration would.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "migrate/memory.hpp"
#include "tests/kvm/tiny_guest.hpp"

namespace migrate::testing {

class GuestCopy {
 public:
  /// Empty: nothing has been read yet.
  explicit GuestCopy(TinyGuest& guest) : guest_(guest), bytes_(guest.pages() * kPageSize) {}

  void read(const PageBitmap& set) {
    set.for_each_run([&](const RegionId&, PageRange run) { read_run(run); });
  }
  void read_all() { read_run({{0}, guest_.pages()}); }
  void read_run(PageRange run) {
    for (std::uint64_t page = run.first.number; page < run.end().number; ++page) {
      std::memcpy(bytes_.data() + page * kPageSize, guest_.page(page), kPageSize);
    }
  }
  [[nodiscard]] std::uint64_t pages_that_differ() const {
    std::uint64_t differ = 0;
    for (std::uint64_t page = 0; page < guest_.pages(); ++page) {
      const auto* mine = bytes_.data() + page * kPageSize;
      if (std::memcmp(mine, guest_.page(page), kPageSize) != 0) ++differ;
    }
    return differ;
  }

 private:
  TinyGuest& guest_;
  std::vector<std::byte> bytes_;
};

}  // namespace migrate::testing
