#include "adapters/containers/source/tree_outputs.hpp"

#include <fcntl.h>

#include <charconv>
#include <cstdlib>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace migrate::containers {
namespace {

/// 4711 of "pipe:[4711]".
std::optional<std::uint32_t> pipe_number(std::string_view target) {
  constexpr std::string_view kBegin = "pipe:[";
  if (!target.starts_with(kBegin) || !target.ends_with("]")) return std::nullopt;
  target.remove_prefix(kBegin.size());
  target.remove_suffix(1);
  std::uint32_t number = 0;
  const auto parsed = std::from_chars(target.data(), target.data() + target.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != target.data() + target.size()) return std::nullopt;
  return number;
}

/// How it was opened; read-only where that is not known.
int access_mode(pid_t pid, int descriptor) {
  const std::string text =
      read_proc(proc_path(pid, "fdinfo/" + std::to_string(descriptor))).value_or("");
  constexpr std::string_view kKey = "flags:";
  const std::size_t at = text.find(kKey);
  if (at == std::string::npos) return O_RDONLY;
  constexpr int kOctal = 8;
  const auto flags = std::strtoul(text.c_str() + at + kKey.size(), nullptr, kOctal);
  return static_cast<int>(flags) & O_ACCMODE;
}

}  // namespace

std::vector<std::uint32_t> outputs_of(const std::vector<TreeProcess>& tree) {
  std::map<std::uint32_t, bool> read_by_tree;
  for (const TreeProcess& process : tree) {
    for (const int descriptor : numbers_in(proc_path(process.pid, "fd"))) {
      const std::string name = "fd/" + std::to_string(descriptor);
      const auto number = pipe_number(read_link(proc_path(process.pid, name)));
      if (!number) continue;
      bool& read = read_by_tree.try_emplace(*number, false).first->second;
      read = read || access_mode(process.pid, descriptor) != O_WRONLY;
    }
  }
  std::vector<std::uint32_t> outputs;
  for (const auto& [number, read] : read_by_tree) {
    if (!read) outputs.push_back(number);
  }
  return outputs;
}

}  // namespace migrate::containers
