// What the tests of filling share: a staging, a filler, and lives that check their memory.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "adapters/containers/target/lazy_fill.hpp"
#include "tests/containers/target/fake_tree.hpp"

namespace migrate::containers {

using Life = FakeProcess::Life;
using Clock = std::chrono::steady_clock;
inline constexpr std::chrono::seconds kLong{60};
inline constexpr pid_t kPid = 77;

[[nodiscard]] bool wait_until(const std::function<bool()>& condition);
[[nodiscard]] bool is_running(pid_t pid);
[[nodiscard]] int count_wrong(const std::byte* memory, std::uint64_t pages);
/// Gives pages up and takes them into use again, beside threads that read.
[[nodiscard]] int give_up_pages(const Life& life);
/// Gives pages up and forks, over and over; all children check all memory.
[[nodiscard]] int fork_children(const Life& life);

class LazyFillTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  void stage_pages(std::uint64_t pages);
  /// Until the process is held by the filler.
  void begin(FakeProcess& process);
  /// Whether somebody has written to what stands for cgroup.kill.
  [[nodiscard]] bool told_to_kill() const;

  std::string folder_;
  std::array<int, 2> killed_{-1, -1};
  std::unique_ptr<StagedMemory> staging_;
  FillPlan plan_;
  std::unique_ptr<LazyFill> fill_;
};

}  // namespace migrate::containers
