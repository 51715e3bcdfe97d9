// --huge-pages: guest memory from the host's pool of huge pages.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "migrate/result.hpp"

namespace migrate::tool {

/// --huge-pages[=2M|1G]; without a size 2M, empty when it is not given.
void add_huge_pages_option(CLI::App& command, std::string& size);

/// The size of a page, 0 for none. kInvalidArgument for a size that x86-64 has not got,
/// kUnsupported for one that this host has no pool of.
[[nodiscard]] Result<std::uint64_t> parse_huge_pages(const std::string& size);

}  // namespace migrate::tool
