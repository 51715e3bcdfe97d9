// A guest that cannot run here is refused with everything that stands in the way, before the VMM is
// asked to build anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/kvm/cpu_model.hpp"
#include "adapters/kvm/msrs.hpp"
#include "adapters/kvm/preflight.hpp"
#include "tests/kvm/tiny_guest_hooks.hpp"

namespace migrate {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::TinyMigration;

class Preflight : public ::testing::Test {
 protected:
  void SetUp() override { MIGRATE_NEEDS_KVM(); }

  /// What prepare() says of the guest's description with its CPU model changed.
  static Status with_model(const std::function<void(kvm::CpuModel&)>& change) {
    TinyMigration migration;
    auto description = migration.source->describe();
    TinyMigration::must(description);
    for (auto& property : description->properties) {
      if (property.info.name != kvm::kCpuProperty) continue;
      auto model = kvm::decode_cpu_model(property.body);
      TinyMigration::must(model);
      change(*model);
      property.body = kvm::encode(*model);
    }
    const Status prepared = migration.target->prepare(*description);
    EXPECT_EQ(migration.target_hooks.builds, prepared ? 1 : 0) << "built before it was refused";
    return prepared;
  }
};

TEST_F(Preflight, AcceptsAGuestOfThisHost) {
  const Status prepared = with_model([](kvm::CpuModel&) {});
  EXPECT_TRUE(prepared) << prepared.error().to_text();
}

TEST_F(Preflight, ListsEverythingThatIsMissingAndARemedy) {
  const Status refused = with_model([](kvm::CpuModel& model) {
    // Features no processor here can have: another make's, and frequency and MSRs of nowhere.
    for (auto* cpuid : {&model.supported, &model.vcpus[0]}) {
      for (kvm_cpuid_entry2& entry : *cpuid) {
        if (entry.function == 7 && entry.index == 0) entry.edx |= 1U << 24;
        if (entry.function == 0) entry.ebx = 0x41414141;
      }
    }
    model.tsc_khz = 123'456'789;
    model.in_use.push_back(0x7fff1234);
    model.xsave_bytes = 1 << 20;
  });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(refused.error().message, AllOf(HasSubstr("amx-tile"), HasSubstr("processor make"),
                                             HasSubstr("0x7fff1234"), HasSubstr("XSAVE area")));
  EXPECT_FALSE(refused.error().remedy.empty());
}

TEST_F(Preflight, AFrequencyThatCannotBeHadIsRefusedAndANearOneIsNot) {
  const auto at = [](double factor) {
    return with_model([&](kvm::CpuModel& model) {
      model.tsc_khz = static_cast<std::uint32_t>(model.tsc_khz * factor);
    });
  };
  EXPECT_TRUE(at(1.0001));
  const Status refused = at(1.01);
  // Where KVM scales the TSC, any frequency will do.
  if (refused) GTEST_SKIP() << "KVM here scales the TSC";
  EXPECT_THAT(refused.error().message, HasSubstr("MHz"));
}

TEST_F(Preflight, AModelForOtherVcpusIsRefused) {
  const Status refused = with_model([](kvm::CpuModel& model) { model.vcpus.clear(); });
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("vCPUs"));
}

TEST_F(Preflight, MoreMemoryThanThereIsIsRefusedWithoutTouchingIt) {
  TinyMigration migration;
  auto description = migration.source->describe();
  ASSERT_TRUE(description);
  description->regions[0].range.count = std::uint64_t{1} << 30;  // 4 TiB.
  const Status refused = migration.target->prepare(*description);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoMemory);
  EXPECT_FALSE(refused.error().remedy.empty());
  EXPECT_EQ(migration.target_hooks.builds, 0);
}

TEST_F(Preflight, MoreVcpusThanKvmHasIsRefused) {
  TinyMigration migration;
  auto description = migration.source->describe();
  ASSERT_TRUE(description);
  description->vcpus = 4000;
  const Status refused = migration.target->prepare(*description);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kIncompatible);
}

TEST_F(Preflight, PropertiesCutShortAreErrors) {
  TinyMigration migration;
  auto description = migration.source->describe();
  ASSERT_TRUE(description);
  for (std::size_t i = 0; i < 2; ++i) {
    for (const std::size_t length : {0U, 1U, 7U, 11U}) {
      GuestDescription doctored = *description;
      doctored.properties[i].body.resize(length);
      const Status refused = migration.target->prepare(doctored);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code, ErrorCode::kProtocol);
    }
  }
  EXPECT_EQ(migration.target_hooks.builds, 0);
}

TEST_F(Preflight, PropertiesOfANewerVersionAreRefused) {
  TinyMigration migration;
  auto description = migration.source->describe();
  ASSERT_TRUE(description);
  for (std::size_t i = 0; i < 2; ++i) {
    GuestDescription newer = *description;
    newer.properties[i].info.version += 1;
    const Status refused = migration.target->prepare(newer);
    ASSERT_FALSE(refused) << newer.properties[i].info.name;
    EXPECT_EQ(refused.error().code, ErrorCode::kVersionMismatch);
    EXPECT_THAT(refused.error().message, HasSubstr(newer.properties[i].info.name));
    EXPECT_FALSE(refused.error().remedy.empty());
  }
  EXPECT_EQ(migration.target_hooks.builds, 0);
}

TEST_F(Preflight, FeaturesThatOnlyMsrsTellAreCompared) {
  const Status refused = with_model([](kvm::CpuModel& model) {
    // "Not affected" by a fault of the future.
    model.feature_msrs.push_back({kvm::kMsrArchCapabilities, 0, std::uint64_t{1} << 61});
    std::swap(model.feature_msrs.front(), model.feature_msrs.back());
  });
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(refused.error().message, HasSubstr("bit 61"));
}

TEST_F(Preflight, AVmmThatBuildsSomethingElseIsFoundOut) {
  class WrongHooks final : public KvmTargetHooks {
   public:
    Result<KvmVm> build(const GuestDescription&, const KvmMachine&) override {
      testing::TinyGuestOptions options;
      options.slot_pages = {64};
      options.programmed = false;
      guest = std::make_unique<testing::TinyGuest>(options);
      return guest->vm();
    }
    Status load_device(const SectionInfo& info, StateReader&) override {
      return StateReader::skip_unknown(info);
    }
    Status acquire() override { return {}; }
    Status yield() override { return {}; }
    Status start(RunState) override { return {}; }
    void discard() override { guest.reset(); }
    std::vector<int> vcpu_threads() override { return {}; }
    PacketSink* packet_sink() override { return nullptr; }
    void note(std::string_view) override {}
    std::unique_ptr<testing::TinyGuest> guest;
  };
  TinyMigration migration;
  WrongHooks hooks;
  const auto target = make_kvm_target(migration.guest.vm().kvm_fd, hooks);
  const auto description = migration.source->describe();
  ASSERT_TRUE(description);
  const Status prepared = target->prepare(*description);
  ASSERT_FALSE(prepared);
  EXPECT_EQ(prepared.error().code, ErrorCode::kInternal);
  target->discard();
  EXPECT_EQ(hooks.guest, nullptr);
}

}  // namespace
}  // namespace migrate
