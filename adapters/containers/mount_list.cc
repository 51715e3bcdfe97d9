#include "adapters/containers/mount_list.hpp"

#include <algorithm>
#include <array>
#include <sstream>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"

namespace migrate::containers {
namespace {

/// A blank is \040 there, and so on.
std::string unescaped(const std::string& text) {
  constexpr std::size_t kDigits = 3;
  std::string plain;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::string digits = text[at] == '\\' ? text.substr(at + 1, kDigits) : "";
    const bool octal =
        digits.size() == kDigits && digits.find_first_not_of("01234567") == std::string::npos;
    plain += octal ? static_cast<char>(std::stoi(digits, nullptr, 8)) : text[at];
    if (octal) at += kDigits;
  }
  return plain;
}

/// What version 1 shows among a hierarchy's options that does not say which it is.
bool is_setting(const std::string& option) {
  constexpr std::array<std::string_view, 7> kSettings = {
      "rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "none"};
  return option.starts_with("release_agent=") ||
         std::find(kSettings.begin(), kSettings.end(), option) != kSettings.end();
}

}  // namespace

std::vector<MountEntry> parse_mount_list(std::string_view mountinfo) {
  std::vector<MountEntry> mounts;
  std::istringstream lines{std::string(mountinfo)};
  for (std::string line; std::getline(lines, line);) {
    const std::size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    std::istringstream front(line.substr(0, dash));
    std::istringstream back(line.substr(dash + 3));
    MountEntry mount;
    std::string id, parent, source;
    front >> id >> parent >> mount.device >> mount.root >> mount.point;
    back >> mount.type >> source >> mount.options;
    if (mount.point.empty() || mount.type.empty()) continue;
    mount.root = unescaped(mount.root);
    mount.point = unescaped(mount.point);
    mounts.push_back(std::move(mount));
  }
  return mounts;
}

std::vector<MountEntry> mounts_of(pid_t pid) {
  return parse_mount_list(read_proc(proc_path(pid, "mountinfo")).value_or(""));
}

std::string cgroup_hierarchy(const MountEntry& mount) {
  if (mount.type != "cgroup") return {};
  std::vector<std::string> words;
  std::istringstream options(mount.options);
  for (std::string word; std::getline(options, word, ',');) {
    if (!is_setting(word)) words.push_back(std::move(word));
  }
  std::sort(words.begin(), words.end());
  std::string name;
  for (const std::string& word : words) name += (name.empty() ? "" : ",") + word;
  return name;
}

}  // namespace migrate::containers
