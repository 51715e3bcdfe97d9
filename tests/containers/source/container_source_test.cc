// A real CRIU stops, copies and lets go of real trees.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "adapters/containers/source/dump_run.hpp"
#include "adapters/containers/source/link_state.hpp"
#include "adapters/containers/source/lock_tables.hpp"
#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tcp_repair.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/containers.hpp"
#include "tests/containers/source/small_tree.hpp"

namespace migrate::containers {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

/// Both ends of a TCP connection over loopback.
struct Connection {
  Fd here;
  Fd there;

  Connection() {
    const Fd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    auto* const any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener.get(), any, size), 0);
    EXPECT_EQ(::listen(listener.get(), 1), 0);
    EXPECT_EQ(::getsockname(listener.get(), any, &size), 0);
    here.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(here.get(), any, size), 0);
    there.reset(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
    EXPECT_TRUE(there.valid());
  }
  [[nodiscard]] bool echoes(const std::string& text) const {
    if (::send(here.get(), text.data(), text.size(), MSG_NOSIGNAL) < 0) return false;
    std::string back;
    while (back.size() < text.size()) {
      pollfd readable{here.get(), POLLIN, 0};
      if (::poll(&readable, 1, 60'000) <= 0) return false;
      char piece[256];
      const ssize_t got = ::recv(here.get(), piece, sizeof(piece), 0);
      if (got <= 0) return false;
      back.append(piece, static_cast<std::size_t>(got));
    }
    return back == text;
  }
};

/// Keeps sections, and calls the engine's part when memory is final.
class Collector final : public StateWriter {
 public:
  std::function<Status()> on_memory_final = [] { return Status(); };
  std::map<std::string, std::size_t> sections;
  std::vector<std::byte> spaces;

  Status begin(const SectionInfo& section) override {
    open_ = section.name;
    sections[open_] = 0;
    EXPECT_TRUE(section.mandatory);
    return {};
  }
  Status append(std::span<const std::byte> bytes) override {
    EXPECT_LE(bytes.size(), std::size_t{1} << 20);
    sections[open_] += bytes.size();
    if (open_ == kSpacesSection) spaces.insert(spaces.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status end() override { return {}; }
  Status memory_final() override { return on_memory_final(); }
  [[nodiscard]] std::size_t bytes() const {
    std::size_t all = 0;
    for (const auto& [name, size] : sections) all += size;
    return all;
  }

 private:
  std::string open_;
};

class ContainerSourceTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr std::size_t kPrivateBytes = std::size_t{32} << 20;

  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "moving process trees needs root";
    if (environment("MIGRATE_CRIU").empty()) GTEST_SKIP() << "no CRIU here (MIGRATE_CRIU)";
    // Packets are CRIU's to keep in a namespace where nobody else migrates.
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    ASSERT_TRUE(set_link("lo", true));
    char name[] = "/dev/shm/migrate-source-test-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    folder_ = name;
    connection_.emplace();
    tree_.emplace(2, connection_->there.get(), kPrivateBytes);
    connection_->there.reset();
    group_before_ = unified_group_of(tree_->root());
    auto tables = LockTables::of_process(::getpid());
    ASSERT_TRUE(tables) << tables.error().to_text();
    tables_.emplace(*std::move(tables));
    auto listed = tables_->list();
    ASSERT_TRUE(listed) << listed.error().to_text();
    tables_before_ = *listed;
  }
  void TearDown() override {
    DumpRun::watch_hooks(nullptr);
    source_.reset();
    tree_.reset();
    if (!folder_.empty()) {
      EXPECT_TRUE(fs::is_empty(folder_)) << "images are left in " << folder_;
      fs::remove_all(folder_);
    }
  }
  [[nodiscard]] virtual bool with_shim() const { return GetParam(); }

  ContainerSourceOptions options() {
    ContainerSourceOptions options;
    options.root = tree_->root();
    options.name = "test";
    options.criu.path = environment("MIGRATE_CRIU");
    if (with_shim()) options.criu.shim = MIGRATE_SHIM;
    options.folder = folder_;
    options.link = link_;
    options.tracker = tracker_;
    return options;
  }
  void make_source() {
    auto source = make_container_source(options());
    ASSERT_TRUE(source) << source.error().to_text();
    source_ = *std::move(source);
  }
  /// What the engine does before the switchover.
  void run_rounds() {
    auto description = source_->describe();
    ASSERT_TRUE(description) << description.error().to_text();
    const Status started = source_->tracker().start();
    ASSERT_TRUE(started) << started.error().to_text();
    auto regions = source_->pages().regions();
    ASSERT_TRUE(regions);
    set_ = PageBitmap(*regions);
    const Status collected = source_->tracker().collect(set_);
    ASSERT_TRUE(collected) << collected.error().to_text();
  }
  Status save(Collector& collector) {
    collector.on_memory_final = [&]() -> Status { return source_->tracker().collect(set_); };
    return source_->save_state(collector);
  }
  void expect_all_as_before() {
    EXPECT_TRUE(tree_->counts_on());
    EXPECT_TRUE(connection_->echoes("still here"));
    const auto repaired = count_tcp_repair(tree_->pids());
    ASSERT_TRUE(repaired) << repaired.error().to_text();
    EXPECT_EQ(*repaired, 0U);
    const auto tables = tables_->list();
    ASSERT_TRUE(tables);
    EXPECT_EQ(*tables, tables_before_);
    for (const pid_t pid : tree_->pids()) {
      const auto facts = process_facts(pid);
      ASSERT_TRUE(facts);
      EXPECT_EQ(facts->tracer, 0);
    }
    source_.reset();
    for (const pid_t pid : tree_->pids()) EXPECT_EQ(unified_group_of(pid), group_before_);
    EXPECT_TRUE(tree_->counts_on());
  }

  std::string folder_;
  std::string link_;
  TrackerKind tracker_ = TrackerKind::kProcessWriteProtect;
  std::optional<Connection> connection_;
  std::optional<SmallTree> tree_;
  std::string group_before_;
  std::optional<LockTables> tables_;
  std::set<std::string> tables_before_;
  std::unique_ptr<SourceGuest> source_;
  PageBitmap set_;
};

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

TEST_P(ContainerSourceTest, TrackerByContentWorksAsWell) {
  tracker_ = TrackerKind::kContentHash;
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  ASSERT_TRUE(source_->pause());
  Collector collector;
  const Status saved = save(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  EXPECT_LT(collector.bytes(), kPrivateBytes / 4);
  ASSERT_TRUE(source_->resume());
  expect_all_as_before();
}

TEST_P(ContainerSourceTest, LinkGoesDownAndComesUpAgain) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_TRUE(source_->relinquish()) << "without a link there is nothing to do";
  source_.reset();
  link_ = "lo";
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_TRUE(source_->pause());
  EXPECT_TRUE(link_is_up("lo").value());
  ASSERT_TRUE(source_->relinquish());
  EXPECT_FALSE(link_is_up("lo").value());
  ASSERT_TRUE(source_->reclaim());
  EXPECT_TRUE(link_is_up("lo").value());
  ASSERT_TRUE(source_->relinquish());
  ASSERT_TRUE(source_->resume());
  EXPECT_TRUE(link_is_up("lo").value());
  link_ = "no-such-link";
  source_.reset();
  const auto refused = make_container_source(options());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFound);
}

TEST_P(ContainerSourceTest, DescriptionSaysWhatTheTargetNeeds) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  const auto description = source_->describe();
  ASSERT_TRUE(description) << description.error().to_text();
  EXPECT_EQ(description->kind, GuestKind::kContainer);
  EXPECT_EQ(description->name, "test");
  std::uint64_t pages = 0;
  for (const Region& region : description->regions) pages += region.range.count;
  EXPECT_GE(pages * kPageSize, kPrivateBytes);
  const auto tree = parse_tree(*description);
  ASSERT_TRUE(tree) << tree.error().to_text();
  EXPECT_EQ(tree->pids.size(), tree_->pids().size());
  EXPECT_TRUE(tree->tcp);
  EXPECT_FALSE(tree->network_namespace);
  EXPECT_FALSE(tree->pid_namespace);
  EXPECT_FALSE(tree->criu_version.empty());
  const auto cost = source_->expected_cost();
  ASSERT_TRUE(cost);
  EXPECT_GT(cost->pause.count(), 0);
}

TEST_P(ContainerSourceTest, FrozenTreeIsRefusedAndStaysFrozen) {
  ASSERT_NO_FATAL_FAILURE(make_source());
  const std::string freezer =
      "/sys/fs/cgroup/unified" + unified_group_of(tree_->root()) + "/cgroup.freeze";
  if (!fs::exists(freezer)) GTEST_SKIP() << freezer << " is not where this test looks";
  std::ofstream(freezer) << 1 << std::flush;
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (source_->run_state() != RunState::kPaused && std::chrono::steady_clock::now() < until) {
    ::usleep(1000);
  }
  const auto paused = source_->pause();
  ASSERT_FALSE(paused);
  EXPECT_EQ(paused.error().code, ErrorCode::kUnsupported);
  EXPECT_EQ(source_->run_state(), RunState::kPaused);
  std::ofstream(freezer) << 0 << std::flush;
  expect_all_as_before();
}

TEST_P(ContainerSourceTest, TreeThatStandsInNobodysWayHasNoFindings) {
  const auto findings = check_container(options());
  ASSERT_TRUE(findings) << findings.error().to_text();
  for (const ContainerFinding& finding : *findings) EXPECT_FALSE(finding.blocks) << finding.what;
  ContainerSourceOptions without = options();
  without.criu.path = "/nowhere/criu";
  const auto missing = check_container(without);
  ASSERT_TRUE(missing);
  EXPECT_TRUE(std::any_of(missing->begin(), missing->end(), [](const ContainerFinding& finding) {
    return finding.blocks && !finding.remedy.empty();
  }));
  const auto refused = make_container_source(without);
  EXPECT_FALSE(refused);
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

TEST_P(ContainerSourceTest, ThrottleLimitsTheTreesOwnGroup) {
  const std::string group = "/sys/fs/cgroup/cpu/migrate-source-test-" + std::to_string(::getpid());
  std::error_code error;
  if (!fs::exists("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", error) &&
      !fs::exists("/sys/fs/cgroup/cpu/release_agent", error)) {
    GTEST_SKIP() << "no cpu hierarchy of version 1 at /sys/fs/cgroup/cpu";
  }
  ASSERT_NO_FATAL_FAILURE(make_source());
  EXPECT_TRUE(source_->throttle(0, 0));
  EXPECT_FALSE(source_->throttle(1, 0.5));
  const Status top = source_->throttle(0, 0.5);
  if (!top) {
    EXPECT_EQ(top.error().code, ErrorCode::kUnsupported);
  }
  if (!fs::create_directory(group, error)) GTEST_SKIP() << "no group can be made: " << group;
  for (const pid_t pid : tree_->pids()) std::ofstream(group + "/cgroup.procs") << pid;
  const auto quota = [&] {
    std::int64_t value = 0;
    std::ifstream(group + "/cpu.cfs_quota_us") >> value;
    return value;
  };
  const Status held = source_->throttle(0, 0.5);
  EXPECT_TRUE(held) << held.error().to_text();
  EXPECT_GT(quota(), 0);
  EXPECT_TRUE(source_->throttle(0, 0));
  EXPECT_EQ(quota(), -1);
  EXPECT_TRUE(source_->throttle(0, 0.5));
  source_.reset();
  EXPECT_EQ(quota(), -1) << "a dropped source leaves the tree throttled";
  tree_.reset();
  fs::remove(group, error);
  EXPECT_FALSE(error) << error.message();
}

TEST_P(ContainerSourceTest, TreeInNamespacesOfItsOwnIsCalledByItsOwnNumbers) {
  tree_.emplace(2, -1, kPrivateBytes, CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
  group_before_ = unified_group_of(tree_->root());
  ASSERT_NO_FATAL_FAILURE(make_source());
  ASSERT_NO_FATAL_FAILURE(run_rounds());
  const auto description = source_->describe();
  ASSERT_TRUE(description);
  const auto tree = parse_tree(*description);
  ASSERT_TRUE(tree);
  EXPECT_THAT(tree->pids, ::testing::UnorderedElementsAre(1, 2, 3));
  EXPECT_TRUE(tree->pid_namespace);
  EXPECT_TRUE(tree->network_namespace);
  ASSERT_TRUE(source_->pause());
  Collector collector;
  const Status saved = save(collector);
  ASSERT_TRUE(saved) << saved.error().to_text();
  EXPECT_LT(collector.bytes(), kPrivateBytes / 4);
  EXPECT_TRUE(collector.sections.contains("criu.core-1.img"));
  const auto owners = parse_spaces(collector.spaces);
  ASSERT_TRUE(owners);
  std::vector<pid_t> pids;
  for (const SpaceOwner& owner : *owners) pids.push_back(owner.pid);
  EXPECT_THAT(pids, ::testing::UnorderedElementsAre(1, 2, 3));
  const Status resumed = source_->resume();
  ASSERT_TRUE(resumed) << resumed.error().to_text();
  EXPECT_TRUE(tree_->counts_on());
  ASSERT_TRUE(source_->pause());
  ASSERT_TRUE(source_->release());
  EXPECT_FALSE(runs(tree_->root()));
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
