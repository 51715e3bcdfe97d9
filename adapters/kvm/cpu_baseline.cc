#include "adapters/kvm/cpu_baseline.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <tuple>

#include "adapters/kvm/arch_capabilities.hpp"
#include "adapters/kvm/cpu_dependencies.hpp"
#include "adapters/kvm/msrs.hpp"

namespace migrate::kvm {
namespace {

using Word = KvmCpuBaseline::Word;
using Component = KvmCpuBaseline::Component;

constexpr std::uint32_t kExtended = 0x80000000;
/// "migrate baseline" in place of the processor's own name.
constexpr std::array<char, 48> kBrand = {"Processor baseline (migrate)"};

/// What no mask makes alike on different processors: each needs more than its bit.
constexpr FeatureBit kNever[] = {
    {0x1, 0, Register::kEcx, 5},   // vmx: its limits are in a dozen MSRs
    {0x1, 0, Register::kEcx, 15},  // pdcm: performance counters
    {0x1, 0, Register::kEcx, 27},  // osxsave: the guest's own doing
    {0x7, 0, Register::kEbx, 2},   // sgx
    {0x7, 0, Register::kEbx, 25},  // intel-pt
    {0x7, 0, Register::kEcx, 4},   // ospke: the guest's own doing
    {0x7, 0, Register::kEcx, 23},  // key locker
    {0x7, 0, Register::kEcx, 30},  // sgx launch control
    {0x7, 0, Register::kEdx, 19},  // last branch records
    {0x7, 1, Register::kEdx, 19},  // avx10: a version, not a bit
};

/// Leaves that stay as the host has them: limits, topology, caches, address sizes, tiles. Of the
/// others only feature words are kept.
constexpr std::uint32_t kKept[] = {
    0x0,        0x1,        0x2,        0x4,        0x7,        0xb,        0xd,
    0x15,       0x16,       0x1d,       0x1e,       0x1f,       0x40000000, 0x40000001,
    0x80000000, 0x80000001, 0x80000002, 0x80000003, 0x80000004, 0x80000005, 0x80000006,
    0x80000007, 0x80000008, 0x8000000a, 0x8000001d, 0x8000001e, 0x80000021};
/// Feature words whose leaf needs more than its bits: Intel PT.
bool is_hidden(std::uint32_t function) { return function == 0x14; }

std::uint32_t never_bits(const FeatureWord& place) {
  std::uint32_t bits = 0;
  for (const FeatureBit& never : kNever) {
    if (never.function == place.function && never.index == place.index && never.reg == place.reg) {
      bits |= 1U << never.bit;
    }
  }
  return bits;
}

std::uint32_t* bits_of(std::vector<Word>& words, const FeatureBit& bit) {
  for (Word& word : words) {
    if (word.function == bit.function && word.index == bit.index &&
        word.reg == static_cast<std::uint32_t>(bit.reg)) {
      return &word.bits;
    }
  }
  return nullptr;
}

std::uint32_t bits_of(const KvmCpuBaseline& baseline, std::uint32_t function, std::uint32_t index,
                      Register reg) {
  for (const Word& word : baseline.words) {
    if (word.function == function && word.index == index &&
        word.reg == static_cast<std::uint32_t>(reg)) {
      return word.bits;
    }
  }
  return 0;
}

bool has_bit(const KvmCpuBaseline& baseline, const FeatureBit& bit) {
  return (bits_of(baseline, bit.function, bit.index, bit.reg) >> bit.bit & 1) != 0;
}

/// Takes from `baseline` what needs something that `whole` has and `baseline` does not. What the
/// whole one lacks as well is no loss: a KVM may offer the one without the other.
void settle(KvmCpuBaseline& baseline, const KvmCpuBaseline& whole) {
  drop_dependents(
      [&](const FeatureBit& bit) { return has_bit(baseline, bit); },
      [&](const FeatureBit& bit) { return has_bit(whole, bit) && !has_bit(baseline, bit); },
      [&](const FeatureBit& bit) { *bits_of(baseline.words, bit) &= ~(1U << bit.bit); });
}

/// States 2 to 62 that may be enabled in XCR0 or IA32_XSS.
std::uint64_t states_of(const KvmCpuBaseline& baseline) {
  const auto pair = [&](std::uint32_t index, Register low, Register high) {
    return bits_of(baseline, 0xd, index, low) | std::uint64_t{bits_of(baseline, 0xd, index, high)}
                                                    << 32;
  };
  return (pair(0, Register::kEax, Register::kEdx) | pair(1, Register::kEcx, Register::kEdx)) &
         ~std::uint64_t{3};
}

bool has_state(std::uint64_t states, std::uint32_t number) {
  return number < 63 && (states >> number & 1) != 0;
}

void drop_unused_components(KvmCpuBaseline& baseline) {
  const std::uint64_t states = states_of(baseline);
  std::erase_if(baseline.components,
                [&](const Component& component) { return !has_state(states, component.number); });
}

const Component* find_component(const KvmCpuBaseline& baseline, std::uint32_t number) {
  for (const Component& component : baseline.components) {
    if (component.number == number) return &component;
  }
  return nullptr;
}

bool same(const Component& a, const Component& b) {
  return a.bytes == b.bytes && a.offset == b.offset && a.flags == b.flags;
}

/// Family, model and stepping in an order in which later processors come later.
std::tuple<std::uint32_t, std::uint32_t, std::uint32_t> age(std::uint32_t signature) {
  const std::uint32_t family = (signature >> 8 & 0xf) + (signature >> 20 & 0xff);
  const std::uint32_t model = (signature >> 4 & 0xf) | (signature >> 12 & 0xf0);
  return {family, model, signature & 0xf};
}

/// Takes away states that both keep in another place, so that neither can.
void drop_moved_states(KvmCpuBaseline& common, const KvmCpuBaseline& b) {
  for (const Component& component : common.components) {
    const Component* other = find_component(b, component.number);
    if (other != nullptr && same(component, *other)) continue;
    for (const auto& [index, reg] :
         {std::pair{0U, Register::kEax}, std::pair{1U, Register::kEcx}}) {
      std::uint32_t* bits = bits_of(common.words, {0xd, index, reg, 0});
      if (bits != nullptr && component.number < 32) *bits &= ~(1U << component.number);
    }
  }
}

std::string place_of(const Component* component) {
  if (component == nullptr) return "none";
  return std::to_string(component->bytes) + " bytes at " + std::to_string(component->offset);
}

constexpr const char* kRemedy =
    "make a baseline of all the hosts (migrate doctor --cpu-baseline FILE...)";

/// What XSAVE in its standard format needs for the states in XCR0.
std::uint32_t xsave_bytes(const KvmCpuBaseline& baseline) {
  constexpr std::uint32_t kLegacyAndHeader = 576;
  constexpr std::uint32_t kOfXss = 1;
  std::uint32_t bytes = kLegacyAndHeader;
  for (const Component& component : baseline.components) {
    if ((component.flags & kOfXss) != 0) continue;
    bytes = std::max(bytes, component.offset + component.bytes);
  }
  return bytes;
}

/// Whether a guest of the baseline sees the entry at all.
bool is_kept(const kvm_cpuid_entry2& entry, const KvmCpuBaseline& baseline) {
  if (std::find(std::begin(kKept), std::end(kKept), entry.function) == std::end(kKept)) {
    const auto words = feature_words();
    const bool word = std::any_of(words.begin(), words.end(), [&](const FeatureWord& place) {
      return place.function == entry.function && !is_hidden(place.function);
    });
    if (!word) return false;
  }
  if (entry.function < 0x40000000 && entry.function > baseline.max_leaf) return false;
  if (entry.function > kExtended && entry.function > baseline.max_extended_leaf) return false;
  if (entry.function == 0xd && entry.index >= 2) {
    return find_component(baseline, entry.index) != nullptr;
  }
  const bool tiles = entry.function == 0x1d || entry.function == 0x1e;
  return !tiles || has_bit(baseline, {0x7, 0, Register::kEdx, 24});
}

void mask_entry(kvm_cpuid_entry2& entry, const KvmCpuBaseline& baseline) {
  for (const FeatureWord& place : feature_words()) {
    if (place.function != entry.function || place.index != entry.index) continue;
    register_of(entry, place.reg) &= bits_of(baseline, place.function, place.index, place.reg);
  }
  switch (entry.function) {
    case 0x0:
      entry.eax = std::min(entry.eax, baseline.max_leaf);
      break;
    case 0x1:
      entry.eax = baseline.signature;
      break;
    case 0xd:
      if (entry.index == 0) entry.ebx = entry.ecx = xsave_bytes(baseline);
      break;
    case kExtended:
      entry.eax = std::min(entry.eax, baseline.max_extended_leaf);
      break;
    case 0x80000001:
      // AMD repeats it here; Intel has 0.
      if (entry.eax != 0) entry.eax = baseline.signature;
      break;
    case 0x80000002:
    case 0x80000003:
    case 0x80000004: {
      const char* from = kBrand.data() + 16 * (entry.function - 0x80000002);
      std::memcpy(&entry.eax, from, 4);
      std::memcpy(&entry.ebx, from + 4, 4);
      std::memcpy(&entry.ecx, from + 8, 4);
      std::memcpy(&entry.edx, from + 12, 4);
      break;
    }
    case 0x80000008:
      entry.eax = (entry.eax & ~0xffffU) | baseline.linear_bits << 8 | baseline.physical_bits;
      break;
    default:
      break;
  }
}

}  // namespace

KvmCpuBaseline baseline_of(const Cpuid& supported, std::optional<std::uint64_t> arch_capabilities) {
  KvmCpuBaseline baseline;
  baseline.vendor = vendor(supported);
  baseline.signature = word(supported, 0x1, 0, Register::kEax);
  baseline.max_leaf = word(supported, 0x0, 0, Register::kEax);
  baseline.max_extended_leaf = word(supported, kExtended, 0, Register::kEax);
  const std::uint32_t sizes = word(supported, 0x80000008, 0, Register::kEax);
  baseline.physical_bits = sizes & 0xff;
  baseline.linear_bits = sizes >> 8 & 0xff;
  for (const FeatureWord& place : feature_words()) {
    if (is_hidden(place.function)) continue;
    baseline.words.push_back(
        {place.function, place.index, static_cast<std::uint32_t>(place.reg),
         word(supported, place.function, place.index, place.reg) & ~never_bits(place)});
  }
  const std::uint64_t states = states_of(baseline);
  for (const kvm_cpuid_entry2& entry : supported) {
    if (entry.function != 0xd || entry.index < 2 || !has_state(states, entry.index)) continue;
    baseline.components.push_back({entry.index, entry.eax, entry.ebx, entry.ecx});
  }
  if (has_bit(baseline, {0x7, 0, Register::kEdx, 29})) {
    baseline.arch_capabilities = arch_capabilities.value_or(0);
  }
  return baseline;
}

std::vector<Incompatibility> baseline_faults(const KvmCpuBaseline& wanted,
                                             const KvmCpuBaseline& host) {
  std::vector<Incompatibility> faults;
  const auto more = [&](const char* what, std::uint32_t want, std::uint32_t have) {
    if (want > have) faults.push_back({what, std::to_string(want), std::to_string(have), kRemedy});
  };
  if (wanted.vendor != host.vendor) {
    faults.push_back({"processor make", wanted.vendor, host.vendor,
                      "run guests of this baseline on hosts of its make only"});
  }
  std::string missing;
  for (const Word& word : wanted.words) {
    const auto reg = static_cast<Register>(word.reg);
    const std::string names = feature_names(
        word.function, word.index, reg, word.bits & ~bits_of(host, word.function, word.index, reg));
    if (!names.empty()) missing += (missing.empty() ? "" : ", ") + names;
  }
  if (!missing.empty()) faults.push_back({"processor features", missing, "missing", kRemedy});
  for (const Component& component : wanted.components) {
    const Component* here = find_component(host, component.number);
    if (here != nullptr && same(component, *here)) continue;
    faults.push_back({"XSAVE area, state " + std::to_string(component.number), place_of(&component),
                      place_of(here), kRemedy});
  }
  more("physical address bits", wanted.physical_bits, host.physical_bits);
  more("linear address bits", wanted.linear_bits, host.linear_bits);
  const std::string capabilities = missing_arch_capabilities(wanted.arch_capabilities.value_or(0),
                                                             host.arch_capabilities.value_or(0));
  if (!capabilities.empty()) {
    faults.push_back({"IA32_ARCH_CAPABILITIES", capabilities, "missing", kRemedy});
  }
  return faults;
}

Cpuid mask_cpuid(const Cpuid& supported, const KvmCpuBaseline& baseline) {
  KvmCpuBaseline settled = baseline;
  settle(settled, baseline_of(supported, std::nullopt));
  drop_unused_components(settled);
  Cpuid masked;
  for (const kvm_cpuid_entry2& entry : supported) {
    if (!is_kept(entry, settled)) continue;
    masked.push_back(entry);
    mask_entry(masked.back(), settled);
  }
  return masked;
}

}  // namespace migrate::kvm

namespace migrate {

using namespace kvm;

Result<KvmCpuBaseline> host_cpu_baseline(int kvm_fd) {
  MIGRATE_ASSIGN(const Cpuid supported, supported_cpuid(kvm_fd));
  MIGRATE_ASSIGN(const auto msrs, feature_msrs(kvm_fd));
  const kvm_msr_entry* capabilities = find_msr(msrs, kMsrArchCapabilities);
  return baseline_of(supported, capabilities != nullptr
                                    ? std::optional<std::uint64_t>(capabilities->data)
                                    : std::nullopt);
}

Result<KvmCpuBaseline> common_cpu_baseline(const KvmCpuBaseline& a, const KvmCpuBaseline& b) {
  if (a.vendor != b.vendor) {
    return make_error(ErrorCode::kIncompatible,
                      "processors of different makes have no baseline in common (" + a.vendor +
                          " and " + b.vendor + ")")
        .advise("make a baseline for the hosts of each make");
  }
  KvmCpuBaseline common = a;
  if (age(b.signature) < age(a.signature)) common.signature = b.signature;
  common.max_leaf = std::min(a.max_leaf, b.max_leaf);
  common.max_extended_leaf = std::min(a.max_extended_leaf, b.max_extended_leaf);
  common.physical_bits = std::min(a.physical_bits, b.physical_bits);
  common.linear_bits = std::min(a.linear_bits, b.linear_bits);
  for (Word& word : common.words) {
    word.bits &= bits_of(b, word.function, word.index, static_cast<Register>(word.reg));
  }
  drop_moved_states(common, b);
  settle(common, a);
  settle(common, b);
  drop_unused_components(common);
  common.arch_capabilities.reset();
  if (a.arch_capabilities && b.arch_capabilities) {
    common.arch_capabilities = common_arch_capabilities(*a.arch_capabilities, *b.arch_capabilities);
  }
  return common;
}

Result<std::vector<kvm_cpuid_entry2>> cpuid_of_baseline(int kvm_fd,
                                                        const KvmCpuBaseline& baseline) {
  MIGRATE_ASSIGN(const KvmCpuBaseline host, host_cpu_baseline(kvm_fd));
  if (const auto faults = baseline_faults(baseline, host); !faults.empty()) {
    return incompatible("this host cannot give the baseline:", "the baseline", faults);
  }
  MIGRATE_ASSIGN(const Cpuid supported, supported_cpuid(kvm_fd));
  return mask_cpuid(supported, baseline);
}

Status set_baseline_msrs(int vcpu_fd, const KvmCpuBaseline& baseline) {
  if (!baseline.arch_capabilities) return {};
  const kvm_msr_entry entry{kMsrArchCapabilities, 0, *baseline.arch_capabilities};
  std::vector<kvm_msr_entry> refused;
  MIGRATE_TRY(write_msrs(vcpu_fd, {&entry, 1}, refused));
  if (refused.empty()) return {};
  // Some KVMs have it fixed. Less than the baseline says is right on every host of it.
  std::vector<kvm_msr_entry> own;
  std::vector<std::uint32_t> unreadable;
  MIGRATE_TRY(read_msrs(vcpu_fd, {&entry.index, 1}, own, unreadable));
  const std::uint64_t fixed = own.empty() ? 0 : own.front().data;
  if (missing_arch_capabilities(fixed, entry.data).empty()) return {};
  return make_error(ErrorCode::kUnsupported,
                    "KVM refuses the baseline's IA32_ARCH_CAPABILITIES, " + hex(entry.data))
      .advise("use a newer kernel, or leave the line arch-capabilities out of the baseline");
}

}  // namespace migrate
