// Migrations of real guests between two runtime folders of this host, by the command alone.
#include <gtest/gtest.h>

#include <fstream>
#include <optional>

#include "tests/tools/command_host.hpp"

namespace migrate::tool {
namespace {

using testing::CommandProcess;
using testing::Host;
using testing::Process;
using testing::ScratchFolder;
using testing::wait_for;
using testing::Words;

class CommandMigrationTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::kvm_is_here()) GTEST_SKIP() << "needs /dev/kvm";
  }
  static void stop(const Host& host, CommandProcess& process) {
    EXPECT_EQ(host.code({"stop", "web"}), 0);
    EXPECT_EQ(process.wait(), 0) << process.err();
  }

  Host a_;
  Host b_;
};

constexpr const char* kWriter = "writer:rate=20M,set=8M";

TEST_F(CommandMigrationTest, AGuestMovesWhileItWrites) {
  const Process source = a_.run(kWriter);
  std::string address;
  const Process target = b_.listen({"--once", "--json"}, address);
  const std::uint64_t before = a_.work();
  const Process send = a_.start({"send", "vm:web", address, "--json", "--verify", "full"});
  EXPECT_EQ(send->wait(), 0) << send->out() << send->err();
  EXPECT_FALSE(a_.answers()) << "the source's socket is gone before send returns";
  EXPECT_TRUE(b_.answers());
  const Json report = send->json();
  EXPECT_EQ(report["outcome"], "done");
  EXPECT_EQ(report["integrity"]["digest"], "equal");
  EXPECT_EQ(report["integrity"]["full"], "equal");
  EXPECT_EQ(report["guest"]["name"], "web");
  EXPECT_GT(report["downtime_ms"].get<double>(), 0);

  EXPECT_EQ(source->wait(), 0) << source->err();
  EXPECT_EQ(b_.state(), "running");
  EXPECT_TRUE(wait_for([&] { return b_.work() > before; })) << "its counters go on";
  EXPECT_EQ(b_.errors(), 0u);
  stop(b_, *target);
  EXPECT_EQ(target->json()["outcome"], "done") << target->out();
  a_.expect_empty();
  b_.expect_empty();
}

TEST_F(CommandMigrationTest, APausedGuestArrivesPaused) {
  const Process source = a_.run("counter");
  ASSERT_EQ(a_.code({"pause", "web"}), 0);
  const std::uint64_t before = a_.work();
  std::string address;
  const Process target = b_.listen({"--once"}, address);
  const Json report = a_.json({"send", "vm:web", address});
  EXPECT_EQ(report["outcome"], "done") << report;
  EXPECT_TRUE(report["downtime_ms"].is_null());
  EXPECT_EQ(b_.state(), "paused");
  EXPECT_EQ(b_.work(), before);
  stop(b_, *target);
}

TEST_F(CommandMigrationTest, AGuestGoesThereAndBackThroughListenersThatStay) {
  Process source = a_.run(kWriter);
  std::string address_a;
  std::string address_b;
  const Process listener_a = a_.listen({}, address_a);
  const Process listener_b = b_.listen({}, address_b);
  for (int i = 0; i < 2; ++i) {
    const Json there = a_.json({"send", "vm:web", address_b});
    ASSERT_EQ(there["outcome"], "done") << there;
    EXPECT_FALSE(a_.answers());
    const Json back = b_.json({"send", "vm:web", address_a});
    ASSERT_EQ(back["outcome"], "done") << back;
    EXPECT_FALSE(b_.answers());
  }
  EXPECT_EQ(source->wait(), 0);
  EXPECT_EQ(a_.state(), "running");
  EXPECT_EQ(a_.errors(), 0u);
  // The guest outlives its listener.
  for (const Process& listener : {std::cref(listener_a), std::cref(listener_b)}) {
    listener->signal(SIGTERM);
    EXPECT_EQ(listener->wait(), 0) << listener->err();
  }
  EXPECT_EQ(a_.state(), "running");
  EXPECT_EQ(a_.code({"stop", "web"}), 0);
  EXPECT_TRUE(wait_for([&] { return !a_.answers(); }));
}

TEST_F(CommandMigrationTest, ATakenNameIsRefusedBeforeTheGuestIsTouched) {
  const Process source = a_.run("counter");
  const Process other = b_.run("idle", "32M");
  std::string address;
  const Process target = b_.listen({"--once", "--json"}, address);
  const Process send = a_.start({"send", "vm:web", address, "--json"});
  EXPECT_EQ(send->wait(), 3) << send->out();
  EXPECT_EQ(send->json()["outcome"], "refused");
  EXPECT_EQ(send->json()["error"]["code"], "name-taken");
  EXPECT_EQ(a_.state(), "running");
  EXPECT_EQ(target->wait(), 1) << target->err();
  EXPECT_EQ(target->json()["outcome"], "refused");
  EXPECT_EQ(b_.state(), "running") << "the guest that had the name is untouched";
  stop(a_, *source);
  stop(b_, *other);
}

TEST_F(CommandMigrationTest, AGuestCanGoByAnotherNameAtTheTarget) {
  const Process source = a_.run("counter");
  std::string address;
  const Process target = b_.listen({"--once", "--name", "web-2"}, address);
  EXPECT_EQ(a_.json({"send", "vm:web", address})["outcome"], "done");
  EXPECT_EQ(b_.json({"status", "web-2"})["state"], "running");
  EXPECT_FALSE(b_.answers());
  target->signal(SIGTERM);
  EXPECT_EQ(target->wait(), 0) << target->err();
  b_.expect_empty();
}

TEST_F(CommandMigrationTest, AListenerServesOthersWhileOneSessionLasts) {
  const Process first = a_.run(kWriter);
  std::string address;
  const Process listener = b_.listen({}, address);
  const Process slow = a_.start({"send", "vm:web", address, "--bandwidth", "1Mbit", "--json"});
  ASSERT_TRUE(wait_for([&] { return a_.state() == "migrating"; }));
  const Host c;
  const Process second = c.start({"run", "other", "--memory", "32M"});
  ASSERT_TRUE(wait_for([&] {
    return c.json({"status", "other"}).value("state", "") == "running";
  }));
  EXPECT_EQ(c.json({"send", "vm:other", address})["outcome"], "done");
  EXPECT_EQ(b_.json({"status", "other"})["state"], "running");
  EXPECT_EQ(a_.state(), "migrating");
  EXPECT_EQ(a_.code({"cancel", "web"}), 0);
  EXPECT_EQ(slow->wait(), 4);
  EXPECT_EQ(b_.code({"stop", "other"}), 0);
  stop(a_, *first);
  listener->signal(SIGTERM);
  EXPECT_EQ(listener->wait(), 0);
  EXPECT_TRUE(wait_for([&] { return b_.json({"ps"})["guests"].empty(); }));
}

/// For a migration that is still in its first round when another command is there: 1 MB/s, and the
/// guest has written 8 MiB.
constexpr const char* kVerySlow = "8Mbit";
/// For one that lasts until somebody follows it, and then comes to its end.
constexpr const char* kSlow = "80Mbit";

class SlowMigrationTest : public CommandMigrationTest {
 protected:
  void begin(const Words& more = {}, const char* bandwidth = kVerySlow) {
    source_ = a_.run(kWriter);
    // All of its set.
    ASSERT_TRUE(wait_for([&] { return a_.json({"stats", "web"})["pages_written"] > 2048; }));
    target_ = b_.listen({"--once"}, address_);
    Words words = {"send", "vm:web", address_, "--bandwidth", bandwidth, "--json"};
    words.insert(words.end(), more.begin(), more.end());
    send_ = a_.start(words);
    ASSERT_TRUE(wait_for([&] {
      const Json guest = a_.json({"status", "web"});
      return guest["state"] == "migrating" && guest["migration"]["progress"].is_object();
    }));
  }
  void expect_cancelled() {
    EXPECT_EQ(send_->wait(), 4) << send_->out() << send_->err();
    EXPECT_EQ(send_->json()["outcome"], "cancelled");
    EXPECT_EQ(a_.state(), "running");
    const std::uint64_t before = a_.work();
    EXPECT_TRUE(wait_for([&] { return a_.work() > before; }));
    EXPECT_EQ(target_->wait(), 1) << target_->err();
    stop(a_, *source_);
    a_.expect_empty();
    b_.expect_empty();
  }

  Process source_;
  Process target_;
  Process send_;
  std::string address_;
};

TEST_F(SlowMigrationTest, CancelLetsTheGuestGoOn) {
  ASSERT_NO_FATAL_FAILURE(begin());
  EXPECT_EQ(a_.json({"cancel", "web"})["outcome"], "cancelled");
  expect_cancelled();
}

TEST_F(SlowMigrationTest, SigtermToSendCancels) {
  ASSERT_NO_FATAL_FAILURE(begin());
  send_->signal(SIGTERM);
  expect_cancelled();
}

TEST_F(SlowMigrationTest, SigintToSendCancels) {
  ASSERT_NO_FATAL_FAILURE(begin());
  send_->signal(SIGINT);
  expect_cancelled();
}

TEST_F(SlowMigrationTest, SendsDeathDoesNotEndTheMigration) {
  ASSERT_NO_FATAL_FAILURE(begin({}, kSlow));
  send_->signal(SIGKILL);
  EXPECT_EQ(send_->wait(), 128 + SIGKILL);
  const Process follower = a_.start({"status", "web", "--follow", "--json"});
  EXPECT_EQ(follower->wait(), 0) << follower->out() << follower->err();
  EXPECT_EQ(follower->json()["outcome"], "done");
  EXPECT_EQ(source_->wait(), 0);
  stop(b_, *target_);
}

TEST_F(SlowMigrationTest, SigtermToTheSourceCancelsAndStops) {
  ASSERT_NO_FATAL_FAILURE(begin());
  source_->signal(SIGTERM);
  EXPECT_EQ(source_->wait(), 0) << source_->err();
  EXPECT_EQ(send_->wait(), 4) << send_->out() << send_->err();
  EXPECT_EQ(target_->wait(), 1);
  a_.expect_empty();
  b_.expect_empty();
}

TEST_F(SlowMigrationTest, SigtermToTheTargetLeavesTheGuestAtTheSource) {
  ASSERT_NO_FATAL_FAILURE(begin());
  target_->signal(SIGTERM);
  EXPECT_EQ(target_->wait(), 4) << target_->err();
  EXPECT_EQ(send_->wait(), 1) << send_->out() << send_->err();
  EXPECT_EQ(send_->json()["error"]["side"], "target") << send_->out();
  EXPECT_EQ(a_.state(), "running");
  stop(a_, *source_);
  b_.expect_empty();
}

TEST_F(SlowMigrationTest, KillingTheSourceIsReportedAsAGuestLost) {
  // For so long the target waits for it to come back.
  ASSERT_NO_FATAL_FAILURE(begin({"--reconnect", "1s"}));
  source_->signal(SIGKILL);
  EXPECT_EQ(send_->wait(), 6) << send_->out() << send_->err();
  EXPECT_EQ(send_->json()["outcome"], "lost");
  EXPECT_EQ(target_->wait(), 1) << target_->err();
  EXPECT_EQ(a_.json({"ps"})["guests"], Json::array());
}

TEST_F(CommandMigrationTest, EventsGoToTheirFileAndEndWithTheReport) {
  const ScratchFolder scratch;
  const std::filesystem::path file = scratch.path() / "events.jsonl";
  const Process source = a_.run(kWriter);
  std::string address;
  const Process target = b_.listen({"--once"}, address);
  EXPECT_EQ(a_.code({"send", "vm:web", address, "--events", file.string()}), 0);
  std::vector<Json> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) lines.push_back(Json::parse(line));
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines.back()["type"], "report");
  EXPECT_EQ(lines.back()["report"]["outcome"], "done");
  stop(b_, *target);
}

TEST_F(CommandMigrationTest, DetachedSendReturnsAtOnceAndStatusFollows) {
  const Process source = a_.run(kWriter);
  std::string address;
  const Process target = b_.listen({"--once"}, address);
  const Process send = a_.start({"send", "vm:web", address, "--detach", "--bandwidth", kSlow});
  EXPECT_EQ(send->wait(), 0) << send->err();
  const Process follower = a_.start({"status", "web", "--follow", "--json"});
  EXPECT_EQ(follower->wait(), 0) << follower->out();
  EXPECT_EQ(follower->json()["outcome"], "done");
  stop(b_, *target);
}

}  // namespace
}  // namespace migrate::tool
