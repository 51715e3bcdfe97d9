// What the VMM itself moves of a guest, beside its devices: section "vmm.devices".
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

inline constexpr std::string_view kOwnSection = "vmm.devices";

struct OwnState {
  std::vector<std::chrono::nanoseconds> cpu_times;  ///< By vCPU, at all hosts together.
  std::string console;                              ///< At most Console::kMovedBytesMax.
};

Status write_own_section(StateWriter& writer, const OwnState& state);
/// kProtocol when malformed, or of a guest with another number of vCPUs.
[[nodiscard]] Result<OwnState> read_own_section(const SectionInfo& section, StateReader& reader,
                                                std::uint32_t vcpus);

}  // namespace migrate::vmm
