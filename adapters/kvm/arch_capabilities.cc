#include "adapters/kvm/arch_capabilities.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <string_view>
#include <utility>

namespace migrate::kvm {
namespace {

/// RSBA and RRSBA: the return stack buffer is refilled from elsewhere, which a guest has to know.
/// The bits of which 1 is the worse (Intel, "CPUID Enumeration and Architectural MSRs").
constexpr std::uint64_t kTakeCare = 1U << 2 | 1U << 19;

constexpr std::array kNames = std::to_array<std::pair<unsigned, std::string_view>>({
    {0, "rdcl-no"},     {1, "ibrs-all"},       {2, "rsba"},           {3, "skip-l1dfl-vmentry"},
    {4, "ssb-no"},      {5, "mds-no"},         {6, "pschange-mc-no"}, {7, "tsx-ctrl"},
    {8, "taa-no"},      {13, "sbdr-ssdp-no"},  {14, "fbsdp-no"},      {15, "psdp-no"},
    {17, "fb-clear"},   {18, "fb-clear-ctrl"}, {19, "rrsba"},         {20, "bhi-no"},
    {24, "pbrsb-no"},   {25, "gds-ctrl"},      {26, "gds-no"},        {27, "rfds-no"},
    {28, "rfds-clear"}, {62, "its-no"},
});

}  // namespace

std::uint64_t common_arch_capabilities(std::uint64_t a, std::uint64_t b) {
  return (a & b & ~kTakeCare) | ((a | b) & kTakeCare);
}

std::string missing_arch_capabilities(std::uint64_t guest, std::uint64_t here) {
  std::string text;
  for (std::uint64_t left = guest & ~here & ~kTakeCare; left != 0; left &= left - 1) {
    const auto bit = static_cast<unsigned>(std::countr_zero(left));
    const auto named = std::find_if(kNames.begin(), kNames.end(),
                                    [&](const auto& name) { return name.first == bit; });
    if (!text.empty()) text += ", ";
    text += named != kNames.end() ? std::string(named->second) : "bit " + std::to_string(bit);
  }
  return text;
}

}  // namespace migrate::kvm
