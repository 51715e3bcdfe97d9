// BzImage: what a Linux kernel's file says about itself.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::vmm {

/// Of a kernel file this much is read to parse it: boot sector and setup code, 64 sectors at most.
inline constexpr std::size_t kBzImageHeadBytes = 33 * 1024;

struct BzImage {
  /// The setup header as it stands in the file, from offset 0x1f1 on; goes into the boot
  /// parameters.
  std::vector<std::byte> header;
  std::uint64_t payload_offset = 0;  ///< In the file.
  std::uint64_t payload_bytes = 0;
  std::uint64_t preferred_address = 0;
  std::uint64_t alignment = 0;   ///< A power of two, at least a page.
  std::uint64_t init_bytes = 0;  ///< Memory it needs where it is loaded; not less than payload.
  std::uint64_t initrd_last_byte = 0;  ///< The highest address an initrd may use.
  std::uint64_t command_line_max = 0;  ///< Without the zero at its end.
};

/// `head`: the file's first kBzImageHeadBytes, or all of a shorter one; `file_bytes`: its size. The
/// file may be anything: kInvalidArgument with what is missing, when it is no bzImage of boot
/// protocol 2.12 with a 64-bit entry that can be relocated, or cut short.
[[nodiscard]] Result<BzImage> parse_bzimage(std::span<const std::byte> head,
                                            std::uint64_t file_bytes);

}  // namespace migrate::vmm
