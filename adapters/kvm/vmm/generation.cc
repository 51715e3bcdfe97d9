#include "adapters/kvm/vmm/generation.hpp"

#include "adapters/kvm/vmm/section_bytes.hpp"
#include "base/random_bytes.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kBytesMax = 64;
// By Microsoft's specification.
constexpr std::uint64_t kAlignment = 8;

}  // namespace

Result<GenerationId> make_generation_id() {
  GenerationId id;
  MIGRATE_TRY(fill_random(id.bytes));
  return id;
}

std::string to_text(const GenerationId& id) {
  constexpr std::size_t kOrder[] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const std::size_t byte : kOrder) {
    if (text.size() == 8 || text.size() == 13 || text.size() == 18 || text.size() == 23) {
      text += '-';
    }
    const auto value = std::to_integer<unsigned>(id.bytes[byte]);
    text += kDigits[value >> 4];
    text += kDigits[value & 0xf];
  }
  return text;
}

/// The id, 16 bytes; its address u64, 0 for none.
Status write_generation_section(StateWriter& writer, const Generation& generation) {
  SectionBytes bytes;
  for (const std::byte byte : generation.id.bytes)
    bytes.number(std::to_integer<std::uint8_t>(byte));
  bytes.number(generation.address.value_or(GuestAddr{0}).value);
  return writer.section({std::string(kGenerationSection), kVersion, false}, bytes.take());
}

Result<std::optional<Generation>> read_generation_section(const SectionInfo& section,
                                                          StateReader& reader) {
  if (section.version != kVersion) {
    MIGRATE_TRY(StateReader::skip_unknown(section));
    return std::optional<Generation>();
  }
  MIGRATE_ASSIGN(const auto body, reader.read_all(kBytesMax));
  SectionCursor cursor(section.name, body);
  Generation generation;
  for (std::byte& byte : generation.id.bytes) {
    MIGRATE_ASSIGN(const auto value, cursor.number<std::uint8_t>());
    byte = std::byte{value};
  }
  MIGRATE_ASSIGN(const auto address, cursor.number<std::uint64_t>());
  MIGRATE_TRY(cursor.end());
  if (address % kAlignment != 0) return cursor.bad("has an impossible address");
  if (address != 0) generation.address = GuestAddr{address};
  return std::optional<Generation>(generation);
}

}  // namespace migrate::vmm
