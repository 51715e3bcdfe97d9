// The smallest file that is a bzImage: a header, and a payload that is no code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "adapters/kvm/vmm/linux/boot_protocol.hpp"

namespace migrate::vmm::test {

inline constexpr std::size_t kKernelPayloadBytes = 8192;
inline constexpr std::size_t kKernelHeaderEnd = 0x202 + 0x6a;

inline std::vector<std::byte> kernel_file() {
  using namespace linux_boot;
  constexpr std::size_t kSectors = 3;
  std::vector<std::byte> file((kSectors + 1) * kSectorBytes + kKernelPayloadBytes, std::byte{'k'});
  const auto put = [&file](std::size_t offset, auto value) {
    std::memcpy(file.data() + offset, &value, sizeof value);
  };
  put(kSetupSectors, std::uint8_t{kSectors});
  put(kPayloadUnits, std::uint32_t{kKernelPayloadBytes / 16});
  put(kBootFlag, kBootFlagValue);
  put(kHeaderEnd, std::uint8_t{kKernelHeaderEnd - kHeaderMagic});
  put(kHeaderMagic, kHeaderMagicValue);
  put(kVersion, std::uint16_t{0x020f});
  put(kLoadFlags, kLoadFlagHigh);
  put(kExtendedFlags, std::uint16_t{0x3f});
  put(kInitrdMax, std::uint32_t{0x7fff'ffff});
  put(kAlignment, std::uint32_t{2 << 20});
  put(kRelocatable, std::uint8_t{1});
  put(kCommandLineMax, std::uint32_t{2047});
  put(kPreferred, std::uint64_t{16 << 20});
  put(kInitBytes, std::uint32_t{4 << 20});
  return file;
}

}  // namespace migrate::vmm::test
