// Restoring a small tree by a real CRIU: it has all its memory, or nothing of it is left.
#include <dirent.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <thread>

#include "adapters/containers/target/target_checks.hpp"
#include "adapters/containers/tree_state.hpp"
#include "migrate/containers.hpp"
#include "tests/containers/target/small_tree.hpp"

namespace migrate::containers {
namespace {

bool wait_until(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::poll(nullptr, 0, 2);
  }
  return true;
}

class ContainerTargetTest : public testing::Test {
 protected:
  void SetUp() override {
    const char* criu = std::getenv("MIGRATE_CRIU");
    if (criu == nullptr || *criu == '\0') GTEST_SKIP() << "no CRIU here (MIGRATE_CRIU)";
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    std::string name = "/dev/shm/target-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    folder_ = name;
    std::filesystem::create_directory(folder_ + "/target");
    options_.criu.path = criu;
    options_.folder = folder_ + "/target";
    options_.cgroup = "target-test-" + std::to_string(::getpid());
    tree_ = std::make_unique<SmallTree>(folder_);
    const Status dumped = tree_->dump(options_.criu);
    ASSERT_TRUE(dumped) << dumped.error().to_text();
    before_ = tree_->figures();
    ASSERT_GT(before_.checks[0], 0u);
  }
  void TearDown() override {
    if (target_ != nullptr) {
      const Status killed = target_->kill();
      EXPECT_TRUE(killed);
    }
    target_.reset();
    if (tree_ != nullptr) expect_nothing_left();
    tree_.reset();
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }
  void expect_nothing_left() {
    EXPECT_TRUE(wait_until([&] { return taken_pids(tree_->pids()).empty(); }));
    EXPECT_TRUE(std::filesystem::is_empty(options_.folder));
    EXPECT_FALSE(group_exists());
    std::ifstream mounts("/proc/self/mountinfo");
    const std::string text((std::istreambuf_iterator<char>(mounts)), {});
    EXPECT_EQ(text.find(options_.folder), std::string::npos);
  }
  [[nodiscard]] bool group_exists() const {
    std::error_code ignored;
    for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      for (std::filesystem::recursive_directory_iterator it(mount, ignored), end; it != end;
           it.increment(ignored)) {
        if (it->path().filename().string().starts_with(options_.cgroup)) return true;
      }
    }
    return false;
  }

  void prepare() {
    auto made = make_container_target(options_);
    ASSERT_TRUE(made) << made.error().to_text();
    target_ = *std::move(made);
    const Status prepared = target_->prepare(tree_->description());
    ASSERT_TRUE(prepared) << prepared.error().to_text();
    ASSERT_TRUE(tree_->send_memory(target_->pages()));
  }
  void load() {
    prepare();
    if (HasFatalFailure()) return;
    const Status loaded = target_->load_state(tree_->state);
    ASSERT_TRUE(loaded) << loaded.error().to_text();
  }
  Status load_again() {
    tree_->state.rewind();
    return target_->load_state(tree_->state);
  }
  void start(RunState state) {
    const Status started = target_->start(state);
    ASSERT_TRUE(started) << started.error().to_text();
  }

  std::string folder_;
  ContainerTargetOptions options_;
  std::unique_ptr<SmallTree> tree_;
  std::unique_ptr<ContainerTarget> target_;
  SmallTree::Figures before_;
};

TEST_F(ContainerTargetTest, ATreeRunsOnWithAllItsMemory) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(tree_->figures().checks[0], before_.checks[0]);
  EXPECT_EQ(target_->root_pid(), 0);
  EXPECT_EQ(target_->ended_fd(), -1);
  start(RunState::kRunning);
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_EQ(target_->root_pid(), tree_->pids()[0]);
  EXPECT_FALSE(target_->has_all_memory());
  target_->memory_complete();
  tree_->wake();
  EXPECT_TRUE(tree_->goes_on_from(before_));
  EXPECT_EQ(tree_->figures().wrong, 0u);
  EXPECT_TRUE(wait_until([&] { return target_->has_all_memory(); }));
  const auto filled = tree_->figures();
  EXPECT_TRUE(tree_->goes_on_from(filled));
  EXPECT_EQ(tree_->figures().wrong, 0u);
  pollfd ended{target_->ended_fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 0), 0);
  EXPECT_TRUE(target_->kill());
  EXPECT_EQ(::poll(&ended, 1, 0), 1);
}

TEST_F(ContainerTargetTest, APausedTreeArrivesPaused) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  target_->memory_complete();
  start(RunState::kPaused);
  ASSERT_FALSE(HasFatalFailure());
  tree_->wake();
  EXPECT_TRUE(wait_until([&] { return target_->has_all_memory(); }));
  EXPECT_EQ(tree_->figures().checks[0], before_.checks[0]);
  EXPECT_EQ(tree_->figures().checks[1], before_.checks[1]);
  ASSERT_TRUE(target_->freeze(false));
  EXPECT_TRUE(tree_->goes_on_from(before_));
  EXPECT_EQ(tree_->figures().wrong, 0u);
}

TEST_F(ContainerTargetTest, TheTreeOutlivesItsTarget) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  start(RunState::kRunning);
  target_->memory_complete();
  target_.reset();
  tree_->wake();
  EXPECT_TRUE(tree_->goes_on_from(before_));
  EXPECT_EQ(tree_->figures().wrong, 0u);
  for (const pid_t pid : tree_->pids()) ::kill(pid, SIGKILL);
  ::waitpid(tree_->pids()[0], nullptr, 0);
  EXPECT_TRUE(wait_until([&] { return taken_pids(tree_->pids()).empty(); }));
  // It was the tree's, and is its owner's to remove now.
  std::error_code ignored;
  for (std::filesystem::recursive_directory_iterator it("/sys/fs/cgroup", ignored), end; it != end;
       it.increment(ignored)) {
    if (it->path().filename().string().starts_with(options_.cgroup)) {
      EXPECT_TRUE(wait_until([&] { return ::rmdir(it->path().c_str()) == 0; }));
      break;
    }
  }
}

TEST_F(ContainerTargetTest, ADiscardedTreeLeavesNothingAndCanComeAgain) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  target_->discard();
  EXPECT_EQ(tree_->figures().checks[0], before_.checks[0]);
  expect_nothing_left();
  target_.reset();
  tree_->state.rewind();
  load();
  start(RunState::kRunning);
  target_->memory_complete();
  tree_->wake();
  EXPECT_TRUE(tree_->goes_on_from(before_));
}

TEST_F(ContainerTargetTest, AFailedAttemptCanBeMadeAgain) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  ASSERT_TRUE(target_->yield());
  EXPECT_TRUE(wait_until([&] { return taken_pids(tree_->pids()).empty(); }));
  const Status again = load_again();
  ASSERT_TRUE(again) << again.error().to_text();
  start(RunState::kRunning);
  target_->memory_complete();
  tree_->wake();
  EXPECT_TRUE(tree_->goes_on_from(before_));
  EXPECT_EQ(tree_->figures().wrong, 0u);
}

TEST_F(ContainerTargetTest, TakenProcessNumbersRefuseTheTree) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  auto other = make_container_target(options_);
  ASSERT_TRUE(other);
  const Status prepared = (*other)->prepare(tree_->description());
  ASSERT_FALSE(prepared);
  EXPECT_EQ(prepared.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(prepared.error().message, testing::HasSubstr(std::to_string(tree_->pids()[0])));
}

TEST_F(ContainerTargetTest, MemoryThatNobodySentFailsInsteadOfBeingZeros) {
  auto made = make_container_target(options_);
  ASSERT_TRUE(made);
  target_ = *std::move(made);
  GuestDescription description = tree_->description();
  description.regions.erase(description.regions.begin() + 1);
  ASSERT_TRUE(target_->prepare(description));
  const Status loaded = target_->load_state(tree_->state);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kIntegrity);
  EXPECT_THAT(loaded.error().message, testing::HasSubstr("was neither sent"));
}

TEST_F(ContainerTargetTest, HostileSectionsAreRefused) {
  prepare();
  ASSERT_FALSE(HasFatalFailure());
  const auto good = tree_->state.sections;
  for (const char* name : {"criu.../etc/passwd", "criu..hidden", "criu.a/b", "criu.", "unheard.of",
                           "criu.lazy-pages.socket"}) {
    tree_->state.sections = good;
    tree_->state.sections.push_back({{name, 1, true}, {}});
    const Status loaded = load_again();
    EXPECT_FALSE(loaded) << name;
  }
  tree_->state.sections = good;
  tree_->state.sections.push_back(good.back());
  EXPECT_FALSE(load_again());  // Twice.
  tree_->state.sections = {good.begin() + 1, good.end()};
  EXPECT_FALSE(load_again());  // Whose memory?
  tree_->state.sections = good;
  for (auto& [info, body] : tree_->state.sections) {
    if (info.name.starts_with("criu.core-")) body.resize(body.size() / 2);
  }
  const Status broken = load_again();
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::kGuest) << broken.error().to_text();
  tree_->state.sections = good;
  const Status whole = load_again();
  EXPECT_TRUE(whole) << whole.error().to_text();
}

/// Children of this process that are none of the tree's: CRIU, while it holds a tree.
std::vector<pid_t> other_children(const std::vector<pid_t>& tree) {
  std::vector<pid_t> found;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "children");
    for (pid_t child = 0; file >> child;) {
      if (std::ranges::find(tree, child) == tree.end()) found.push_back(child);
    }
  }
  return found;
}

TEST_F(ContainerTargetTest, ACriuKilledWhileItHoldsTheTreeRunsNothing) {
  load();
  ASSERT_FALSE(HasFatalFailure());
  const auto criu = other_children(tree_->pids());
  ASSERT_EQ(criu.size(), 1u);
  ::kill(criu[0], SIGKILL);
  const Status started = target_->start(RunState::kRunning);
  ASSERT_FALSE(started);
  EXPECT_EQ(started.error().code, ErrorCode::kGuest) << started.error().to_text();
  EXPECT_TRUE(wait_until([&] { return taken_pids(tree_->pids()).empty(); }));
  EXPECT_EQ(tree_->figures().checks[0], before_.checks[0]);
  target_->discard();
}

/// Whatever CRIU was about: the tree runs here, or nothing of it is left.
// By hand (--gtest_also_run_disabled_tests): minutes long, and not reliable on a busy machine yet.
TEST_F(ContainerTargetTest, DISABLED_ACriuKilledAtAnyMomentLeavesAWholeTreeOrNone) {
  int failed = 0;
  bool ran = false;
  for (int delay_us = 0; delay_us < 60'000 && !ran; delay_us += 4'000) {
    prepare();
    ASSERT_FALSE(HasFatalFailure());
    const auto criu = other_children(tree_->pids());
    ASSERT_EQ(criu.size(), 1u);
    const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, criu[0], 0));
    std::thread killer([&] {
      ::usleep(static_cast<useconds_t>(delay_us));
      ::syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, nullptr, 0);
    });
    Status done = load_again();
    bool may_have_run = false;
    if (done) {
      done = target_->start(RunState::kRunning);
      may_have_run = done || done.error().code == ErrorCode::kGuestLost;
    }
    killer.join();
    ::close(pidfd);
    ran = may_have_run;
    if (!done) {
      ++failed;
      EXPECT_FALSE(done.error().message.empty());
      target_->discard();
    } else {
      EXPECT_TRUE(target_->kill());
    }
    target_.reset();
    expect_nothing_left();
  }
  EXPECT_GT(failed, 0);
}

TEST_F(ContainerTargetTest, AMissingCriuIsSaidAtOnce) {
  options_.criu.path = folder_ + "/no-such-criu";
  const auto made = make_container_target(options_);
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace migrate::containers
