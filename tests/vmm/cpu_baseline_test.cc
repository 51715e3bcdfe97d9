// A guest is given a baseline's processor and nothing else, and keeps it where it moves.
#include <fcntl.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <stdexcept>

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/cpuid.hpp"
#include "base/fd.hpp"
#include "tests/vmm/vmm_fixture.hpp"

namespace migrate::vmm {
namespace {

using ::testing::HasSubstr;

class CpuBaseline : public VmmTest {
 protected:
  static KvmCpuBaseline of_this_host() {
    const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    auto baseline = host_cpu_baseline(kvm.get());
    if (!baseline) throw std::runtime_error(baseline.error().to_text());
    return *std::move(baseline);
  }
  static VmmConfig config(KvmCpuBaseline baseline) {
    VmmConfig config;
    config.name = "baseline";
    config.memory_bytes = 16 << 20;
    config.vcpus = 2;
    config.cpu = std::move(baseline);
    return config;
  }
};

/// What the CPUID has of a word that the baseline hides; without what follows from the guest's own
/// CR4 (osxsave, ospke).
std::uint32_t too_much(const kvm::Cpuid& cpuid, const KvmCpuBaseline::Word& word) {
  const auto reg = static_cast<kvm::Register>(word.reg);
  std::uint32_t own = 0;
  if (word.function == 1 && reg == kvm::Register::kEcx) own = 1U << 27;
  if (word.function == 7 && word.index == 0 && reg == kvm::Register::kEcx) own = 1U << 4;
  return kvm::word(cpuid, word.function, word.index, reg) & ~word.bits & ~own;
}

/// Some KVMs show guests the processor's own CPUID, whatever they are given: nothing can be hidden
/// there, and the guest has been made anyhow. The nested lab has one that keeps what it is given.
bool keeps_cpuid(const Vmm& vmm, const KvmCpuBaseline& given) {
  const auto cpuid = kvm::vcpu_cpuid(vmm.kvm_vm().vcpu_fds[0]);
  const auto supported = kvm::supported_cpuid(vmm.kvm_vm().kvm_fd);
  if (!cpuid || !supported) return false;
  return std::all_of(given.words.begin(), given.words.end(), [&](const auto& word) {
    const auto reg = static_cast<kvm::Register>(word.reg);
    return (too_much(*cpuid, word) & ~kvm::word(*supported, word.function, word.index, reg)) == 0;
  });
}

TEST_F(CpuBaseline, WhatItHidesNoVcpuHas) {
  KvmCpuBaseline baseline = of_this_host();
  // Half of all features.
  for (KvmCpuBaseline::Word& word : baseline.words) {
    if (word.function == 7 || word.function == 0x80000001) word.bits &= 0x5555'5555;
  }
  const auto vmm = Vmm::create(config(baseline));
  ASSERT_TRUE(vmm) << vmm.error().to_text();
  if (!keeps_cpuid(**vmm, baseline)) {
    GTEST_SKIP() << "this KVM shows guests the processor's own CPUID, whatever it is given";
  }
  const KvmVm& vm = (*vmm)->kvm_vm();
  for (const int vcpu : vm.vcpu_fds) {
    const auto cpuid = kvm::vcpu_cpuid(vcpu);
    ASSERT_TRUE(cpuid);
    for (const KvmCpuBaseline::Word& word : baseline.words) {
      EXPECT_EQ(too_much(*cpuid, word), 0U) << kvm::feature_names(
          word.function, word.index, static_cast<kvm::Register>(word.reg), too_much(*cpuid, word));
    }
  }
  // And this is what goes along when it moves.
  const auto model = kvm::decode_cpu_model(vm.cpu_model.bytes);
  ASSERT_TRUE(model);
  ASSERT_EQ(model->vcpus.size(), 2U);
  for (const KvmCpuBaseline::Word& word : baseline.words) {
    EXPECT_EQ(too_much(model->vcpus[1], word), 0U);
  }
}

TEST_F(CpuBaseline, OneThatThisHostCannotGiveIsRefused) {
  KvmCpuBaseline baseline = of_this_host();
  baseline.physical_bits = 60;
  const auto vmm = Vmm::create(config(baseline));
  ASSERT_FALSE(vmm);
  EXPECT_EQ(vmm.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(vmm.error().message, HasSubstr("physical address bits: the baseline has 60"));
  EXPECT_FALSE(vmm.error().remedy.empty());
}

}  // namespace
}  // namespace migrate::vmm
