// Dirty traces as files of the command's user.
#pragma once

#include <cstddef>
#include <span>
#include <string>

#include "migrate/dirty_trace.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// What a trace's file has at most: 2^24 runs of at most 10 bytes, with room for the rest.
inline constexpr std::size_t kTraceBytesMax = std::size_t{512} << 20;

/// kInvalidArgument for a file that cannot be read.
[[nodiscard]] Result<DirtyTrace> read_trace(const std::string& path);
/// Whole or not at all: under another name first.
[[nodiscard]] Status write_trace(const std::string& path, std::span<const std::byte> bytes);

}  // namespace migrate::tool
