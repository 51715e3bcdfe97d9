#include "adapters/containers/source/obstacles.hpp"

#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "adapters/containers/source/tree_mounts.hpp"

#include "base/log.hpp"

namespace migrate::containers {
namespace {

/// Shared memory goes while the tree stands: at 1 GB/s this much is 64 ms.
constexpr std::uint64_t kMuchSharedKb = 64 * 1024;
/// Shared since a fork: small programs share their libraries' data, and that is not worth a word.
constexpr std::uint64_t kMuchForkedKb = 32 * 1024;
constexpr int kCapSysResource = 24;

std::string process_text(pid_t pid) { return "process " + std::to_string(pid); }

bool has_capability(int number) {
  const std::string text = read_proc("/proc/self/status").value_or("");
  const std::size_t at = text.find("\nCapEff:");
  if (at == std::string::npos) return false;
  const auto bits = std::strtoull(text.c_str() + at + 8, nullptr, 16);
  return (bits >> number & 1) != 0;
}

void find_in_status(const TreeProcess& process, const ProcessFacts& facts,
                    const std::set<pid_t>& numbers, Findings& findings) {
  const std::string who = process_text(process.pid);
  if (facts.tracer != 0) {
    findings.push_back({true, who + " is traced by process " + std::to_string(facts.tracer),
                        "end the debugger or strace that traces it"});
  }
  if (!facts.sessions.empty() && !numbers.contains(facts.sessions.back())) {
    findings.push_back({true,
                        who + " is in the session of a process outside the tree (" +
                            std::to_string(facts.sessions.back()) + ")",
                        "start the tree by setsid, or name the session's leader as its root"});
  }
  const bool other_user = std::any_of(facts.uids.begin(), facts.uids.end(),
                                      [](uid_t uid) { return uid != ::geteuid(); });
  if (other_user && !has_capability(kCapSysResource)) {
    findings.push_back({true,
                        who + " runs as another user (" + std::to_string(facts.uids[0]) +
                            "), and this process lacks CAP_SYS_RESOURCE to move that",
                        "run migrate with CAP_SYS_RESOURCE"});
  }
  if (facts.locked_kb != 0) {
    findings.push_back({false,
                        who + " has " + std::to_string(facts.locked_kb) +
                            " KiB of locked memory, which goes while the tree stands",
                        ""});
  }
  if (facts.hugetlb_kb != 0) {
    findings.push_back({false,
                        who + " has " + std::to_string(facts.hugetlb_kb) +
                            " KiB of huge pages, which go while the tree stands",
                        ""});
  }
}

void find_in_mappings(const TreeProcess& process, Findings& findings) {
  if (does_asynchronous_io(process.pid)) {
    findings.push_back({true,
                        process_text(process.pid) +
                            " does asynchronous I/O (io_setup), which writes to its memory unseen",
                        "make the program use read and write, or end it"});
  }
}

/// What processes still share of what they had before they forked takes its room once, as long as
/// nobody writes it.
void find_forked_pages(const std::vector<TreeProcess>& tree, Findings& findings) {
  if (tree.size() < 2) return;
  std::uint64_t all_kb = 0;
  std::uint64_t shares_kb = 0;
  for (const TreeProcess& process : tree) {
    const std::string text = read_proc(proc_path(process.pid, "smaps_rollup")).value_or("");
    all_kb += kilobytes(text, "Anonymous");
    shares_kb += kilobytes(text, "Pss_Anon");
  }
  if (all_kb < shares_kb + kMuchForkedKb) return;
  findings.push_back(
      {false,
       "memory that the tree's processes have shared since they forked is not shared "
       "at the target, where the tree takes " +
           std::to_string((all_kb - shares_kb) / 1024) + " MiB more",
       "have as much room there"});
}

void find_in_mounts(const ContainerSourceOptions& options, Findings& findings) {
  for (const ExternalMount& mount : external_mounts(options)) {
    if (is_provided_unasked(mount)) continue;
    findings.push_back(
        {false, mount.point + " is mounted in the tree from outside of it",
         "name its place at the target: recv --container-external 'mnt[" + mount.key + "]:PLACE'"});
  }
}

void find_in_kernel(Findings& findings) {
  if (read_proc("/proc/self/mountinfo").value_or("").find(" - cgroup2 ") == std::string::npos) {
    findings.push_back({true, "this host has no cgroup hierarchy of version 2 mounted",
                        "mount it: mount -t cgroup2 none /sys/fs/cgroup/unified"});
  }
}

}  // namespace

bool does_asynchronous_io(pid_t pid) {
  const std::string maps = read_proc(proc_path(pid, "maps")).value_or("");
  return maps.find(" /[aio]") != std::string::npos;
}

Findings find_obstacles(const ContainerSourceOptions& options) {
  Findings findings;
  std::vector<TreeProcess> tree = list_descendants(options.root);
  std::erase_if(tree, [](const TreeProcess& process) { return process.zombie; });
  std::set<pid_t> numbers;
  std::vector<std::pair<TreeProcess, ProcessFacts>> known;
  std::uint64_t shared_kb = 0;
  for (const TreeProcess& process : tree) {
    auto facts = process_facts(process.pid);
    if (!facts) continue;
    if (!facts->pids.empty()) numbers.insert(facts->pids.back());
    shared_kb += facts->shared_kb;
    known.emplace_back(process, *std::move(facts));
  }
  for (const auto& [process, facts] : known) {
    // It would freeze itself, and nobody would be left to thaw anything.
    if (process.pid == ::getpid()) {
      findings.push_back({true,
                          "this program runs within the tree, as " + process_text(process.pid),
                          "run migrate outside of the tree, or name a first process below it"});
    }
    find_in_status(process, facts, numbers, findings);
    find_in_mappings(process, findings);
  }
  find_in_descriptors(tree, findings);
  if (shared_kb >= kMuchSharedKb) {
    findings.push_back({false,
                        "the tree has up to " + std::to_string(shared_kb / 1024) +
                            " MiB of shared memory in use, which goes while the tree stands",
                        "reckon with about 1 ms for each MiB on a link of 10 Gbit/s"});
  }
  find_forked_pages(tree, findings);
  find_in_mounts(options, findings);
  find_in_kernel(findings);
  return findings;
}

Status refuse_obstacles(const ContainerSourceOptions& options) {
  if (::geteuid() != 0) {
    return make_error(ErrorCode::kPermission, "moving a process tree needs root")
        .advise("run migrate as root");
  }
  std::string reasons;
  std::string remedy;
  for (const ContainerFinding& finding : find_obstacles(options)) {
    if (!finding.blocks) {
      log_line(LogLevel::kWarning,
               finding.what + (finding.remedy.empty() ? "" : ": " + finding.remedy));
      continue;
    }
    if (remedy.empty()) remedy = finding.remedy;
    reasons += (reasons.empty() ? "" : "; ") + finding.what;
  }
  if (reasons.empty()) return {};
  return make_error(ErrorCode::kUnsupported, "the tree cannot be moved: " + reasons)
      .advise(std::move(remedy));
}

}  // namespace migrate::containers
