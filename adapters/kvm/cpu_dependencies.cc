#include "adapters/kvm/cpu_dependencies.hpp"

#include <array>

namespace migrate::kvm {
namespace {

constexpr FeatureBit l1c(unsigned bit) { return {0x1, 0, Register::kEcx, bit}; }
constexpr FeatureBit l7b(unsigned bit) { return {0x7, 0, Register::kEbx, bit}; }
constexpr FeatureBit l7c(unsigned bit) { return {0x7, 0, Register::kEcx, bit}; }
constexpr FeatureBit l7d(unsigned bit) { return {0x7, 0, Register::kEdx, bit}; }
constexpr FeatureBit l71a(unsigned bit) { return {0x7, 1, Register::kEax, bit}; }
constexpr FeatureBit amd(unsigned bit) { return {0x80000001, 0, Register::kEcx, bit}; }
constexpr FeatureBit xcr0(unsigned bit) { return {0xd, 0, Register::kEax, bit}; }
constexpr FeatureBit xss(unsigned bit) { return {0xd, 1, Register::kEcx, bit}; }
constexpr FeatureBit ld1(unsigned bit) { return {0xd, 1, Register::kEax, bit}; }

constexpr FeatureBit kXsave = l1c(26);
constexpr FeatureBit kAvx = l1c(28);
constexpr FeatureBit kAvx2 = l7b(5);
constexpr FeatureBit kAvx512f = l7b(16);
constexpr FeatureBit kAmxTile = l7d(24);
constexpr FeatureBit kXsaves = ld1(3);
constexpr FeatureBit kSvm = amd(2);

struct Need {
  FeatureBit dependent;
  FeatureBit needs;
};

/// From the instruction set references of Intel and AMD, as far as software looks at one bit and
/// takes the other for granted. A state component and its feature need each other.
constexpr std::array kNeeds = std::to_array<Need>({
    // XSAVE
    {kAvx, kXsave},
    {ld1(0), kXsave},
    {ld1(1), kXsave},
    {ld1(2), kXsave},
    {kXsaves, kXsave},
    {ld1(4), kXsave},
    {xss(8), kXsaves},
    {xss(11), kXsaves},
    {xss(12), kXsaves},
    // AVX: fma, f16c, avx2, vaes, vpclmulqdq, avx-vnni, avx-ifma, xop, fma4
    {xcr0(2), kAvx},
    {kAvx, xcr0(2)},
    {l1c(12), kAvx},
    {l1c(29), kAvx},
    {kAvx2, kAvx},
    {l7c(9), kAvx},
    {l7c(10), kAvx},
    {l71a(4), kAvx2},
    {l71a(23), kAvx2},
    {amd(11), kAvx},
    {amd(16), kAvx},
    // AVX-512
    {xcr0(5), kAvx512f},
    {xcr0(6), kAvx512f},
    {xcr0(7), kAvx512f},
    {kAvx512f, xcr0(5)},
    {kAvx512f, xcr0(6)},
    {kAvx512f, xcr0(7)},
    {kAvx512f, kAvx2},
    {l7b(17), kAvx512f},
    {l7b(21), kAvx512f},
    {l7b(28), kAvx512f},
    {l7b(30), kAvx512f},
    {l7b(31), kAvx512f},
    {l7c(1), kAvx512f},
    {l7c(6), kAvx512f},
    {l7c(11), kAvx512f},
    {l7c(12), kAvx512f},
    {l7c(14), kAvx512f},
    {l7d(2), kAvx512f},
    {l7d(3), kAvx512f},
    {l7d(8), kAvx512f},
    {l7d(23), kAvx512f},
    {l71a(5), kAvx512f},
    // MPX
    {xcr0(3), l7b(14)},
    {xcr0(4), l7b(14)},
    {l7b(14), xcr0(3)},
    {l7b(14), xcr0(4)},
    // Protection keys
    {xcr0(9), l7c(3)},
    {l7c(3), xcr0(9)},
    // AMX: bf16, int8, fp16; without XFD every task would carry 8 KiB
    {xcr0(17), kAmxTile},
    {xcr0(18), kAmxTile},
    {kAmxTile, xcr0(17)},
    {kAmxTile, xcr0(18)},
    {kAmxTile, ld1(4)},
    {l7d(22), kAmxTile},
    {l7d(25), kAmxTile},
    {l71a(21), kAmxTile},
    // Shadow stacks and indirect branch tracking
    {l7c(7), xss(11)},
    {l7d(20), xss(11)},
    // INVPCID without PCID
    {l7b(10), l1c(17)},
    // SVM's own
    {{0x8000000a, 0, Register::kEdx, 0}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 1}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 3}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 4}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 5}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 7}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 10}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 12}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 15}, kSvm},
    {{0x8000000a, 0, Register::kEdx, 16}, kSvm},
});

}  // namespace

void drop_dependents(const std::function<bool(const FeatureBit&)>& has,
                     const std::function<bool(const FeatureBit&)>& gone,
                     const std::function<void(const FeatureBit&)>& drop) {
  // Each turn drops one at least, so there are no more turns than needs.
  for (bool dropped = true; dropped;) {
    dropped = false;
    for (const Need& need : kNeeds) {
      if (!has(need.dependent) || !gone(need.needs)) continue;
      drop(need.dependent);
      dropped = true;
    }
  }
}

}  // namespace migrate::kvm
