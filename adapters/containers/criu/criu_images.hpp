// What the adapter has to know of CRIU's image files: which processes there are, and which of their
// memory is filled lazily. Pure: bytes in, values out. Format: https://criu.org/Images (a magic,
// then records of a length and a protobuf message).
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::containers {

/// Of pstree.img.
struct ImageProcess {
  pid_t pid = 0;  ///< As the tree numbers it; the NN of core-NN.img, mm-NN.img.
  pid_t parent = 0;
  std::vector<pid_t> threads;
};
[[nodiscard]] Result<std::vector<ImageProcess>> parse_pstree(std::span<const std::byte> image);

/// Of mm-NN.img.
struct ImageArea {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  /// A restore with lazy pages leaves it to the userfaultfd (private anonymous memory, neither
  /// locked nor of hugetlb nor the kernel's own).
  bool lazy = false;
  bool wiped = false;  ///< A child begins with zeros there (MADV_WIPEONFORK).
};
[[nodiscard]] Result<std::vector<ImageArea>> parse_areas(std::span<const std::byte> image);

/// Of pagemap-NN.img: runs of pages that the images hold.
struct ImagePages {
  std::uint64_t address = 0;
  std::uint64_t pages = 0;
  bool lazy = false;     ///< Not in the images: whoever serves the userfaultfd has it.
  bool present = false;  ///< In pages-N.img.
};
[[nodiscard]] Result<std::vector<ImagePages>> parse_pagemap(std::span<const std::byte> image);

}  // namespace migrate::containers
