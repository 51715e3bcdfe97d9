// A real CRIU stops, copies and lets go of real trees.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/containers/source/container_source_bed.hpp"

namespace migrate::containers {
namespace {

TEST_P(ContainerSourceTest, PausedTreeStandsAndGoesOnAsItWas) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_TRUE(connection_->echoes("before"));
  EXPECT_EQ(source_->run_state(), RunState::kRunning);
  for (int attempt = 0; attempt < 2; ++attempt) {
    const auto before = std::chrono::steady_clock::now();
    auto paused = source_->pause();
    ASSERT_TRUE(paused) << paused.error().to_text();
    EXPECT_EQ(paused->before, RunState::kRunning);
    EXPECT_GE(paused->stopped_at, before);
    EXPECT_EQ(source_->run_state(), RunState::kPaused);
    const auto counts = tree_->counts();
    ::usleep(20'000);  // Long enough for a running tree to count; one that stands never does.
    EXPECT_EQ(tree_->counts(), counts);
    const Status resumed = source_->resume();
    ASSERT_TRUE(resumed) << resumed.error().to_text();
    EXPECT_EQ(source_->run_state(), RunState::kRunning);
    EXPECT_TRUE(tree_->counts_on());
  }
  expect_all_as_before();
}

TEST_P(ContainerSourceTest, SavedTreeGoesOnAndItsMemoryIsNotInTheImages) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  const Status saved = save(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  EXPECT_TRUE(collector.sections.contains("criu.pstree.img"));
  EXPECT_TRUE(collector.sections.contains("criu.inventory.img"));
  EXPECT_LT(collector.bytes(), kPrivateBytes / 4);
  const auto owners = parse_spaces(collector.spaces);
  ASSERT_TRUE(owners) << owners.error().to_text();
  EXPECT_EQ(owners->size(), tree_->pids().size());
  for (const SpaceOwner& owner : *owners) {
    EXPECT_TRUE(collector.sections.contains("criu.mm-" + std::to_string(owner.pid) + ".img"));
  }
  const Status resumed = source_->resume();
  ASSERT_TRUE(resumed) << resumed.error().to_text();
  expect_all_as_before();
}

TEST_P(ContainerSourceTest, TreeThatIsCopiedWhileItStandsNeedsNoCollect) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  collector.on_memory_final = [&]() -> Status {
    MIGRATE_ASSIGN(const auto regions, source_->pages().regions());
    EXPECT_FALSE(regions.empty());
    return {};
  };
  const Status saved = source_->save_state(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  EXPECT_TRUE(collector.sections.contains("criu.pstree.img"));
  ASSERT_TRUE(source_->resume());
  expect_all_as_before();
}

TEST_P(ContainerSourceTest, ReleasedTreeIsGoneAndNothingOfItStays) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  const Status saved = save(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  const auto counts = tree_->counts();
  const std::string group = unified_group_of(tree_->root());
  const Status released = source_->release();
  ASSERT_TRUE(released) << released.error().to_text();
  for (const pid_t pid : tree_->pids()) EXPECT_FALSE(runs(pid)) << pid;
  EXPECT_EQ(tree_->counts(), counts) << "it ran once more";
  source_.reset();
  EXPECT_FALSE(fs::exists("/sys/fs/cgroup/unified" + group));
  const auto tables = tables_->list();
  ASSERT_TRUE(tables);
  EXPECT_EQ(*tables, tables_before_);
}

TEST_P(ContainerSourceTest, SourceThatIsDroppedLeavesTheTreeRunning) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  source_.reset();
  expect_all_as_before();
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  ASSERT_TRUE(save(collector));
  source_.reset();
  expect_all_as_before();
}

TEST_P(ContainerSourceTest, FailureToSendLeavesTheTreeRunning) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  collector.on_memory_final = [&]() -> Status {
    MIGRATE_TRY(source_->tracker().collect(set_));
    return make_error(ErrorCode::kLinkLost, "cut");
  };
  EXPECT_FALSE(source_->save_state(collector));
  const Status resumed = source_->resume();
  ASSERT_TRUE(resumed) << resumed.error().to_text();
  expect_all_as_before();
}

std::string g_kill_at;
void kill_at_hook(CriuWorker& worker, const std::string& hook) {
  if (hook == g_kill_at) worker.kill();
}

TEST_P(ContainerSourceTest, CriuThatDiesAtAnyHookLeavesTheTreeRunning) {
  for (const char* hook : {"pre-dump", "network-lock", "query-ext-files", "post-dump"}) {
    SCOPED_TRACE(hook);
    g_kill_at = hook;
    ASSERT_NO_FATAL_FAILURE(make_source());
    ASSERT_NO_FATAL_FAILURE(run_rounds());
    DumpRun::watch_hooks(kill_at_hook);
    bool failed = false;
    Collector collector;
    if (!source_->pause()) {
      failed = true;
      EXPECT_TRUE(tree_->counts_on());
    } else if (!save(collector)) {
      failed = true;
    }
    // At post-dump all images are there already: the tree stands still although CRIU is gone.
    if (g_kill_at == "post-dump") {
      const auto counts = tree_->counts();
      ::usleep(20'000);
      EXPECT_EQ(tree_->counts(), counts);
      const auto repaired = count_tcp_repair(tree_->pids());
      ASSERT_TRUE(repaired);
      EXPECT_GT(*repaired, 0U) << "there is nothing to be undone";
    } else if (g_kill_at != "network-lock") {
      EXPECT_TRUE(failed);
    }
    DumpRun::watch_hooks(nullptr);
    const Status resumed = source_->resume();
    EXPECT_TRUE(resumed) << resumed.error().to_text();
    expect_all_as_before();
  }
}

INSTANTIATE_TEST_SUITE_P(Criu, ContainerSourceTest, ::testing::Bool(), [](const auto& how) {
  return std::string(how.param ? "HidingMemory" : "Lazy");
});

}  // namespace
}  // namespace migrate::containers
