#include "adapters/containers/source/tree_mounts.hpp"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <optional>
#include <string_view>
#include <system_error>
#include <utility>

#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tree_facts.hpp"

namespace migrate::containers {
namespace {

/// Where CRIU finds what belongs to it by itself, at both ends alike: "mnt[]", "mnt[]:s".
constexpr std::string_view kAutomatic = "mnt[]";

constexpr unsigned kMemoryDevices = 1;
/// By their minor numbers; all hosts have them.
constexpr std::array<std::pair<unsigned, std::string_view>, 5> kDevices = {
    {{3, "null"}, {5, "zero"}, {7, "full"}, {8, "random"}, {9, "urandom"}}};

/// What CRIU mounts anew, with its content where it has any (criu(8), "Mounts").
bool is_mounted_anew(const std::string& type) {
  constexpr std::array<std::string_view, 14> kTypes = {
      "proc",    "sysfs",   "devtmpfs",    "tmpfs",   "devpts",  "mqueue", "securityfs",
      "debugfs", "tracefs", "binfmt_misc", "overlay", "fusectl", "pstore", "aufs"};
  return std::find(kTypes.begin(), kTypes.end(), type) != kTypes.end();
}

/// `part` is `whole` or below it.
bool is_within(const std::string& part, const std::string& whole) {
  if (whole == "/" || part == whole) return true;
  return part.starts_with(whole) && part[whole.size()] == '/';
}

/// It shows a part of what another mount shows, from which CRIU binds it.
bool has_whole(const MountEntry& mount, std::span<const MountEntry> mounts) {
  return std::any_of(mounts.begin(), mounts.end(), [&](const MountEntry& other) {
    const bool wider = other.root.size() < mount.root.size() || other.point == "/";
    return &other != &mount && other.device == mount.device && wider &&
           is_within(mount.root, other.root);
  });
}

std::string key_of_cgroups(const MountEntry& mount) {
  const std::string hierarchy = cgroup_hierarchy(mount);
  return std::string(kCgroupKey) + (hierarchy.empty() ? "" : ":" + hierarchy);
}

/// "mnt[POINT]:KEY"; nullopt for other words.
std::optional<ExternalMount> parse_word(const std::string& word) {
  constexpr std::string_view kBegin = "mnt[";
  const std::size_t end = word.find("]:");
  if (!word.starts_with(kBegin) || word.starts_with(kAutomatic) || end == std::string::npos) {
    return std::nullopt;
  }
  return ExternalMount{word.substr(kBegin.size(), end - kBegin.size()), word.substr(end + 2)};
}

/// Only below /proc and /sys is an empty folder there to hide something.
std::string look_at(const std::string& path, const std::string& point) {
  struct stat facts {};
  if (::lstat(path.c_str(), &facts) != 0) return {};
  if (S_ISCHR(facts.st_mode) && major(facts.st_rdev) == kMemoryDevices) {
    const auto* const found = std::find_if(kDevices.begin(), kDevices.end(), [&](const auto& one) {
      return one.first == minor(facts.st_rdev);
    });
    return found == kDevices.end() ? "" : std::string(kDeviceKey) + std::string(found->second);
  }
  const bool hides = point.starts_with("/proc/") || point.starts_with("/sys/");
  std::error_code error;
  if (!hides || !S_ISDIR(facts.st_mode) || !std::filesystem::is_empty(path, error) || error) {
    return {};
  }
  return std::string(kNothingKey);
}

std::string to_word(const ExternalMount& mount) { return "mnt[" + mount.point + "]:" + mount.key; }

}  // namespace

std::vector<ExternalMount> external_mounts(std::span<const MountEntry> mounts,
                                           std::span<const std::string> named,
                                           const MountLook& look) {
  std::vector<ExternalMount> found;
  bool automatic = false;
  for (const std::string& word : named) {
    automatic = automatic || word.starts_with(kAutomatic);
    if (auto mount = parse_word(word)) found.push_back(*std::move(mount));
  }
  for (const MountEntry& mount : mounts) {
    const bool known = std::any_of(found.begin(), found.end(), [&](const ExternalMount& one) {
      return one.point == mount.point;
    });
    // The root is the target's to give.
    if (known || mount.point == "/") continue;
    if (shows_cgroups(mount)) {
      found.push_back({mount.point, key_of_cgroups(mount)});
      continue;
    }
    const bool inside = mount.root == "/" ? is_mounted_anew(mount.type) : has_whole(mount, mounts);
    if (inside) continue;
    if (std::string key = look(mount.point); !key.empty()) {
      found.push_back({mount.point, std::move(key)});
    } else if (!automatic) {
      found.push_back({mount.point, mount.point});
    }
  }
  return found;
}

std::vector<ExternalMount> external_mounts(const ContainerSourceOptions& options) {
  std::vector<MountEntry> mounts;
  if (has_own_namespace(options.root, "mnt")) mounts = mounts_of(options.root);
  return external_mounts(mounts, options.externals, [&](const std::string& point) {
    return look_at(proc_path(options.root, "root") + point, point);
  });
}

std::vector<std::string> external_words(const ContainerSourceOptions& options) {
  std::vector<std::string> words = options.externals;
  for (const ExternalMount& mount : external_mounts(options)) {
    std::string word = to_word(mount);
    if (std::find(words.begin(), words.end(), word) == words.end()) {
      words.push_back(std::move(word));
    }
  }
  return words;
}

}  // namespace migrate::containers
