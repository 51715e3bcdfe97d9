// The blobs inside blocks: description, state, directory.
#include <algorithm>

#include "base/bytes.hpp"
#include "checkpoint/image_format.hpp"

namespace migrate::checkpoint {
namespace {

constexpr std::size_t kTextMax = 4096;
constexpr std::size_t kListMax = 4096;
constexpr std::size_t kSectionNameMax = 64;
constexpr std::uint32_t kSectionsMax = 65536;
constexpr std::uint64_t kPagesMax = std::uint64_t{1} << 40;

void put_text(ByteWriter& out, const std::string& text) {
  out.put(static_cast<std::uint16_t>(text.size()));
  out.bytes(std::as_bytes(std::span(text)));
}
std::string get_text(ByteReader& in) {
  const auto bytes = in.bytes(in.get<std::uint16_t>());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void put_section(ByteWriter& out, const Section& section) {
  put_text(out, section.info.name);
  out.put(section.info.version);
  out.put(static_cast<std::uint8_t>(section.info.mandatory));
  out.put(static_cast<std::uint64_t>(section.body.size()));
  out.bytes(section.body);
}

Error wrong(const std::string& what, const std::string& why, std::size_t at) {
  return make_error(ErrorCode::kIntegrity, "the image's " + what + " is wrong at its byte " +
                                               std::to_string(at) + ": " + why)
      .advise("take another copy of it, or an older checkpoint");
}

/// A blob cut short or with bytes left over is damage, not a peer's fault.
Status finish(const ByteReader& in, const std::string& what) {
  if (Status status = in.finish("the image's " + what); !status) {
    return wrong(what, status.error().message, in.offset());
  }
  return {};
}

bool is_section_name(const std::string& name) {
  return !name.empty() && name.size() <= kSectionNameMax &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
                  c == '-';
         });
}

Result<std::vector<Section>> get_sections(ByteReader& in, std::uint32_t count,
                                          const std::string& what) {
  std::vector<Section> sections;
  if (count > kSectionsMax) return wrong(what, "too many sections", in.offset());
  for (std::uint32_t i = 0; i < count && in.ok(); ++i) {
    Section& section = sections.emplace_back();
    section.info.name = get_text(in);
    section.info.version = in.get<std::uint32_t>();
    section.info.mandatory = in.get<std::uint8_t>() != 0;
    const auto body = in.bytes(in.get<std::uint64_t>());
    if (!in.ok()) break;
    if (!is_section_name(section.info.name)) {
      return wrong(what, "a section has a name that none may have", in.offset());
    }
    section.body.assign(body.begin(), body.end());
  }
  return sections;
}

bool overlap(std::vector<Region> regions) {
  std::sort(regions.begin(), regions.end(), [](const Region& a, const Region& b) {
    return std::pair(a.id.space, a.range.first) < std::pair(b.id.space, b.range.first);
  });
  for (std::size_t i = 1; i < regions.size(); ++i) {
    const Region& before = regions[i - 1];
    if (before.id.space == regions[i].id.space &&
        regions[i].range.first - before.range.first < before.range.count) {
      return true;
    }
  }
  return false;
}

/// Memory is found by its region's id.
bool share_an_id(const std::vector<Region>& regions) {
  std::vector<RegionId> ids;
  for (const Region& region : regions) ids.push_back(region.id);
  std::sort(ids.begin(), ids.end());
  return std::adjacent_find(ids.begin(), ids.end()) != ids.end();
}

/// Whether a region may stand in an image at all.
bool fits(const Region& region) {
  return region.range.count > 0 && region.range.count <= kPagesMax &&
         region.range.first.number <= kPagesMax && region.backing <= Backing::kFile;
}

}  // namespace

Result<std::vector<std::byte>> description_payload(const ImageDescription& description) {
  const GuestDescription& guest = description.guest;
  for (const std::string* text : {&guest.name, &description.host, &description.parent_path}) {
    if (text->size() > kTextMax) {
      return make_error(ErrorCode::kInvalidArgument,
                        "a name or path of more than 4096 bytes has no place in an image: " +
                            text->substr(0, 64) + "...");
    }
  }
  if (guest.regions.empty() || guest.regions.size() > kListMax ||
      guest.properties.size() > kListMax) {
    return make_error(ErrorCode::kUnsupported,
                      "an image has 1 to 4096 regions and at most 4096 properties; the guest has " +
                          std::to_string(guest.regions.size()) + " and " +
                          std::to_string(guest.properties.size()));
  }
  if (!std::all_of(guest.regions.begin(), guest.regions.end(), fits) || overlap(guest.regions) ||
      share_an_id(guest.regions)) {
    return make_error(ErrorCode::kUnsupported,
                      "the guest has a region of more than 4 PiB, or two that overlap or have the "
                      "same id, for which an image has no room");
  }
  std::vector<std::byte> payload;
  ByteWriter out(payload);
  out.put(static_cast<std::uint8_t>(guest.kind));
  out.put(static_cast<std::uint8_t>(description.run_state));
  out.put(std::uint16_t{0});
  out.put(guest.vcpus);
  put_text(out, guest.name);
  put_text(out, description.host);
  put_text(out, description.parent_path);
  out.put(static_cast<std::uint32_t>(guest.regions.size()));
  for (const Region& region : guest.regions) {
    out.put(region.id.space);
    out.put(region.id.id);
    out.put(region.id.generation);
    out.put(static_cast<std::uint32_t>(region.backing));
    out.put(region.range.first.number);
    out.put(region.range.count);
  }
  out.put(static_cast<std::uint32_t>(guest.properties.size()));
  for (const Section& section : guest.properties) put_section(out, section);
  return payload;
}

Result<ImageDescription> parse_description(std::span<const std::byte> payload) {
  const std::string what = "description";
  ByteReader in(payload);
  ImageDescription description;
  GuestDescription& guest = description.guest;
  const auto kind = in.get<std::uint8_t>();
  const auto state = in.get<std::uint8_t>();
  in.get<std::uint16_t>();
  guest.kind = static_cast<GuestKind>(kind);
  description.run_state = static_cast<RunState>(state);
  guest.vcpus = in.get<std::uint32_t>();
  guest.name = get_text(in);
  description.host = get_text(in);
  description.parent_path = get_text(in);
  const auto regions = in.get<std::uint32_t>();
  if (!in.ok()) return wrong(what, "it is cut short", in.offset());
  if (kind < 1 || kind > 2 || state < 1 || state > 2) {
    return wrong(what, "it says neither what the guest is nor what it did", 0);
  }
  if (regions == 0 || regions > kListMax)
    return wrong(what, "no such number of regions", in.offset());
  for (std::uint32_t i = 0; i < regions && in.ok(); ++i) {
    Region& region = guest.regions.emplace_back();
    region.id.space = in.get<std::uint32_t>();
    region.id.id = in.get<std::uint32_t>();
    region.id.generation = in.get<std::uint32_t>();
    region.backing = static_cast<Backing>(in.get<std::uint32_t>());
    region.range.first.number = in.get<std::uint64_t>();
    region.range.count = in.get<std::uint64_t>();
    if (!in.ok()) break;
    if (!fits(region)) {
      return wrong(what, "region " + std::to_string(i) + " is none", in.offset());
    }
  }
  if (overlap(guest.regions) || share_an_id(guest.regions)) {
    return wrong(what, "regions overlap or have the same id", in.offset());
  }
  const auto properties = in.get<std::uint32_t>();
  if (properties > kListMax) return wrong(what, "too many properties", in.offset());
  MIGRATE_ASSIGN(guest.properties, get_sections(in, properties, what));
  MIGRATE_TRY(finish(in, what));
  return description;
}

std::vector<std::byte> state_payload(std::span<const Section> sections) {
  std::vector<std::byte> payload;
  ByteWriter out(payload);
  out.put(static_cast<std::uint32_t>(sections.size()));
  for (const Section& section : sections) put_section(out, section);
  return payload;
}

Result<std::vector<Section>> parse_state(std::span<const std::byte> payload) {
  ByteReader in(payload);
  const auto count = in.get<std::uint32_t>();
  MIGRATE_ASSIGN(std::vector<Section> sections, get_sections(in, count, "state"));
  MIGRATE_TRY(finish(in, "state"));
  return sections;
}

std::vector<std::byte> directory_payload(const Directory& directory) {
  std::vector<std::byte> payload;
  ByteWriter out(payload);
  out.put(directory.digest);
  out.put(directory.pages.stored);
  out.put(directory.pages.zero);
  out.put(directory.pages.duplicate);
  out.put(directory.pages.parent);
  out.put(directory.state_at);
  out.put(directory.state_bytes);
  for (const auto& region : directory.regions) {
    for (const Directory::Part& part : region) {
      out.put(part.where);
      out.put(part.hash);
    }
  }
  return payload;
}

Result<Directory> parse_directory(std::span<const std::byte> payload,
                                  std::span<const Region> regions) {
  const std::string what = "directory";
  ByteReader in(payload);
  Directory directory;
  directory.digest = in.get<std::uint64_t>();
  directory.pages.stored = in.get<std::uint64_t>();
  directory.pages.zero = in.get<std::uint64_t>();
  directory.pages.duplicate = in.get<std::uint64_t>();
  directory.pages.parent = in.get<std::uint64_t>();
  directory.state_at = in.get<std::uint64_t>();
  directory.state_bytes = in.get<std::uint64_t>();
  for (const Region& region : regions) {
    const std::uint64_t parts = (region.range.count + kPagesPerIndex - 1) / kPagesPerIndex;
    if (parts > in.remaining() / sizeof(Directory::Part)) {
      return wrong(what, "it is shorter than the guest's memory needs", in.offset());
    }
    auto& list = directory.regions.emplace_back();
    list.reserve(parts);
    for (std::uint64_t i = 0; i < parts; ++i) {
      Directory::Part part;
      part.where = in.get<std::uint64_t>();
      part.hash = in.get<std::uint64_t>();
      if (part.where > Directory::kAllParent && part.where % kBlockAlign != 0) {
        return wrong(what, "an index lies where none can", in.offset());
      }
      list.push_back(part);
    }
  }
  MIGRATE_TRY(finish(in, what));
  if (directory.state_at % kBlockAlign != 0) return wrong(what, "no state lies there", 40);
  return directory;
}

}  // namespace migrate::checkpoint
