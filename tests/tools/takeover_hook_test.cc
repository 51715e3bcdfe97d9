// The operator's hook: what it is told, how it may end, and that nothing of it is left.
#include "tools/migrate/takeover_hook.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/fd.hpp"
#include "tests/tools/scratch_folder.hpp"

namespace migrate::tool {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;

// Whatever a busy machine takes; nothing waits this long unless it fails.
SteadyTime patience() { return std::chrono::steady_clock::now() + minutes(1); }

class TakeoverHookTest : public ::testing::Test {
 protected:
  ~TakeoverHookTest() override {
    EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1) << "a child is left";
    EXPECT_EQ(errno, ECHILD);
  }

  std::optional<HookEnd> run(const std::string& command, milliseconds limit = minutes(1),
                             TakeoverHook::Variables variables = {}) {
    auto hook = TakeoverHook::create(command, limit);
    EXPECT_TRUE(hook);
    (*hook)->run(std::move(variables));
    return (*hook)->wait(patience());
  }
  std::string file(const std::string& name) const {
    std::ifstream in(scratch_.path() / name);
    std::stringstream text;
    text << in.rdbuf();
    return text.str();
  }
  /// Whether the process whose number is in that file goes.
  bool goes(const std::string& name) const {
    const auto gone = [child = std::stoi(file(name))] {
      std::ifstream stat("/proc/" + std::to_string(child) + "/stat");
      std::string text;
      std::getline(stat, text);
      return text.empty() || text.find(") Z ") != std::string::npos;
    };
    const auto until = patience();
    while (!gone() && std::chrono::steady_clock::now() < until) std::this_thread::yield();
    return gone();
  }
  std::string path(const std::string& name) const { return (scratch_.path() / name).string(); }

  testing::ScratchFolder scratch_;
};

TEST_F(TakeoverHookTest, IsToldWhichGuestItIs) {
  ::setenv("MIGRATE_MAC", "of the parent", 1);
  const auto end =
      run("printf '%s %s' \"$MIGRATE_GUEST\" \"$MIGRATE_MAC\" > " + path("told"), minutes(1),
          {{"MIGRATE_GUEST", "web"}, {"MIGRATE_MAC", "52:54:00:00:00:01"}});
  ::unsetenv("MIGRATE_MAC");
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, HookEnd::Kind::kOk);
  EXPECT_EQ(end->text, "");
  EXPECT_EQ(file("told"), "web 52:54:00:00:00:01");
}

TEST_F(TakeoverHookTest, HasNoDescriptorsOfOurs) {
  const Fd secret(::open(path("secret").c_str(), O_RDWR | O_CREAT, 0600));  // No O_CLOEXEC.
  ASSERT_TRUE(secret);
  const auto end = run("ls -l /proc/$$/fd > " + path("fds"));
  ASSERT_TRUE(end);
  EXPECT_NE(file("fds").find("/dev/null"), std::string::npos) << "standard input";
  EXPECT_EQ(file("fds").find("secret"), std::string::npos) << file("fds");
}

TEST_F(TakeoverHookTest, AFailureIsTold) {
  const auto failed = run("exit 3");
  ASSERT_TRUE(failed);
  EXPECT_EQ(failed->kind, HookEnd::Kind::kFailed);
  EXPECT_EQ(failed->number, 3);
  const auto missing = run("/nowhere/at/all");
  ASSERT_TRUE(missing);
  EXPECT_EQ(missing->kind, HookEnd::Kind::kFailed);
  EXPECT_NE(missing->text.find("no such command"), std::string::npos) << missing->text;
  const auto killed = run("kill -TERM $$");
  ASSERT_TRUE(killed);
  EXPECT_EQ(killed->kind, HookEnd::Kind::kSignalled);
  EXPECT_EQ(killed->number, SIGTERM);
}

TEST_F(TakeoverHookTest, OneThatHangsIsKilledWithAllItStarted) {
  const auto end = run("sleep 1000 & echo $! > " + path("child") + "; wait", milliseconds(300));
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, HookEnd::Kind::kTimeout);
  if (file("child").empty()) return;  // It was killed before it had come so far.
  EXPECT_TRUE(goes("child"));
}

TEST_F(TakeoverHookTest, WhatItLeavesInTheBackgroundEndsWithIt) {
  const auto end = run("sleep 1000 & echo $! > " + path("child"));
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, HookEnd::Kind::kOk) << end->text;
  EXPECT_TRUE(goes("child"));
}

TEST_F(TakeoverHookTest, OneInASessionOfItsOwnStays) {
  const auto end = run("setsid sleep 1000 & echo $! > " + path("child") +
                       "; until [ \"$(cut -d' ' -f6 /proc/$!/stat)\" = $! ]; do :; done");
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, HookEnd::Kind::kOk) << end->text;
  const int child = std::stoi(file("child"));
  EXPECT_EQ(::kill(child, SIGKILL), 0) << "it should still be there";
}

TEST_F(TakeoverHookTest, OneThatIsStoppedBeforeItRunsHasAnEnd) {
  auto hook = TakeoverHook::create("touch " + path("ran"), minutes(1));
  ASSERT_TRUE(hook);
  (*hook)->stop();
  (*hook)->run({});
  const auto end = (*hook)->wait(patience());
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, HookEnd::Kind::kStopped);
  hook->reset();
  EXPECT_FALSE(std::filesystem::exists(path("ran")));
}

TEST_F(TakeoverHookTest, EndsWithItsGuest) {
  auto hook = TakeoverHook::create("sleep 1000", minutes(30));
  ASSERT_TRUE(hook);
  (*hook)->run({});
  (*hook)->stop();
  const auto end = (*hook)->wait(patience());
  ASSERT_TRUE(end);
  EXPECT_EQ(end->kind, HookEnd::Kind::kStopped);
}

TEST_F(TakeoverHookTest, IsNotRunForAGuestThatNeverCame) {
  auto hook = TakeoverHook::create("touch " + path("ran"), minutes(1));
  ASSERT_TRUE(hook);
  EXPECT_FALSE((*hook)->wait(patience()));
  hook->reset();
  EXPECT_FALSE(std::filesystem::exists(path("ran")));
}

}  // namespace
}  // namespace migrate::tool
