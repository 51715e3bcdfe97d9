#include "adapters/kvm/vmm/linux/boot_params.hpp"

#include <algorithm>
#include <cstring>

#include "adapters/kvm/vmm/linux/boot_protocol.hpp"

namespace migrate::vmm {
namespace {

using namespace linux_boot;

template <typename T>
void put(std::vector<std::byte>& params, std::size_t offset, T value) {
  std::memcpy(params.data() + offset, &value, sizeof value);
}

}  // namespace

std::vector<std::byte> make_boot_params(const BzImage& image, const LinuxPlan& plan,
                                        std::span<const E820Entry> map, GuestAddr rsdp) {
  MIGRATE_CHECK(map.size() <= kE820EntriesMax);
  MIGRATE_CHECK(kSetupSectors + image.header.size() <= kHeaderEndMax);
  std::vector<std::byte> params(kParamsBytes);
  std::copy(image.header.begin(), image.header.end(), params.begin() + kSetupSectors);
  put(params, kLoader, kLoaderUndefined);
  put(params, kVideoMode, kVideoNormal);
  put(params, kCode32Start, static_cast<std::uint32_t>(plan.kernel_address));
  put(params, kInitrd, static_cast<std::uint32_t>(plan.initrd_address));
  put(params, kInitrdBytes, static_cast<std::uint32_t>(plan.initrd_bytes));
  put(params, kCommandLine, static_cast<std::uint32_t>(kCommandLineAddress.value));
  put(params, kRsdp, rsdp.value);
  put(params, kE820Entries, static_cast<std::uint8_t>(map.size()));
  std::size_t offset = kE820Table;
  for (const E820Entry& entry : map) {
    put(params, offset, entry.address);
    put(params, offset + 8, entry.bytes);
    put(params, offset + 16, entry.type);
    offset += kE820EntryBytes;
  }
  return params;
}

}  // namespace migrate::vmm
