#include "adapters/kvm/vmm/linux/bzimage.hpp"

#include <asm/bootparam.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "adapters/kvm/vmm/linux/boot_params.hpp"
#include "adapters/kvm/vmm/linux/boot_protocol.hpp"
#include "tests/vmm_devices/kernel_file.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = 1 << 20;

std::vector<KvmMemorySlot> slots_of(std::uint64_t low, std::uint64_t high = 0) {
  std::vector<KvmMemorySlot> slots(1);
  slots[0].bytes = low;
  if (high > 0) {
    slots.push_back({});
    slots[1].guest_address = GuestAddr{4096 * kMiB};
    slots[1].bytes = high;
  }
  return slots;
}

template <typename T>
T field(std::span<const std::byte> bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

/// The kernel's own header has the last word on where fields are.
TEST(BootProtocol, OffsetsAreTheKernels) {
  using namespace linux_boot;
  const auto header = [](std::size_t field) { return offsetof(boot_params, hdr) + field; };
  EXPECT_EQ(kSetupSectors, header(offsetof(setup_header, setup_sects)));
  EXPECT_EQ(kPayloadUnits, header(offsetof(setup_header, syssize)));
  EXPECT_EQ(kVideoMode, header(offsetof(setup_header, vid_mode)));
  EXPECT_EQ(kBootFlag, header(offsetof(setup_header, boot_flag)));
  EXPECT_EQ(kHeaderEnd, header(offsetof(setup_header, jump)) + 1);
  EXPECT_EQ(kHeaderMagic, header(offsetof(setup_header, header)));
  EXPECT_EQ(kVersion, header(offsetof(setup_header, version)));
  EXPECT_EQ(kLoader, header(offsetof(setup_header, type_of_loader)));
  EXPECT_EQ(kLoadFlags, header(offsetof(setup_header, loadflags)));
  EXPECT_EQ(kCode32Start, header(offsetof(setup_header, code32_start)));
  EXPECT_EQ(kInitrd, header(offsetof(setup_header, ramdisk_image)));
  EXPECT_EQ(kInitrdBytes, header(offsetof(setup_header, ramdisk_size)));
  EXPECT_EQ(kCommandLine, header(offsetof(setup_header, cmd_line_ptr)));
  EXPECT_EQ(kInitrdMax, header(offsetof(setup_header, initrd_addr_max)));
  EXPECT_EQ(kAlignment, header(offsetof(setup_header, kernel_alignment)));
  EXPECT_EQ(kRelocatable, header(offsetof(setup_header, relocatable_kernel)));
  EXPECT_EQ(kExtendedFlags, header(offsetof(setup_header, xloadflags)));
  EXPECT_EQ(kCommandLineMax, header(offsetof(setup_header, cmdline_size)));
  EXPECT_EQ(kPreferred, header(offsetof(setup_header, pref_address)));
  EXPECT_EQ(kInitBytes, header(offsetof(setup_header, init_size)));
  EXPECT_EQ(kRsdp, offsetof(boot_params, acpi_rsdp_addr));
  EXPECT_EQ(kE820Entries, offsetof(boot_params, e820_entries));
  EXPECT_EQ(kE820Table, offsetof(boot_params, e820_table));
  EXPECT_EQ(kE820EntryBytes, sizeof(boot_e820_entry));
  EXPECT_EQ(kE820EntriesMax, std::size_t{E820_MAX_ENTRIES_ZEROPAGE});
  EXPECT_EQ(kParamsBytes, sizeof(boot_params));
}

TEST(BzImage, WhatAKernelSaysOfItselfIsRead) {
  const auto file = kernel_file();
  const auto image = parse_bzimage(file, file.size());
  ASSERT_TRUE(image) << image.error().to_text();
  EXPECT_EQ(image->payload_offset, 4 * 512u);
  EXPECT_EQ(image->payload_bytes, kKernelPayloadBytes);
  EXPECT_EQ(image->preferred_address, 16 * kMiB);
  EXPECT_EQ(image->alignment, 2 * kMiB);
  EXPECT_EQ(image->init_bytes, 4 * kMiB);
  EXPECT_EQ(image->initrd_last_byte, 0x7fff'ffffu);
  EXPECT_EQ(image->command_line_max, 2047u);
  EXPECT_EQ(image->header.size(), kKernelHeaderEnd - linux_boot::kSetupSectors);
}

TEST(BzImage, WhatIsNoKernelForThisMachineIsRefusedWithTheReason) {
  using namespace linux_boot;
  struct Case {
    const char* why;
    std::size_t offset;
    std::vector<unsigned> bytes;
  };
  const Case cases[] = {
      {"no bzImage", kBootFlag, {0}},
      {"no bzImage", kHeaderMagic, {'h'}},
      {"older than 2.12", kVersion, {0x0b, 0x02}},
      {"below 1 MiB", kLoadFlags, {0}},
      {"no 64-bit entry", kExtendedFlags, {2}},
      {"cannot be relocated", kRelocatable, {0}},
      {"nothing in it", kPayloadUnits, {0, 0, 0, 0}},
      {"cut short", kPayloadUnits, {0xff, 0xff, 0xff, 0xff}},
      {"cut short", kSetupSectors, {255}},
      {"alignment", kAlignment, {0xff, 0xff, 0, 0}},
      {"alignment", kAlignment, {0, 0, 0, 0x80}},
      {"to unpack itself", kInitBytes, {0xff, 0xff, 0xff, 0xff}},
  };
  for (const Case& bad : cases) {
    auto file = kernel_file();
    for (std::size_t i = 0; i < bad.bytes.size(); ++i) {
      file[bad.offset + i] = static_cast<std::byte>(bad.bytes[i]);
    }
    const auto image = parse_bzimage(file, file.size());
    ASSERT_FALSE(image) << bad.why;
    EXPECT_EQ(image.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(image.error().message, HasSubstr(bad.why));
    EXPECT_NE(image.error().remedy, "");
  }
  EXPECT_FALSE(parse_bzimage({}, 0));
  const auto file = kernel_file();
  EXPECT_FALSE(parse_bzimage(std::span(file).first(0x263), 0x263));
  EXPECT_FALSE(parse_bzimage(file, file.size() - 1));
}

TEST(BzImage, AnyBytesGiveAPlanInsideOfMemoryOrAnError) {
  std::mt19937 random(7);
  const auto slots = slots_of(64 * kMiB, 64 * kMiB);
  int accepted = 0;
  for (int i = 0; i < 50'000; ++i) {
    auto file = kernel_file();
    for (auto flips = 1 + random() % 4; flips > 0; --flips) {
      const auto offset = linux_boot::kSetupSectors + random() % 0xa0;
      file[offset] = static_cast<std::byte>(random());
    }
    const auto image = parse_bzimage(file, file.size());
    if (!image) continue;
    const std::uint64_t initrd = random() % (80 * kMiB);
    const auto plan = plan_linux(*image, initrd, slots);
    if (!plan) continue;
    ++accepted;
    ASSERT_GE(plan->kernel_address, kMiB);
    ASSERT_EQ(plan->kernel_address % image->alignment, 0u);
    ASSERT_LE(plan->kernel_address + image->init_bytes, slots[0].bytes);
    ASSERT_LE(image->payload_bytes, image->init_bytes);
    ASSERT_LE(plan->initrd_address + plan->initrd_bytes, slots[0].bytes);
    if (initrd > 0) {
      ASSERT_GE(plan->initrd_address, plan->kernel_address + image->init_bytes);
    }
    const auto params = make_boot_params(*image, *plan, e820_map(slots), kAcpiAddress);
    ASSERT_EQ(params.size(), 4096u);
  }
  EXPECT_GT(accepted, 1000);
}

TEST(LinuxPlan, TheKernelGoesWhereItLikesAndTheInitrdToTheTop) {
  const auto file = kernel_file();
  const auto image = parse_bzimage(file, file.size());
  ASSERT_TRUE(image);
  const auto plan = plan_linux(*image, 5000, slots_of(64 * kMiB));
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->kernel_address, 16 * kMiB);
  EXPECT_EQ(plan->initrd_address, 64 * kMiB - 8192);
  EXPECT_EQ(plan->initrd_bytes, 5000u);
  const auto large = plan_linux(*image, 5000, slots_of(3072 * kMiB, kMiB));
  ASSERT_TRUE(large);
  EXPECT_EQ(large->initrd_address, 2048 * kMiB - 8192) << "no higher than the kernel says";
  const auto small = plan_linux(*image, 0, slots_of(16 * kMiB));
  ASSERT_TRUE(small);
  EXPECT_EQ(small->kernel_address, 2 * kMiB);
  EXPECT_EQ(small->initrd_bytes, 0u);
}

TEST(LinuxPlan, WhatDoesNotFitIsRefused) {
  const auto file = kernel_file();
  const auto image = parse_bzimage(file, file.size());
  ASSERT_TRUE(image);
  EXPECT_FALSE(plan_linux(*image, 0, slots_of(5 * kMiB)));
  EXPECT_FALSE(plan_linux(*image, 13 * kMiB, slots_of(32 * kMiB)));
  EXPECT_TRUE(plan_linux(*image, 12 * kMiB, slots_of(32 * kMiB)));
  EXPECT_FALSE(plan_linux(*image, ~0ull, slots_of(32 * kMiB)));
}

TEST(BootParams, HaveTheHeaderTheMapAndTheAddresses) {
  const auto file = kernel_file();
  const auto image = parse_bzimage(file, file.size());
  ASSERT_TRUE(image);
  const LinuxPlan plan{16 * kMiB, 48 * kMiB, 5000};
  const auto map = e820_map(slots_of(3072 * kMiB, 1024 * kMiB));
  EXPECT_THAT(map,
              ElementsAre(E820Entry{0, 0x9fc00, 1}, E820Entry{0xe0000, 0x20000, 2},
                          E820Entry{kMiB, 3071 * kMiB, 1}, E820Entry{4096 * kMiB, 1024 * kMiB, 1}));
  const auto bytes = make_boot_params(*image, plan, map, kAcpiAddress);
  boot_params params;
  ASSERT_EQ(bytes.size(), sizeof params);
  std::memcpy(&params, bytes.data(), sizeof params);
  EXPECT_EQ(params.hdr.header, linux_boot::kHeaderMagicValue);
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(params.hdr.code32_start, 16 * kMiB);
  EXPECT_EQ(params.hdr.ramdisk_image, 48 * kMiB);
  EXPECT_EQ(params.hdr.ramdisk_size, 5000u);
  EXPECT_EQ(params.hdr.cmd_line_ptr, 0x20000u);
  EXPECT_EQ(params.acpi_rsdp_addr, 0xe0000u);
  EXPECT_EQ(params.sentinel, 0);
  ASSERT_EQ(params.e820_entries, 4);
  EXPECT_EQ(params.e820_table[3].addr, 4096 * kMiB);
  EXPECT_EQ(params.e820_table[3].size, 1024 * kMiB);
  EXPECT_EQ(params.e820_table[3].type, 1u);
}

}  // namespace
}  // namespace migrate::vmm::test
