#include "adapters/kvm/vmm/linux/bzimage.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "adapters/kvm/vmm/linux/boot_protocol.hpp"
#include "migrate/memory.hpp"

namespace migrate::vmm {
namespace {

using namespace linux_boot;

// A kernel with all its modules built in has about 100 MiB unpacked.
constexpr std::uint64_t kInitBytesMax = 1ull << 30;
constexpr std::uint64_t kAlignmentMax = 1ull << 30;
// The protocol says 4 when the file says 0.
constexpr std::uint64_t kSetupSectorsDefault = 4;

Error no_kernel(const std::string& why) {
  return make_error(ErrorCode::kInvalidArgument, "the file is no Linux kernel for this VMM: " + why)
      .advise(
          "give a bzImage of a 64-bit x86 kernel, such as /boot/vmlinuz-VERSION; not vmlinux, "
          "and not one of another architecture");
}

template <typename T>
T get(std::span<const std::byte> head, std::size_t offset) {
  T value;
  std::memcpy(&value, head.data() + offset, sizeof value);
  return value;
}

Status check_kind(std::span<const std::byte> head) {
  if (head.size() < kHeaderKnownEnd) return no_kernel("it is too short");
  if (get<std::uint16_t>(head, kBootFlag) != kBootFlagValue ||
      get<std::uint32_t>(head, kHeaderMagic) != kHeaderMagicValue) {
    return no_kernel("it is no bzImage");
  }
  if (get<std::uint16_t>(head, kVersion) < kVersionMin) {
    return no_kernel("its boot protocol is older than 2.12");
  }
  if ((get<std::uint8_t>(head, kLoadFlags) & kLoadFlagHigh) == 0) {
    return no_kernel("it is a zImage, to be loaded below 1 MiB");
  }
  if ((get<std::uint16_t>(head, kExtendedFlags) & kExtendedFlag64) == 0) {
    return no_kernel("it has no 64-bit entry");
  }
  if (get<std::uint8_t>(head, kRelocatable) == 0) return no_kernel("it cannot be relocated");
  return {};
}

Status find_payload(std::span<const std::byte> head, std::uint64_t file_bytes, BzImage& image) {
  std::uint64_t sectors = get<std::uint8_t>(head, kSetupSectors);
  if (sectors == 0) sectors = kSetupSectorsDefault;
  image.payload_offset = (sectors + 1) * kSectorBytes;
  image.payload_bytes = std::uint64_t{get<std::uint32_t>(head, kPayloadUnits)} * 16;
  if (image.payload_bytes <= kEntry64) return no_kernel("there is nothing in it");
  if (file_bytes < image.payload_offset ||
      file_bytes - image.payload_offset < image.payload_bytes) {
    return no_kernel("it is cut short: it has " + std::to_string(file_bytes) + " bytes and needs " +
                     std::to_string(image.payload_offset + image.payload_bytes));
  }
  return {};
}

}  // namespace

Result<BzImage> parse_bzimage(std::span<const std::byte> head, std::uint64_t file_bytes) {
  MIGRATE_TRY(check_kind(head));
  BzImage image;
  MIGRATE_TRY(find_payload(head, file_bytes, image));
  image.preferred_address = get<std::uint64_t>(head, kPreferred);
  image.alignment = std::max<std::uint64_t>(get<std::uint32_t>(head, kAlignment), kPageSize);
  image.init_bytes =
      std::max<std::uint64_t>(get<std::uint32_t>(head, kInitBytes), image.payload_bytes);
  image.initrd_last_byte = get<std::uint32_t>(head, kInitrdMax);
  image.command_line_max = get<std::uint32_t>(head, kCommandLineMax);
  if (!std::has_single_bit(image.alignment) || image.alignment > kAlignmentMax) {
    return no_kernel("its alignment is " + std::to_string(image.alignment));
  }
  if (image.init_bytes > kInitBytesMax) {
    return no_kernel("it wants " + std::to_string(image.init_bytes) + " bytes to unpack itself");
  }
  const std::size_t end = std::clamp(kHeaderMagic + get<std::uint8_t>(head, kHeaderEnd),
                                     kHeaderKnownEnd, std::min(kHeaderEndMax, head.size()));
  image.header.assign(head.begin() + kSetupSectors, head.begin() + static_cast<long>(end));
  return image;
}

}  // namespace migrate::vmm
