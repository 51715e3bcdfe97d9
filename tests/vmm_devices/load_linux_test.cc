#include "adapters/kvm/vmm/linux/load_linux.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <filesystem>
#include <fstream>

#include "adapters/kvm/vmm/linux/boot_cpu.hpp"
#include "adapters/kvm/vmm/linux/memory_map.hpp"
#include "tests/vmm_devices/kernel_file.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kBytes = 64 << 20;

class LoadLinuxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string folder = std::filesystem::temp_directory_path() / "migrate-linux-XXXXXX";
    ASSERT_NE(::mkdtemp(folder.data()), nullptr);
    folder_ = folder;
    void* const memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ASSERT_NE(memory, MAP_FAILED);
    memory_ = static_cast<std::byte*>(memory);
    slot_.bytes = kBytes;
    slot_.host = memory_;
    files_.kernel = file("kernel", kernel_file());
    files_.initrd = file("initrd", std::vector<std::byte>(5000, std::byte{'i'}));
    files_.command_line = "console=ttyS0 quiet";
  }
  void TearDown() override {
    ::munmap(memory_, kBytes);
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::string file(const std::string& name, const std::vector<std::byte>& bytes) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path;
  }
  Result<std::uint64_t> load() { return load_linux(std::span(&slot_, 1), files_, {2, 1}); }
  std::string text(std::uint64_t address, std::size_t bytes) const {
    return {reinterpret_cast<const char*>(memory_ + address), bytes};
  }
  void expect_refusal(ErrorCode code, const std::string& what) {
    const auto loaded = load();
    ASSERT_FALSE(loaded);
    EXPECT_EQ(loaded.error().code, code);
    EXPECT_THAT(loaded.error().message, HasSubstr(what));
  }

  std::filesystem::path folder_;
  std::byte* memory_ = nullptr;
  KvmMemorySlot slot_;
  LinuxFiles files_;
};

TEST_F(LoadLinuxTest, AllIsWhereTheKernelLooksForIt) {
  const auto address = load();
  ASSERT_TRUE(address) << address.error().to_text();
  EXPECT_EQ(*address, 16u << 20);
  EXPECT_EQ(text(*address, kKernelPayloadBytes), std::string(kKernelPayloadBytes, 'k'));
  EXPECT_EQ(memory_[*address + kKernelPayloadBytes], std::byte{0});
  EXPECT_EQ(text(kBytes - 8192, 5000), std::string(5000, 'i'));
  EXPECT_EQ(text(kCommandLineAddress.value, 20), std::string("console=ttyS0 quiet") + '\0');
  EXPECT_EQ(text(kBootParamsAddress.value + 0x202, 4), "HdrS");
  EXPECT_EQ(text(kAcpiAddress.value, 8), "RSD PTR ");
  EXPECT_EQ(memory_[kResetVector.value], std::byte{0xba});
  const auto tables = boot_page_tables();
  EXPECT_EQ(std::memcmp(memory_ + kPageTablesAddress.value, tables.data(), tables.size()), 0);
  const auto gdt = boot_gdt();
  EXPECT_EQ(std::memcmp(memory_ + kGdtAddress.value, gdt.data(), gdt.size()), 0);
}

TEST_F(LoadLinuxTest, AnInitrdIsNotNeeded) {
  files_.initrd.clear();
  EXPECT_TRUE(load());
}

TEST_F(LoadLinuxTest, WhatIsMissingOrWrongIsNamed) {
  const LinuxFiles good = files_;
  files_.kernel += "-none";
  expect_refusal(ErrorCode::kNotFound, "the kernel " + files_.kernel);
  files_.kernel = folder_;
  expect_refusal(ErrorCode::kInvalidArgument, "is no file");
  files_.kernel = good.initrd;
  expect_refusal(ErrorCode::kInvalidArgument, "no bzImage");
  files_ = good;
  files_.initrd += "-none";
  expect_refusal(ErrorCode::kNotFound, "the initrd " + files_.initrd);
  files_ = good;
  files_.command_line.assign(2048, 'x');
  expect_refusal(ErrorCode::kInvalidArgument, "2047");
  files_.command_line.assign(2047, 'x');
  EXPECT_TRUE(load());
  slot_.bytes = 6 << 20;
  files_.initrd = good.initrd;
  expect_refusal(ErrorCode::kInvalidArgument, "does not fit");
}

}  // namespace
}  // namespace migrate::vmm::test
