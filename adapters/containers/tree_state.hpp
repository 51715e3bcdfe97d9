// What a container's source tells its target beside memory: pure encode and decode.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// What is mounted in the tree from outside of it, and that the target provides.
struct ExternalMount {
  std::string point;  ///< In the tree.
  std::string key;    ///< What it is called at both ends.
  friend bool operator==(const ExternalMount&, const ExternalMount&) = default;
};
// Keys of what the target provides unasked.
/// The tree's cgroups: alone for version 2, followed by ":cpu,cpuacct" or ":name=systemd" for a
/// hierarchy of version 1.
inline constexpr std::string_view kCgroupKey = "tree-cgroup";
/// An empty folder, with which runtimes hide parts of /proc and /sys.
inline constexpr std::string_view kNothingKey = "tree-nothing";
/// Followed by the name of a device without state, such as "null": /dev/null, also in place of a
/// file that is hidden.
inline constexpr std::string_view kDeviceKey = "tree-device:";
[[nodiscard]] inline bool is_provided_unasked(const ExternalMount& mount) {
  return mount.key.starts_with(kCgroupKey) || mount.key == kNothingKey ||
         mount.key.starts_with(kDeviceKey);
}

/// Properties of the description: "container.tree", what the target must fit before anything moves,
/// and "container.mounts" and "container.outputs" where there are any.
struct TreeDescription {
  std::string criu_version;        ///< "4.2.1"; the target's must not be older.
  std::string machine;             ///< uname -m.
  bool pid_namespace = false;      ///< Its own; otherwise `pids` must be free at the target.
  bool mount_namespace = false;    ///< Its own: the target needs a root.
  bool network_namespace = false;  ///< Its own: the target needs one for it.
  bool tcp = false;                ///< Has TCP connections that go on.
  std::vector<pid_t> pids;         ///< Of processes and threads, as the tree numbers them.
  std::vector<ExternalMount> mounts;
  /// Pipes that the tree writes to and others read, as in "pipe:[4711]".
  std::vector<std::uint32_t> outputs;
};
[[nodiscard]] GuestDescription::Property to_property(const TreeDescription& tree);
[[nodiscard]] GuestDescription::Property to_property(const std::vector<ExternalMount>& mounts);
[[nodiscard]] GuestDescription::Property to_property(const std::vector<std::uint32_t>& outputs);
[[nodiscard]] Result<TreeDescription> parse_tree(const GuestDescription& description);

/// What CRIU's images call the tree's own network namespace: a key of --external at the source and
/// of CriuRestore::inherited at the target.
inline constexpr std::string_view kNetworkKey = "tree-network";

/// Section "container.spaces", the first: whose memory an address space is. Processes come and go
/// until the tree is frozen.
struct SpaceOwner {
  std::uint32_t space = 0;
  pid_t pid = 0;  ///< As the tree numbers it: the NN of CRIU's mm-NN.img.
  friend bool operator==(const SpaceOwner&, const SpaceOwner&) = default;
};
inline constexpr std::string_view kSpacesSection = "container.spaces";
[[nodiscard]] std::vector<std::byte> encode_spaces(std::span<const SpaceOwner> owners);
[[nodiscard]] Result<std::vector<SpaceOwner>> parse_spaces(std::span<const std::byte> body);

/// Section "container.empty", the second: memory of a process that holds nothing, so that it is in
/// no region and in no image. Whatever else nobody has is missing, and no zeros.
struct EmptyArea {
  std::uint32_t space = 0;
  std::uint64_t begin = 0;  ///< Addresses, page-aligned.
  std::uint64_t end = 0;
  friend bool operator==(const EmptyArea&, const EmptyArea&) = default;
};
inline constexpr std::string_view kEmptySection = "container.empty";
/// In order of spaces and addresses.
[[nodiscard]] std::vector<std::byte> encode_empty(std::span<const EmptyArea> areas);
[[nodiscard]] Result<std::vector<EmptyArea>> parse_empty(std::span<const std::byte> body);

/// Sections "criu.NAME": the image files, in no order. NAME is the file's own (lower case letters,
/// digits, dots and dashes, at most 48 bytes; what else CRIU may write refuses the migration).
inline constexpr std::string_view kImagePrefix = "criu.";
[[nodiscard]] Result<std::string> image_section(std::string_view file);
/// The file's name of a section, checked: no path, nothing hidden. kProtocol for a hostile one.
[[nodiscard]] Result<std::string> image_file(std::string_view section);

}  // namespace migrate::containers
