#include "adapters/containers/source/process_tree.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <climits>
#include <memory>
#include <set>
#include <sstream>
#include <utility>

#include "base/fd.hpp"

namespace migrate::containers {
namespace {

/// The line of `text` that begins with `key`, without it.
std::string line_after(std::string_view text, std::string_view key) {
  const std::string wanted = "\n" + std::string(key) + ":";
  const std::size_t at = text.find(wanted);
  if (at == std::string_view::npos) return {};
  const std::size_t begin = at + wanted.size();
  return std::string(text.substr(begin, text.find('\n', begin) - begin));
}

template <typename Number>
std::vector<Number> numbers(const std::string& line) {
  std::vector<Number> values;
  std::istringstream text(line);
  for (Number value{}; text >> value;) values.push_back(value);
  return values;
}

std::vector<pid_t> children_of(pid_t pid) {
  std::vector<pid_t> children;
  for (const int tid : numbers_in(proc_path(pid, "task"))) {
    const auto text = read_proc(proc_path(pid, "task/" + std::to_string(tid) + "/children"));
    if (!text) continue;
    const auto some = numbers<pid_t>(*text);
    children.insert(children.end(), some.begin(), some.end());
  }
  return children;
}

Error gone(pid_t pid) {
  return make_error(ErrorCode::kNotFound, "there is no process " + std::to_string(pid));
}

}  // namespace

std::optional<std::string> read_proc(const std::string& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::string text;
  std::array<char, 16384> piece;
  for (;;) {
    const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) return text;
    text.append(piece.data(), static_cast<std::size_t>(got));
  }
}

std::uint64_t kilobytes(std::string_view text, std::string_view key) {
  const auto values = numbers<std::uint64_t>(line_after(text, key));
  return values.empty() ? 0 : values.front();
}

std::string proc_path(pid_t pid, std::string_view name) {
  return "/proc/" + std::to_string(pid) + "/" + std::string(name);
}

std::string read_link(const std::string& path) {
  std::array<char, PATH_MAX> target;
  const ssize_t length = ::readlink(path.c_str(), target.data(), target.size());
  return length < 0 ? std::string() : std::string(target.data(), static_cast<std::size_t>(length));
}

std::vector<int> numbers_in(const std::string& folder) {
  std::vector<int> found;
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(folder.c_str()), &::closedir);
  if (entries == nullptr) return found;
  while (const dirent* entry = ::readdir(entries.get())) {
    const std::string_view name = entry->d_name;
    int value = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), value);
    if (parsed.ec == std::errc() && parsed.ptr == name.data() + name.size()) found.push_back(value);
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::optional<TreeProcess> parse_process_stat(std::string_view text) {
  // "PID (NAME) STATE PPID ...": the name may have anything in it, also brackets and blanks.
  const std::size_t name_end = text.rfind(") ");
  if (name_end == std::string_view::npos) return std::nullopt;
  TreeProcess process;
  std::istringstream front{std::string(text.substr(0, text.find(' ')))};
  std::istringstream rest{std::string(text.substr(name_end + 2))};
  char state = '?';
  if (!(front >> process.pid) || !(rest >> state >> process.parent)) return std::nullopt;
  std::string skipped;
  // Fields 5 to 21 of proc(5); 22 is the start.
  for (int field = 5; field <= 21; ++field) rest >> skipped;
  if (!(rest >> process.start_time)) return std::nullopt;
  for (int field = 23; field <= 27; ++field) rest >> skipped;
  if (!(rest >> process.stack)) return std::nullopt;
  process.zombie = state == 'Z' || state == 'X';
  return process;
}

std::optional<TreeProcess> look_at_process(pid_t pid) {
  if (pid <= 0) return std::nullopt;
  const auto text = read_proc(proc_path(pid, "stat"));
  return text ? parse_process_stat(*text) : std::nullopt;
}

std::vector<TreeProcess> list_descendants(pid_t root) {
  std::vector<TreeProcess> tree;
  std::set<pid_t> seen;
  if (const auto first = look_at_process(root)) {
    tree.push_back(*first);
    seen.insert(root);
  }
  for (std::size_t at = 0; at < tree.size(); ++at) {
    for (const pid_t child : children_of(tree[at].pid)) {
      const auto process = look_at_process(child);
      if (process && seen.insert(child).second) tree.push_back(*process);
    }
  }
  return tree;
}

ProcessFacts parse_process_facts(std::string_view status) {
  ProcessFacts facts;
  facts.pids = numbers<pid_t>(line_after(status, "NSpid"));
  facts.sessions = numbers<pid_t>(line_after(status, "NSsid"));
  const auto tracer = numbers<pid_t>(line_after(status, "TracerPid"));
  if (!tracer.empty()) facts.tracer = tracer.front();
  const auto uids = numbers<uid_t>(line_after(status, "Uid"));
  for (std::size_t i = 0; i < uids.size() && i < facts.uids.size(); ++i) facts.uids[i] = uids[i];
  facts.locked_kb = kilobytes(status, "VmLck");
  facts.resident_kb = kilobytes(status, "VmRSS");
  facts.shared_kb = kilobytes(status, "RssShmem");
  facts.hugetlb_kb = kilobytes(status, "HugetlbPages");
  return facts;
}

Result<ProcessFacts> process_facts(pid_t pid) {
  const auto text = read_proc(proc_path(pid, "status"));
  if (!text) return gone(pid);
  return parse_process_facts(*text);
}

Result<pid_t> number_in_tree(pid_t pid) {
  MIGRATE_ASSIGN(const ProcessFacts facts, process_facts(pid));
  if (facts.pids.empty()) return gone(pid);
  return facts.pids.back();
}

std::vector<pid_t> thread_numbers_in_tree(pid_t pid) {
  std::vector<pid_t> found;
  for (const int tid : numbers_in(proc_path(pid, "task"))) {
    const auto text = read_proc(proc_path(pid, "task/" + std::to_string(tid) + "/status"));
    if (!text) continue;
    const ProcessFacts facts = parse_process_facts(*text);
    if (!facts.pids.empty()) found.push_back(facts.pids.back());
  }
  return found;
}

}  // namespace migrate::containers
