// The machine as a description tells it: property "kvm.machine", written and checked.
#pragma once

#include <string_view>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/kvm.hpp"

namespace migrate::kvm {

inline constexpr std::string_view kMachineProperty = "kvm.machine";
inline constexpr std::uint32_t kMachineVersion = 1;

[[nodiscard]] GuestDescription::Property machine_property(const KvmVm& vm, std::uint32_t tsc_khz);

/// kProtocol when the description has none, or one of a version this adapter does not know.
[[nodiscard]] Result<const GuestDescription::Property*> find_property(
    const GuestDescription& description, std::string_view name, std::uint32_t version);

/// kInternal unless build() made what `machine` asks for.
Status check_built(const KvmMachine& machine, const KvmVm& vm);

}  // namespace migrate::kvm
