// What loading takes is tried on a VM of its own.
#include "adapters/kvm/rehearsal.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <chrono>

#include "base/fd.hpp"
#include "tiny_guest.hpp"

namespace migrate::kvm {
namespace {

using testing::TinyGuest;
using testing::TinyGuestOptions;

TEST(Rehearsal, TellsATimeForEachShapeOfVm) {
  MIGRATE_NEEDS_KVM();
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  ASSERT_TRUE(kvm);
  for (const bool irqchip : {false, true}) {
    TinyGuestOptions options;
    options.irqchip = irqchip;
    const TinyGuest guest(options);
    const auto model = read_cpu_model(guest.vm());
    ASSERT_TRUE(model) << model.error().to_text();
    const auto took = rehearse_load(kvm.get(), irqchip, *model);
    ASSERT_TRUE(took) << took.error().to_text();
    EXPECT_GT(took->count(), 0);
  }
}

// A guest of many vCPUs takes as many turns as its processors cannot take at once.
TEST(Rehearsal, ManyVcpusTakeLonger) {
  MIGRATE_NEEDS_KVM();
  const Fd kvm(::open("/dev/kvm", O_RDWR | O_CLOEXEC));
  const TinyGuest guest;
  auto model = read_cpu_model(guest.vm());
  ASSERT_TRUE(model);
  const auto one = rehearse_load(kvm.get(), true, *model);
  model->vcpus.resize(4096, model->vcpus.front());
  const auto many = rehearse_load(kvm.get(), true, *model);
  ASSERT_TRUE(one && many);
  EXPECT_GT(*many, *one);
}

}  // namespace
}  // namespace migrate::kvm
