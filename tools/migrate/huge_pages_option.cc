#include "huge_pages_option.hpp"

#include <array>
#include <utility>

#include "base/huge_pages.hpp"

namespace migrate::tool {
namespace {

constexpr std::array<std::pair<const char*, std::uint64_t>, 2> kSizes = {
    {{"2M", kHugePage2MiB}, {"1G", kHugePage1GiB}}};

}  // namespace

void add_huge_pages_option(CLI::App& command, std::string& size) {
  // A flag with a value: a name that follows is not taken for the size.
  command.add_flag("--huge-pages{2M}", size,
                   "Guest memory from the host's pool of huge pages: [=2M|1G]");
}

Result<std::uint64_t> parse_huge_pages(const std::string& size) {
  if (size.empty()) return std::uint64_t{0};
  for (const auto& [name, bytes] : kSizes) {
    if (size != name) continue;
    // Only whether there is such a pool: the guest's size says how much of it is needed.
    MIGRATE_TRY(check_huge_pages(0, bytes, read_huge_page_pool(bytes)));
    return bytes;
  }
  return make_error(ErrorCode::kInvalidArgument,
                    "--huge-pages: there are no pages of '" + size + "'")
      .advise("give --huge-pages=2M or --huge-pages=1G");
}

}  // namespace migrate::tool
