// What a restart resets of a vCPU, and what not.
#include "adapters/kvm/vmm/fresh_cpus.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <span>
#include <vector>

#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/vmm/guest_memory.hpp"
#include "base/fd.hpp"

namespace migrate::vmm {
namespace {

constexpr std::uint32_t kSysenterEntry = 0x176;
constexpr std::uint32_t kMicrocodeRevision = 0x8b;

class FreshCpusTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
    if (!kvm) GTEST_SKIP() << "/dev/kvm does not open: " << std::strerror(errno);
    if (!Machine::offers_irqchip()) GTEST_SKIP() << "KVM here has no interrupt controllers";
    auto memory = GuestMemory::create("fresh", 16 << 20);
    ASSERT_TRUE(memory) << memory.error().to_text();
    memory_.emplace(*std::move(memory));
    auto machine = Machine::create({1, true, false, false, {}}, memory_->slots());
    ASSERT_TRUE(machine) << machine.error().to_text();
    machine_.emplace(*std::move(machine));
  }
  [[nodiscard]] int vcpu() const { return machine_->vcpus()[0].get(); }
  [[nodiscard]] std::optional<std::uint64_t> get(std::uint32_t index) const {
    std::vector<kvm_msr_entry> values;
    std::vector<std::uint32_t> unreadable;
    EXPECT_TRUE(kvm::read_msrs(vcpu(), std::span(&index, 1), values, unreadable));
    return values.empty() ? std::nullopt : std::optional<std::uint64_t>(values.front().data);
  }
  /// What it is then.
  std::optional<std::uint64_t> set(std::uint32_t index, std::uint64_t to) {
    const kvm_msr_entry value{index, 0, to};
    std::vector<kvm_msr_entry> refused;
    EXPECT_TRUE(kvm::write_msrs(vcpu(), std::span(&value, 1), refused));
    return get(index);
  }

  std::optional<GuestMemory> memory_;
  std::optional<Machine> machine_;
};

TEST_F(FreshCpusTest, RegistersGoBackAndWhatTheProcessorHasStays) {
  const auto fresh = FreshCpus::read(*machine_);
  ASSERT_TRUE(fresh) << fresh.error().to_text();
  const auto entry = get(kSysenterEntry);
  ASSERT_NE(set(kSysenterEntry, 0x1000), entry);
  // As a migration from a host with another processor does; KVM takes some of them.
  constexpr std::uint32_t kFeatures[] = {kMicrocodeRevision, kvm::kMsrArchCapabilities};
  std::vector<std::optional<std::uint64_t>> arrived;
  for (const std::uint32_t index : kFeatures) {
    arrived.push_back(set(index, get(index).value_or(0) == 0 ? 1 : 0));
  }
  ASSERT_TRUE(fresh->restore(*machine_));
  EXPECT_EQ(get(kSysenterEntry), entry);
  for (std::size_t i = 0; i < arrived.size(); ++i) EXPECT_EQ(get(kFeatures[i]), arrived[i]) << i;
}

}  // namespace
}  // namespace migrate::vmm
