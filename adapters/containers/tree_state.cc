#include "adapters/containers/tree_state.hpp"

#include <algorithm>
#include <utility>

#include "base/bytes.hpp"

namespace migrate::containers {
namespace {

constexpr std::string_view kTreeProperty = "container.tree";
constexpr std::uint32_t kTreeVersion = 1;
constexpr std::string_view kMountsProperty = "container.mounts";
constexpr std::uint32_t kMountsVersion = 1;
constexpr std::string_view kOutputsProperty = "container.outputs";
constexpr std::uint32_t kOutputsVersion = 1;

/// Of a version or a machine's name.
constexpr std::size_t kTextMax = 64;
/// The kernel numbers no more processes and threads (PID_MAX_LIMIT).
constexpr std::uint32_t kPidsMax = 4U << 20;
constexpr std::size_t kImageNameMax = 48;
/// Of a mount's place and key: PATH_MAX.
constexpr std::size_t kPathMax = 4096;
/// As the kernel limits a mount namespace (fs.mount-max) where nobody has changed it.
constexpr std::uint32_t kMountsMax = 100'000;

constexpr std::uint8_t kPidNamespace = 1;
constexpr std::uint8_t kMountNamespace = 2;
constexpr std::uint8_t kNetworkNamespace = 4;
constexpr std::uint8_t kTcp = 8;
constexpr std::uint8_t kKnownFlags = kPidNamespace | kMountNamespace | kNetworkNamespace | kTcp;

void put_text(ByteWriter& writer, std::string_view text) {
  text = text.substr(0, kTextMax);
  writer.put(static_cast<std::uint8_t>(text.size()));
  writer.bytes(std::as_bytes(std::span(text)));
}

/// What is not printable, or too long, makes it empty: refused by the caller.
std::string get_text(ByteReader& reader) {
  const auto length = reader.get<std::uint8_t>();
  if (length > kTextMax) return {};
  const auto bytes = reader.bytes(length);
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const bool plain =
      std::all_of(text.begin(), text.end(), [](char c) { return c > ' ' && c < 127; });
  return plain ? text : std::string();
}

Error broken(const std::string& what, const std::string& why) {
  return make_error(ErrorCode::kProtocol, what + " " + why);
}

void put_path(ByteWriter& writer, std::string_view text) {
  text = text.substr(0, kPathMax);
  writer.put(static_cast<std::uint16_t>(text.size()));
  writer.bytes(std::as_bytes(std::span(text)));
}

/// What is empty, too long or no text makes it empty: refused by the caller.
std::string get_path(ByteReader& reader) {
  const auto length = reader.get<std::uint16_t>();
  if (length > kPathMax) return {};
  const auto bytes = reader.bytes(length);
  std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const bool control = std::any_of(text.begin(), text.end(), [](char c) {
    return static_cast<unsigned char>(c) < ' ' || c == 127;
  });
  return control ? std::string() : text;
}

Error other_version(const std::string& what, std::uint32_t version, std::uint32_t known) {
  return make_error(ErrorCode::kIncompatible, what + " has version " + std::to_string(version) +
                                                  ", and this program knows " +
                                                  std::to_string(known))
      .advise("use the same version of migrate on both hosts");
}

const GuestDescription::Property* find_property(const GuestDescription& description,
                                                std::string_view name) {
  const auto found = std::find_if(description.properties.begin(), description.properties.end(),
                                  [name](const auto& one) { return one.info.name == name; });
  return found == description.properties.end() ? nullptr : &*found;
}

Result<std::vector<std::uint32_t>> parse_outputs(const GuestDescription& description) {
  std::vector<std::uint32_t> outputs;
  const GuestDescription::Property* const found = find_property(description, kOutputsProperty);
  if (found == nullptr) return outputs;
  const std::string what = "property " + std::string(kOutputsProperty);
  if (found->info.version != kOutputsVersion) {
    return other_version(what, found->info.version, kOutputsVersion);
  }
  ByteReader reader(found->body);
  const auto count = reader.get<std::uint32_t>();
  MIGRATE_TRY(reader.check(what));
  if (reader.remaining() != std::uint64_t{count} * sizeof(std::uint32_t)) {
    return broken(what, "has a wrong number of pipes, " + std::to_string(count));
  }
  outputs.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) outputs.push_back(reader.get<std::uint32_t>());
  MIGRATE_TRY(reader.finish(what));
  return outputs;
}

Result<std::vector<ExternalMount>> parse_mounts(const GuestDescription& description) {
  std::vector<ExternalMount> mounts;
  const GuestDescription::Property* const found = find_property(description, kMountsProperty);
  if (found == nullptr) return mounts;
  const std::string what = "property " + std::string(kMountsProperty);
  if (found->info.version != kMountsVersion) {
    return other_version(what, found->info.version, kMountsVersion);
  }
  ByteReader reader(found->body);
  const auto count = reader.get<std::uint32_t>();
  MIGRATE_TRY(reader.check(what));
  if (count > kMountsMax) return broken(what, "has too many mounts, " + std::to_string(count));
  for (std::uint32_t i = 0; i < count; ++i) {
    ExternalMount mount;
    mount.point = get_path(reader);
    mount.key = get_path(reader);
    MIGRATE_TRY(reader.check(what));
    if (!mount.point.starts_with('/') || mount.key.empty()) {
      return broken(what, "has a mount without a place or a name: number " + std::to_string(i));
    }
    mounts.push_back(std::move(mount));
  }
  MIGRATE_TRY(reader.finish(what));
  return mounts;
}

/// A name that may be given to a file in the images' folder, and to a section.
bool fits(std::string_view name) {
  if (name.empty() || name.size() > kImageNameMax || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
  });
}

}  // namespace

GuestDescription::Property to_property(const TreeDescription& tree) {
  GuestDescription::Property property;
  property.info = {std::string(kTreeProperty), kTreeVersion, true};
  ByteWriter writer(property.body);
  put_text(writer, tree.criu_version);
  put_text(writer, tree.machine);
  std::uint8_t flags = 0;
  if (tree.pid_namespace) flags |= kPidNamespace;
  if (tree.mount_namespace) flags |= kMountNamespace;
  if (tree.network_namespace) flags |= kNetworkNamespace;
  if (tree.tcp) flags |= kTcp;
  writer.put(flags);
  writer.put(static_cast<std::uint32_t>(tree.pids.size()));
  for (const pid_t pid : tree.pids) writer.put(static_cast<std::int32_t>(pid));
  return property;
}

GuestDescription::Property to_property(const std::vector<ExternalMount>& mounts) {
  GuestDescription::Property property;
  property.info = {std::string(kMountsProperty), kMountsVersion, true};
  ByteWriter writer(property.body);
  writer.put(static_cast<std::uint32_t>(mounts.size()));
  for (const ExternalMount& mount : mounts) {
    put_path(writer, mount.point);
    put_path(writer, mount.key);
  }
  return property;
}

GuestDescription::Property to_property(const std::vector<std::uint32_t>& outputs) {
  GuestDescription::Property property;
  property.info = {std::string(kOutputsProperty), kOutputsVersion, true};
  ByteWriter writer(property.body);
  writer.put(static_cast<std::uint32_t>(outputs.size()));
  for (const std::uint32_t pipe : outputs) writer.put(pipe);
  return property;
}

Result<TreeDescription> parse_tree(const GuestDescription& description) {
  const GuestDescription::Property* const found = find_property(description, kTreeProperty);
  const std::string what = "property " + std::string(kTreeProperty);
  if (found == nullptr) return broken(what, "is missing");
  if (found->info.version != kTreeVersion) {
    return other_version(what, found->info.version, kTreeVersion);
  }
  ByteReader reader(found->body);
  TreeDescription tree;
  tree.criu_version = get_text(reader);
  tree.machine = get_text(reader);
  const auto flags = reader.get<std::uint8_t>();
  const auto count = reader.get<std::uint32_t>();
  MIGRATE_TRY(reader.check(what));
  if (tree.criu_version.empty() || tree.machine.empty()) {
    return broken(what, "names no CRIU or no machine");
  }
  if ((flags & ~kKnownFlags) != 0) return broken(what, "has flags that are not known");
  tree.pid_namespace = (flags & kPidNamespace) != 0;
  tree.mount_namespace = (flags & kMountNamespace) != 0;
  tree.network_namespace = (flags & kNetworkNamespace) != 0;
  tree.tcp = (flags & kTcp) != 0;
  if (count == 0 || count > kPidsMax || reader.remaining() != count * sizeof(std::int32_t)) {
    return broken(what, "has a wrong number of processes, " + std::to_string(count));
  }
  tree.pids.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto pid = reader.get<std::int32_t>();
    if (pid <= 0) return broken(what, "has a process numbered " + std::to_string(pid));
    tree.pids.push_back(pid);
  }
  MIGRATE_TRY(reader.finish(what));
  MIGRATE_ASSIGN(tree.mounts, parse_mounts(description));
  MIGRATE_ASSIGN(tree.outputs, parse_outputs(description));
  return tree;
}

std::vector<std::byte> encode_spaces(std::span<const SpaceOwner> owners) {
  std::vector<std::byte> body;
  ByteWriter writer(body);
  writer.put(static_cast<std::uint32_t>(owners.size()));
  for (const SpaceOwner& owner : owners) {
    writer.put(owner.space);
    writer.put(static_cast<std::int32_t>(owner.pid));
  }
  return body;
}

Result<std::vector<SpaceOwner>> parse_spaces(std::span<const std::byte> body) {
  const std::string what = "section " + std::string(kSpacesSection);
  ByteReader reader(body);
  const auto count = reader.get<std::uint32_t>();
  MIGRATE_TRY(reader.check(what));
  if (count > kPidsMax || reader.remaining() != count * (2 * sizeof(std::uint32_t))) {
    return broken(what, "has a wrong number of address spaces, " + std::to_string(count));
  }
  std::vector<SpaceOwner> owners;
  owners.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    SpaceOwner owner;
    owner.space = reader.get<std::uint32_t>();
    owner.pid = reader.get<std::int32_t>();
    if (owner.pid <= 0) return broken(what, "has a process numbered " + std::to_string(owner.pid));
    owners.push_back(owner);
  }
  MIGRATE_TRY(reader.finish(what));
  const auto twice = [&](auto member) {
    std::vector<std::int64_t> values;
    for (const SpaceOwner& owner : owners) values.push_back(owner.*member);
    std::sort(values.begin(), values.end());
    return std::adjacent_find(values.begin(), values.end()) != values.end();
  };
  if (twice(&SpaceOwner::space)) return broken(what, "gives an address space to two processes");
  if (twice(&SpaceOwner::pid)) return broken(what, "gives a process two address spaces");
  return owners;
}

std::vector<std::byte> encode_empty(std::span<const EmptyArea> areas) {
  std::vector<std::byte> body;
  ByteWriter writer(body);
  writer.put(static_cast<std::uint32_t>(areas.size()));
  for (const EmptyArea& area : areas) {
    writer.put(area.space);
    writer.put(area.begin);
    writer.put(area.end);
  }
  return body;
}

Result<std::vector<EmptyArea>> parse_empty(std::span<const std::byte> body) {
  const std::string what = "section " + std::string(kEmptySection);
  constexpr std::size_t kAreaBytes = sizeof(std::uint32_t) + 2 * sizeof(std::uint64_t);
  ByteReader reader(body);
  const auto count = reader.get<std::uint32_t>();
  MIGRATE_TRY(reader.check(what));
  if (reader.remaining() != std::uint64_t{count} * kAreaBytes) {
    return broken(what, "has a wrong number of areas, " + std::to_string(count));
  }
  std::vector<EmptyArea> areas;
  areas.reserve(count);
  for (std::uint32_t i = 0; i < count; ++i) {
    EmptyArea area;
    area.space = reader.get<std::uint32_t>();
    area.begin = reader.get<std::uint64_t>();
    area.end = reader.get<std::uint64_t>();
    const bool whole = area.begin % kPageSize == 0 && area.end % kPageSize == 0;
    const bool after = areas.empty() || areas.back().space < area.space ||
                       (areas.back().space == area.space && areas.back().end <= area.begin);
    if (!whole || area.begin >= area.end || !after) {
      return broken(what, "has an area that is none, or out of order: number " + std::to_string(i));
    }
    areas.push_back(area);
  }
  MIGRATE_TRY(reader.finish(what));
  return areas;
}

Result<std::string> image_section(std::string_view file) {
  if (fits(file)) return std::string(kImagePrefix) + std::string(file);
  return make_error(ErrorCode::kUnsupported,
                    "CRIU wrote an image file with a name that does not "
                    "travel: '" +
                        std::string(file) + "'")
      .advise("use a CRIU version that this program was tried with");
}

Result<std::string> image_file(std::string_view section) {
  if (section.starts_with(kImagePrefix)) {
    const std::string_view name = section.substr(kImagePrefix.size());
    if (fits(name)) return std::string(name);
  }
  return broken("section '" + std::string(section.substr(0, kTextMax)) + "'",
                "is no image file of CRIU");
}

}  // namespace migrate::containers
