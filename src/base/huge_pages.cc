#include "base/huge_pages.hpp"

#include <algorithm>
#include <fstream>

#include "migrate/options.hpp"

namespace migrate {
namespace {

constexpr const char* kPools = "/sys/kernel/mm/hugepages";

bool read_number(const std::string& path, std::uint64_t& value) {
  return static_cast<bool>(std::ifstream(path) >> value);
}

/// Each cgroup (version 2) above this process may have a limit of its own; "max" is none.
std::uint64_t allowed_by_cgroups(std::uint64_t page_bytes, const std::string& root) {
  const bool giga = page_bytes >= 1ull << 30;
  const std::string name = "/hugetlb." + (giga ? std::to_string(page_bytes >> 30) + "GB"
                                               : std::to_string(page_bytes >> 20) + "MB");
  std::ifstream lines(root + "/proc/self/cgroup");
  std::string path;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  std::uint64_t allowed = ~std::uint64_t{0};
  while (path.size() > 1 && path.front() == '/') {
    const std::string limit = root + "/sys/fs/cgroup" + path + name;
    // What is used when touched, and what is used when mapped.
    for (const std::string& kind : {std::string(), std::string(".rsvd")}) {
      std::uint64_t most = 0;
      std::uint64_t used = 0;
      if (!read_number(limit + kind + ".max", most)) continue;
      if (!read_number(limit + kind + ".current", used)) continue;
      allowed = std::min(allowed, most > used ? (most - used) / page_bytes : 0);
    }
    path.resize(path.rfind('/'));
  }
  return allowed;
}

std::string folder_of(std::uint64_t page_bytes) {
  return "/hugepages-" + std::to_string(page_bytes / 1024) + "kB/";
}

/// Of the size that /proc/sys/vm/nr_hugepages counts; 0 where the kernel has no huge pages.
std::uint64_t default_page_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key; meminfo >> key;) {
    std::uint64_t kib = 0;
    if (key == "Hugepagesize:" && meminfo >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace

std::optional<HugePagePool> read_huge_page_pool(std::uint64_t page_bytes, const std::string& root) {
  const std::string folder = root + kPools + folder_of(page_bytes);
  const auto number = [&](const char* file, std::uint64_t& value) {
    return read_number(folder + file, value);
  };
  HugePagePool pool;
  pool.page_bytes = page_bytes;
  pool.allowed = allowed_by_cgroups(page_bytes, root);
  if (!number("nr_hugepages", pool.total) || !number("free_hugepages", pool.free)) {
    return std::nullopt;
  }
  (void)number("resv_hugepages", pool.reserved);
  (void)number("nr_overcommit_hugepages", pool.overcommit);
  (void)number("surplus_hugepages", pool.surplus);
  return pool;
}

std::string huge_page_setting(std::uint64_t page_bytes) {
  if (page_bytes == default_page_bytes()) return "/proc/sys/vm/nr_hugepages";
  return kPools + folder_of(page_bytes) + "nr_hugepages";
}

Status check_huge_pages(std::uint64_t bytes, std::uint64_t page_bytes,
                        const std::optional<HugePagePool>& pool) {
  const std::string size = format_size(page_bytes);
  if (bytes % page_bytes != 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      format_size(bytes) + " of memory are no whole huge pages of " + size)
        .advise("give the guest a multiple of " + size + ", or take no huge pages of that size");
  }
  if (!pool) {
    return make_error(ErrorCode::kUnsupported, "this host has no huge pages of " + size)
        .advise("take another size or none, or boot it with hugepagesz=" + size + " hugepages=N");
  }
  const std::uint64_t needed = bytes / page_bytes;
  if (needed > pool->allowed) {
    return make_error(ErrorCode::kNoMemory,
                      "the guest needs " + std::to_string(needed) + " huge pages of " + size +
                          ", and this process's cgroup leaves it " + std::to_string(pool->allowed))
        .advise(
            "raise the cgroup's limit of huge pages (hugetlb.*.max), or leave out --huge-pages");
  }
  const std::uint64_t have = pool->unclaimed();
  if (needed <= have + pool->may_be_added()) return {};
  const std::uint64_t missing = needed - have;
  return make_error(ErrorCode::kNoMemory,
                    "the guest needs " + std::to_string(needed) + " huge pages of " + size +
                        ", and of this host's " + std::to_string(pool->total) + " only " +
                        std::to_string(have) + " are free: " + std::to_string(missing) +
                        " are missing")
      .advise("reserve them (as root: echo " + std::to_string(pool->total + missing) + " > " +
              huge_page_setting(page_bytes) + "), or leave out --huge-pages");
}

}  // namespace migrate
