// GenerationId: tells a guest from its copies. One that finds another than it knew was restored
// from a checkpoint, perhaps for the second time, and must not use the same random numbers, names
// and counters again.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "migrate/guest.hpp"
#include "migrate/memory.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

/// As Microsoft's "Virtual Machine Generation ID" (2012): 16 random bytes, which stay the same
/// while the guest restarts or migrates.
struct GenerationId {
  std::array<std::byte, 16> bytes{};
  friend bool operator==(const GenerationId&, const GenerationId&) = default;
};

/// kIo when the kernel gives no random numbers.
[[nodiscard]] Result<GenerationId> make_generation_id();
/// As other tools write them: a GUID, whose first three fields are little-endian.
[[nodiscard]] std::string to_text(const GenerationId& id);

/// A guest's id, and where in its memory it looks for it; nullopt: nowhere.
struct Generation {
  GenerationId id;
  std::optional<GuestAddr> address;
};

/// Optional, so that it is skipped where it is not known: the guest keeps its id all the same, in
/// its memory.
inline constexpr std::string_view kGenerationSection = "vmm.generation";
[[nodiscard]] Status write_generation_section(StateWriter& writer, const Generation& generation);
/// nullopt: of a version not known here, and skipped. kProtocol when malformed; that the address is
/// one of memory is left to check.
[[nodiscard]] Result<std::optional<Generation>> read_generation_section(const SectionInfo& section,
                                                                        StateReader& reader);

}  // namespace migrate::vmm
