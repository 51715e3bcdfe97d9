// The processes of a tree, and what /proc tells of each.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::containers {

struct TreeProcess {
  pid_t pid = 0;                 ///< As numbered in this process's pid namespace.
  std::uint64_t start_time = 0;  ///< Clock ticks since the boot: tells a pid that is used again.
  pid_t parent = 0;
  std::uint64_t stack = 0;  ///< Where its main stack begins: each program's own.
  bool zombie = false;
  friend bool operator==(const TreeProcess&, const TreeProcess&) = default;
};

/// Of /proc/PID/stat; nullopt for what the kernel does not write.
[[nodiscard]] std::optional<TreeProcess> parse_process_stat(std::string_view text);
/// nullopt once it is gone.
[[nodiscard]] std::optional<TreeProcess> look_at_process(pid_t pid);

/// `root` and all its descendants, parents before children; empty without such a process. A tree
/// that forks meanwhile may have more: exact only while it stands.
[[nodiscard]] std::vector<TreeProcess> list_descendants(pid_t root);

/// What /proc/PID/status tells beside.
struct ProcessFacts {
  std::vector<pid_t> pids;        ///< NSpid: by namespace, the outermost first.
  std::vector<pid_t> sessions;    ///< NSsid, likewise.
  pid_t tracer = 0;               ///< Who ptraces it; 0 for nobody.
  std::array<uid_t, 4> uids{};    ///< Real, effective, saved, of file access.
  std::uint64_t resident_kb = 0;  ///< VmRSS.
  std::uint64_t locked_kb = 0;    ///< VmLck.
  std::uint64_t shared_kb = 0;    ///< RssShmem.
  std::uint64_t hugetlb_kb = 0;   ///< HugetlbPages.
};
[[nodiscard]] ProcessFacts parse_process_facts(std::string_view status);
/// kNotFound once it is gone.
[[nodiscard]] Result<ProcessFacts> process_facts(pid_t pid);
/// The process's number in its own pid namespace: what the tree, and CRIU's images, call it.
/// kNotFound once it is gone.
[[nodiscard]] Result<pid_t> number_in_tree(pid_t pid);
/// Of all its threads, likewise.
[[nodiscard]] std::vector<pid_t> thread_numbers_in_tree(pid_t pid);

/// All of a file under /proc; nullopt where it cannot be read.
[[nodiscard]] std::optional<std::string> read_proc(const std::string& path);
/// Of a line "KEY:   123 kB" of such a file; 0 where there is none.
[[nodiscard]] std::uint64_t kilobytes(std::string_view text, std::string_view key);
/// "/proc/PID/NAME".
[[nodiscard]] std::string proc_path(pid_t pid, std::string_view name);
/// Where a link leads, as the kernel says it; empty where it cannot be read.
[[nodiscard]] std::string read_link(const std::string& path);
/// The numbers that a folder's entries are named by, in order: threads, descriptors.
[[nodiscard]] std::vector<int> numbers_in(const std::string& folder);

}  // namespace migrate::containers
