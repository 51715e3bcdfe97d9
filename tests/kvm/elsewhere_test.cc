// On other processors the adapter is there to be linked with, and refuses at once, with a remedy.
#include <gtest/gtest.h>

#include "migrate/kvm.hpp"
#include "migrate/kvm_cpu_baseline.hpp"

namespace migrate {
namespace {

void expect_refusal(const Error& error) {
  EXPECT_EQ(error.code, ErrorCode::kUnsupported);
  EXPECT_NE(error.message.find("x86-64"), std::string::npos);
  EXPECT_FALSE(error.remedy.empty());
}

/// Nothing of these is ever called.
struct UnusedSource final : KvmSourceHooks {
  std::string name() override { return {}; }
  Result<std::vector<GuestDescription::Property>> properties() override { return unused(); }
  RunState run_state() override { return RunState::kPaused; }
  Result<PauseResult> pause() override { return unused(); }
  Status resume() override { return unused(); }
  Status save_devices(StateWriter&) override { return unused(); }
  Status throttle(std::uint32_t, double) override { return unused(); }
  Status relinquish() override { return unused(); }
  Status reclaim() override { return unused(); }
  Status release() override { return unused(); }
  Status first_pages(PageBitmap&) override { return {}; }
  PacketSource* waiting_packets() override { return nullptr; }
  void note(std::string_view) override {}
  static Error unused() { return make_error(ErrorCode::kInternal, "called"); }
};

struct UnusedTarget final : KvmTargetHooks {
  Result<KvmVm> build(const GuestDescription&, const KvmMachine&) override { return unused(); }
  Status load_device(const SectionInfo&, StateReader&) override { return unused(); }
  Status acquire() override { return unused(); }
  Status yield() override { return unused(); }
  Status start(RunState) override { return unused(); }
  void discard() override {}
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }
  void note(std::string_view) override {}
  static Error unused() { return make_error(ErrorCode::kInternal, "called"); }
};

TEST(KvmElsewhere, NoGuestLeavesOrArrives) {
  const auto model = capture_cpu_model(KvmVm{});
  ASSERT_FALSE(model);
  expect_refusal(model.error());
  UnusedSource source_hooks;
  const auto source = make_kvm_source({}, source_hooks);
  ASSERT_FALSE(source);
  expect_refusal(source.error());
  UnusedTarget target_hooks;
  const auto target = make_kvm_target(-1, target_hooks);
  const Status prepared = target->prepare({});
  ASSERT_FALSE(prepared);
  expect_refusal(prepared.error());
}

TEST(KvmElsewhere, ThereAreNoBaselines) {
  const auto host = host_cpu_baseline(-1);
  ASSERT_FALSE(host);
  expect_refusal(host.error());
}

}  // namespace
}  // namespace migrate
