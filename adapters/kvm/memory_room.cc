#include "adapters/kvm/memory_room.hpp"

#include <sys/resource.h>

#include <charconv>
#include <fstream>
#include <optional>
#include <sstream>

#include "base/huge_pages.hpp"
#include "migrate/options.hpp"

namespace migrate::kvm {
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<std::uint64_t> number_at(std::string_view text) {
  const auto start = text.find_first_not_of(" \t");
  if (start == std::string_view::npos) return std::nullopt;
  text.remove_prefix(start);
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return std::nullopt;
  return value;
}

/// The number after `name` at the beginning of a line.
std::optional<std::uint64_t> field(const std::string& text, std::string_view name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind(name, 0) == 0) return number_at(std::string_view(line).substr(name.size()));
  }
  return std::nullopt;
}

void limit(MemoryRoom& room, std::uint64_t bytes, const char* what) {
  if (bytes < room.bytes) room = {bytes, what};
}

void limit_by_host(MemoryRoom& room, const std::string& proc) {
  const std::string meminfo = read_file(proc + "/meminfo");
  const auto available_kib = field(meminfo, "MemAvailable:");
  if (!available_kib) return;
  const std::uint64_t swap_kib = field(meminfo, "SwapFree:").value_or(0);
  limit(room, (*available_kib + swap_kib) * 1024, "this host's free memory");
}

/// Each cgroup (version 2) above this process may have a limit.
void limit_by_cgroups(MemoryRoom& room, const std::string& proc, const std::string& cgroups) {
  std::istringstream lines(read_file(proc + "/self/cgroup"));
  std::string path;
  for (std::string line; std::getline(lines, line);) {
    if (line.rfind("0::", 0) == 0) path = line.substr(3);
  }
  while (path.size() > 1 && path.front() == '/') {
    const std::string folder = cgroups + path;
    const auto most = number_at(read_file(folder + "/memory.max"));
    const auto used = number_at(read_file(folder + "/memory.current"));
    if (most && used) {
      // File pages that nobody used lately are given up before the limit hurts.
      const auto idle = field(read_file(folder + "/memory.stat"), "inactive_file ").value_or(0);
      const std::uint64_t held = *used > idle ? *used - idle : 0;
      limit(room, *most > held ? *most - held : 0, "the memory limit of this process's cgroup");
    }
    path.resize(path.rfind('/'));
  }
}

void limit_by_resources(MemoryRoom& room, const std::string& proc) {
  rlimit most{};
  if (::getrlimit(RLIMIT_AS, &most) == 0 && most.rlim_cur != RLIM_INFINITY) {
    const std::uint64_t used_kib = field(read_file(proc + "/self/status"), "VmSize:").value_or(0);
    const std::uint64_t used = used_kib * 1024;
    limit(room, most.rlim_cur > used ? most.rlim_cur - used : 0,
          "the address space limit of this process (ulimit -v)");
  }
}

Status check_whole_pages(const KvmMachine::Slot& slot, std::uint64_t huge_page_bytes) {
  if (slot.bytes % huge_page_bytes == 0 && slot.guest_address.value % huge_page_bytes == 0) {
    return {};
  }
  return make_error(ErrorCode::kIncompatible,
                    "the guest's memory slot " + std::to_string(slot.slot) +
                        " is not made of whole huge pages of " + format_size(huge_page_bytes))
      .advise("receive it without --huge-pages, or with smaller ones");
}

std::string mebibytes(std::uint64_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

}  // namespace

MemoryRoom memory_room(const std::string& proc, const std::string& cgroups) {
  MemoryRoom room;
  limit_by_host(room, proc);
  limit_by_cgroups(room, proc, cgroups);
  limit_by_resources(room, proc);
  return room;
}

Status check_memory_room(const KvmMachine& machine, const MemoryRoom& room,
                         std::uint64_t huge_page_bytes) {
  std::uint64_t guest = 0;
  std::uint64_t largest = 0;
  for (const KvmMachine::Slot& slot : machine.slots) {
    guest += slot.bytes;
    largest = std::max(largest, slot.bytes);
    // Each slot begins and ends on a huge page, or it could not be mapped.
    if (huge_page_bytes != 0) MIGRATE_TRY(check_whole_pages(slot, huge_page_bytes));
  }
  if (huge_page_bytes != 0) {
    MIGRATE_TRY(check_huge_pages(guest, huge_page_bytes, read_huge_page_pool(huge_page_bytes)));
  }
  // 8 bytes a page each in the host's page tables and in KVM's: 1/256 of the memory.
  const std::uint64_t needed = guest / 256 + (huge_page_bytes != 0 ? 0 : guest);
  if (needed > room.bytes) {
    return make_error(ErrorCode::kNoMemory, "the guest needs " + mebibytes(needed) +
                                                " of memory, and " + room.limited_by + " leaves " +
                                                mebibytes(room.bytes))
        .advise("free memory at the target, raise the limit, or choose another target");
  }
  // A memfd is a file to this limit, and going past it kills the process (SIGXFSZ).
  rlimit file{};
  if (huge_page_bytes == 0 && ::getrlimit(RLIMIT_FSIZE, &file) == 0 && largest > file.rlim_cur) {
    return make_error(ErrorCode::kNoMemory,
                      "a memory slot of " + mebibytes(largest) +
                          " is larger than the file size limit of this process allows")
        .advise("raise the limit (ulimit -f unlimited) at the target");
  }
  return {};
}

}  // namespace migrate::kvm
