// How much memory this process may still take.
#pragma once

#include <cstdint>
#include <string>

#include "migrate/kvm.hpp"
#include "migrate/result.hpp"

namespace migrate::kvm {

struct MemoryRoom {
  std::uint64_t bytes = ~std::uint64_t{0};
  std::string limited_by;  ///< In words: "this host's free memory".
};

/// The least of what the host has free, what its cgroups leave it and its own resource limits. The
/// folders are parameters for tests; files that are missing limit nothing.
[[nodiscard]] MemoryRoom memory_room(const std::string& proc = "/proc",
                                     const std::string& cgroups = "/sys/fs/cgroup");

/// kNoMemory unless `machine` fits, tables included. Memory is given lazily, so a guest that does
/// not fit would be killed later, when its memory fills up. With `huge_page_bytes` its memory comes
/// from this host's pool of them (errors as check_huge_pages()), and only the tables from `room`.
Status check_memory_room(const KvmMachine& machine, const MemoryRoom& room,
                         std::uint64_t huge_page_bytes = 0);

}  // namespace migrate::kvm
