#include "adapters/kvm/cpuid.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <memory>

#include "adapters/kvm/kvm_abi.hpp"
#include "adapters/kvm/kvm_call.hpp"

namespace migrate::kvm {
namespace {

constexpr FeatureWord kFeatureWords[] = {
    {0x1, 0, Register::kEcx},        {0x1, 0, Register::kEdx},
    {0x6, 0, Register::kEax},        {0x7, 0, Register::kEbx},
    {0x7, 0, Register::kEcx},        {0x7, 0, Register::kEdx},
    {0x7, 1, Register::kEax},        {0x7, 1, Register::kEbx},
    {0x7, 1, Register::kEcx},        {0x7, 1, Register::kEdx},
    {0x7, 2, Register::kEdx},        {0xd, 0, Register::kEax},
    {0xd, 0, Register::kEdx},        {0xd, 1, Register::kEax},
    {0xd, 1, Register::kEcx},        {0xd, 1, Register::kEdx},
    {0x14, 0, Register::kEbx},       {0x14, 0, Register::kEcx},
    {0x40000001, 0, Register::kEax}, {0x80000001, 0, Register::kEcx},
    {0x80000001, 0, Register::kEdx}, {0x80000007, 0, Register::kEdx},
    {0x80000008, 0, Register::kEbx}, {0x8000000a, 0, Register::kEdx},
    {0x80000021, 0, Register::kEax},
};

/// A kvm_cpuid2 with room for kCpuidEntriesMax entries: 40 KiB, so not on the stack.
struct Table {
  abi::Cpuid head{static_cast<std::uint32_t>(kCpuidEntriesMax), 0};
  std::array<kvm_cpuid_entry2, kCpuidEntriesMax> entries{};

  [[nodiscard]] Cpuid list() const {
    const std::size_t count = std::min<std::size_t>(head.count, kCpuidEntriesMax);
    return {entries.begin(), entries.begin() + static_cast<std::ptrdiff_t>(count)};
  }
};
static_assert(offsetof(Table, entries) == sizeof(abi::Cpuid));

constexpr std::string_view kOtherTarget =
    "choose a target whose processor has it, or start the guest with a baseline that both hosts "
    "can "
    "give (migrate doctor --cpu-baseline)";

/// The extended states the guest may enable lie where this host's processor keeps them too.
void check_xsave_layout(const Cpuid& guest, const Cpuid& source, const Cpuid& target,
                        std::vector<Incompatibility>& faults) {
  const std::uint64_t states = xcr0_bits(guest);
  const std::uint64_t here = xcr0_bits(target);
  const auto place = [](const Cpuid& cpuid, std::uint32_t i) {
    return std::to_string(word(cpuid, 0xd, i, Register::kEax)) + " bytes at " +
           std::to_string(word(cpuid, 0xd, i, Register::kEbx));
  };
  // States 0 and 1 (x87, SSE) are in the fixed part; missing ones are reported as features.
  for (std::uint32_t i = 2; i < 63; ++i) {
    if ((states & here & std::uint64_t{1} << i) == 0 || place(source, i) == place(target, i)) {
      continue;
    }
    faults.push_back({"XSAVE area, state " + std::to_string(i), place(source, i), place(target, i),
                      std::string(kOtherTarget)});
  }
}

void check_features(const Cpuid& guest, const Cpuid& source, const Cpuid& target,
                    std::vector<Incompatibility>& faults) {
  std::string missing;
  for (const FeatureWord& place : kFeatureWords) {
    const auto bits = [&](const Cpuid& cpuid) {
      return word(cpuid, place.function, place.index, place.reg);
    };
    const std::string names = feature_names(place.function, place.index, place.reg,
                                            bits(guest) & bits(source) & ~bits(target));
    if (!names.empty()) missing += (missing.empty() ? "" : ", ") + names;
  }
  if (missing.empty()) return;
  faults.push_back({"processor features", missing, "missing", std::string(kOtherTarget)});
}

}  // namespace

std::span<const FeatureWord> feature_words() { return kFeatureWords; }

const kvm_cpuid_entry2* find_leaf(const Cpuid& cpuid, std::uint32_t function, std::uint32_t index) {
  for (const kvm_cpuid_entry2& entry : cpuid) {
    const bool indexed = (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0;
    if (entry.function == function && (!indexed || entry.index == index)) return &entry;
  }
  return nullptr;
}

std::uint32_t& register_of(kvm_cpuid_entry2& entry, Register reg) {
  switch (reg) {
    case Register::kEax:
      return entry.eax;
    case Register::kEbx:
      return entry.ebx;
    case Register::kEcx:
      return entry.ecx;
    case Register::kEdx:
      break;
  }
  return entry.edx;
}

std::uint32_t word(const Cpuid& cpuid, std::uint32_t function, std::uint32_t index, Register reg) {
  const kvm_cpuid_entry2* entry = find_leaf(cpuid, function, index);
  if (entry == nullptr) return 0;
  kvm_cpuid_entry2 copy = *entry;
  return register_of(copy, reg);
}

std::string vendor(const Cpuid& cpuid) {
  std::array<std::uint32_t, 3> parts = {word(cpuid, 0, 0, Register::kEbx),
                                        word(cpuid, 0, 0, Register::kEdx),
                                        word(cpuid, 0, 0, Register::kEcx)};
  std::string text(sizeof parts, ' ');
  std::memcpy(text.data(), parts.data(), sizeof parts);
  // What a peer sent ends up on a terminal.
  for (char& c : text) c = c >= ' ' && c <= '~' ? c : '?';
  return text;
}

std::string_view to_string(Register reg) {
  constexpr std::string_view kNames[] = {"EAX", "EBX", "ECX", "EDX"};
  return kNames[static_cast<std::size_t>(reg)];
}

Result<Cpuid> supported_cpuid(int kvm_fd) {
  const auto table = std::make_unique<Table>();
  MIGRATE_TRY(call(kvm_fd, abi::kGetSupportedCpuid, table.get(), "KVM_GET_SUPPORTED_CPUID"));
  return table->list();
}

Result<Cpuid> vcpu_cpuid(int vcpu_fd) {
  const auto table = std::make_unique<Table>();
  MIGRATE_TRY(call(vcpu_fd, abi::kGetCpuid2, table.get(), "KVM_GET_CPUID2"));
  return table->list();
}

Status set_vcpu_cpuid(int vcpu_fd, const Cpuid& cpuid) {
  MIGRATE_CHECK(cpuid.size() <= kCpuidEntriesMax);
  const auto table = std::make_unique<Table>();
  table->head.count = static_cast<std::uint32_t>(cpuid.size());
  std::copy(cpuid.begin(), cpuid.end(), table->entries.begin());
  MIGRATE_TRY(call(vcpu_fd, abi::kSetCpuid2, table.get(), "KVM_SET_CPUID2"));
  return {};
}

std::uint64_t xcr0_bits(const Cpuid& cpuid) {
  return word(cpuid, 0xd, 0, Register::kEax) | std::uint64_t{word(cpuid, 0xd, 0, Register::kEdx)}
                                                   << 32;
}

std::vector<Incompatibility> cpuid_faults(const Cpuid& guest, const Cpuid& source,
                                          const Cpuid& target) {
  std::vector<Incompatibility> faults;
  if (vendor(source) != vendor(target)) {
    faults.push_back({"processor make", vendor(source), vendor(target),
                      "choose a target with a processor of the same make"});
  }
  check_features(guest, source, target, faults);
  check_xsave_layout(guest, source, target, faults);
  const auto address_bits = [](const Cpuid& cpuid) {
    return word(cpuid, 0x80000008, 0, Register::kEax) & 0xff;
  };
  if (address_bits(guest) > address_bits(target)) {
    faults.push_back({"physical address bits", std::to_string(address_bits(guest)),
                      std::to_string(address_bits(target)), std::string(kOtherTarget)});
  }
  return faults;
}

}  // namespace migrate::kvm
