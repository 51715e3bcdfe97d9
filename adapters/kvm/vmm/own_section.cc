#include "adapters/kvm/vmm/own_section.hpp"

#include "adapters/kvm/vmm/console.hpp"
#include "adapters/kvm/vmm/section_bytes.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::uint64_t kBytesMax = 16 << 10;
// A century in ns: sums of it do not overflow.
constexpr std::uint64_t kCpuTimeMax = 100ull * 366 * 86'400 * 1'000'000'000;

}  // namespace

/// vcpus u32, CPU time of each in ns u64, console text.
Status write_own_section(StateWriter& writer, const OwnState& state) {
  SectionBytes bytes;
  bytes.number(static_cast<std::uint32_t>(state.cpu_times.size()));
  for (const auto time : state.cpu_times) bytes.number(static_cast<std::uint64_t>(time.count()));
  bytes.text(state.console);
  return writer.section({std::string(kOwnSection), kVersion, true}, bytes.take());
}

Result<OwnState> read_own_section(const SectionInfo& section, StateReader& reader,
                                  std::uint32_t vcpus) {
  MIGRATE_ASSIGN(const auto body, reader.read_all(kBytesMax));
  SectionCursor cursor(section.name, body);
  if (section.version != kVersion) return cursor.bad("is of a version not known here");
  MIGRATE_ASSIGN(const std::uint32_t theirs, cursor.number<std::uint32_t>());
  if (theirs != vcpus) return cursor.bad("is of a guest with other vCPUs");
  OwnState state;
  for (std::uint32_t id = 0; id < vcpus; ++id) {
    MIGRATE_ASSIGN(const std::uint64_t time, cursor.number<std::uint64_t>());
    if (time > kCpuTimeMax) return cursor.bad("has an impossible CPU time");
    state.cpu_times.emplace_back(static_cast<std::int64_t>(time));
  }
  MIGRATE_ASSIGN(state.console, cursor.text(Console::kMovedBytesMax));
  MIGRATE_TRY(cursor.end());
  return state;
}

}  // namespace migrate::vmm
