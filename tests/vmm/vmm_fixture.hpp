// What tests on real guests share: a guest of a workload, and waiting for what it does.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string_view>

#include "adapters/kvm/vmm/vmm.hpp"

namespace migrate::vmm {

/// Skips where /dev/kvm does not open.
class VmmTest : public ::testing::Test {
 protected:
  void SetUp() override;

  /// A guest, paused at its beginning.
  static std::unique_ptr<Vmm> make(std::string_view workload, std::uint64_t memory_bytes = 16 << 20,
                                   std::uint32_t vcpus = 1);
  static void resume(Vmm& vmm);
  static void pause(Vmm& vmm);
  static GuestStats stats_of(const Vmm& vmm);

  /// Waits until the running guest's counters satisfy `reached`; fails after half a minute.
  static GuestStats wait_for(const Vmm& vmm, const std::function<bool(const GuestStats&)>& reached);
  /// Waits until it has stopped, left or crashed.
  static void wait_ended(const Vmm& vmm);

  static demo::ControlBlock& plan_of(const Vmm& vmm);
  /// The words of a page by the demo guest's count.
  static std::uint64_t* words_of(const Vmm& vmm, std::uint64_t page);
};

}  // namespace migrate::vmm
