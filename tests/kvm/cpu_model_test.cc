// The CPU model travels in the description, which comes from a peer.
#include "adapters/kvm/cpu_model.hpp"

#include <gtest/gtest.h>

#include <random>

namespace migrate::kvm {
namespace {

kvm_cpuid_entry2 entry(std::uint32_t function, std::uint32_t ebx) {
  kvm_cpuid_entry2 result{};
  result.function = function;
  result.ebx = ebx;
  return result;
}

CpuModel model_of(std::uint32_t vcpus) {
  CpuModel model;
  model.tsc_khz = 2'600'000;
  model.host_tsc_khz = 2'600'001;
  model.xsave_bytes = 4096;
  model.msrs = {0x10, 0x174, 0xc0000081};
  model.unreadable = {0x999};
  model.in_use = {0x10};
  model.feature_msrs = {{0x10a, 0, 0x69}, {0x345, 0, 0}};
  for (std::uint32_t leaf = 0; leaf < 20; ++leaf) model.supported.push_back(entry(leaf, leaf));
  for (std::uint32_t id = 0; id < vcpus; ++id) {
    model.vcpus.push_back(model.supported);
    model.vcpus.back()[1].ebx = id << 24;
  }
  return model;
}

TEST(CpuModel, ComesBackAsItWasAndVcpusCostOnlyTheirDifference) {
  const CpuModel model = model_of(64);
  const std::vector<std::byte> bytes = encode(model);
  const auto decoded = decode_cpu_model(bytes);
  ASSERT_TRUE(decoded) << decoded.error().to_text();
  EXPECT_EQ(encode(*decoded), bytes);
  EXPECT_EQ(decoded->vcpus.size(), 64U);
  EXPECT_EQ(decoded->vcpus[63][1].ebx, 63U << 24);
  EXPECT_EQ(decoded->unreadable, model.unreadable);
  ASSERT_EQ(decoded->feature_msrs.size(), 2U);
  EXPECT_EQ(decoded->feature_msrs[0].data, 0x69U);
  EXPECT_LT(bytes.size() - encode(model_of(1)).size(), 63U * 2 * sizeof(kvm_cpuid_entry2));
}

TEST(CpuModel, VcpusWithOtherLeavesAreGivenWhole) {
  CpuModel model = model_of(2);
  model.vcpus[1].pop_back();
  const auto decoded = decode_cpu_model(encode(model));
  ASSERT_TRUE(decoded);
  EXPECT_EQ(decoded->vcpus[1].size(), 19U);
}

TEST(CpuModel, TruncatedAnywhereIsAnError) {
  const std::vector<std::byte> bytes = encode(model_of(3));
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const auto decoded = decode_cpu_model(std::span(bytes).first(length));
    ASSERT_FALSE(decoded) << "cut at byte " << length;
    EXPECT_EQ(decoded.error().code, ErrorCode::kProtocol);
  }
}

TEST(CpuModel, CountsThatAreLiesAllocateNothing) {
  std::mt19937_64 random(3);
  const std::vector<std::byte> good = encode(model_of(2));
  for (std::size_t at = 0; at + 4 <= good.size(); at += 4) {
    std::vector<std::byte> bad = good;
    for (std::size_t i = 0; i < 4; ++i) bad[at + i] = std::byte{0xff};
    const auto decoded = decode_cpu_model(bad);
    if (decoded) {
      EXPECT_LE(decoded->vcpus.size(), 2U);
    }
  }
  for (int i = 0; i < 2000; ++i) {
    std::vector<std::byte> bytes(random() % 300);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() % 3);
    (void)decode_cpu_model(bytes);
  }
}

TEST(CpuModel, AVmWithoutDescriptorsIsRefused) {
  const auto captured = capture_cpu_model(KvmVm{});
  ASSERT_FALSE(captured);
  EXPECT_EQ(captured.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace migrate::kvm
