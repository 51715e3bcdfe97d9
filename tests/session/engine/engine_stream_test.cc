// What the engine puts on the wire, read by the independent verifier.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <random>
#include <thread>

#include "tests/session/engine/engine_run.hpp"

namespace migrate::testing {
namespace {

void expect_valid(const Migration& run, const std::string& name) {
  const std::string path = ::testing::TempDir() + "/" + name + "-" + std::to_string(getpid());
  ASSERT_TRUE(run.capture.save(path));
  const std::string command =
      std::string(MIGRATE_PYTHON) + " -B " + MIGRATE_VERIFY_STREAM + " " + path;
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::filesystem::remove(path);
}

TEST(EngineStream, APrecopyWithAWriterObeysTheSpecification) {
  RunSpec spec;
  spec.outgoing.verify = VerifyMode::kFull;
  auto random = std::make_shared<std::mt19937>(1);
  auto left = std::make_shared<int>(100);
  spec.source.writes = [random, left](FakeSource& guest, const char* where) {
    if (std::string_view(where) == "save") return;
    for (int i = 0; i < 20 && *left > 0; ++i, --*left) {
      guest.write(kLow, {(*random)() % 64}, (*random)() % 3 == 0 ? 0 : 17);
    }
  };
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  expect_valid(run, "precopy");
}

TEST(EngineStream, AStopCopyObeysTheSpecification) {
  RunSpec spec;
  spec.outgoing.strategy = Strategy::kStopCopy;
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  expect_valid(run, "stop-copy");
}

TEST(EngineStream, MemoryThatFollowsTheGuestObeysTheSpecification) {
  for (const Strategy strategy : {Strategy::kPostcopy, Strategy::kHybrid}) {
    RunSpec spec;
    spec.outgoing.strategy = strategy;
    spec.outgoing.max_downtime = std::chrono::microseconds(1);
    spec.outgoing.release_early = true;
    spec.source.writes = [](FakeSource& guest, const char* where) {
      if (std::string_view(where) != "save") return;
      for (const std::uint64_t page : {1, 4, 63}) guest.write_as_device(kLow, {page}, 5);
    };
    Migration run(std::move(spec));
    EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
    expect_valid(run, to_string(strategy).data());
  }
}

TEST(EngineStream, FramesThatFollowTheGuestObeyTheSpecification) {
  RunSpec spec;
  spec.outgoing.forward = std::chrono::milliseconds(20);
  spec.target.cards = true;
  spec.source.packets = [] {
    return std::vector<GuestFrame>{{0, std::vector<std::byte>(60, std::byte{1})}};
  };
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  EXPECT_GT(run.in.report.forwarded.frames, 0u);
  expect_valid(run, "forwarded");
}

TEST(EngineStream, AFailureAtTheTargetObeysTheSpecification) {
  RunSpec spec;
  spec.target.fail_load = ErrorCode::kGuest;
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kFailed) << run.text();
  expect_valid(run, "failed-load");
}

TEST(EngineStream, RegionsThatChangeObeyTheSpecification) {
  RunSpec spec;
  auto step = std::make_shared<int>(0);
  spec.source.writes = [step](FakeSource& guest, const char* where) {
    const Region extra{{0, 3, 0}, {{5000}, 70}, Backing::kAnonymous};
    if (std::string_view(where) != "collect" || (*step)++ != 1) return;
    guest.memory().add(extra);
    guest.write(extra.id, {5003}, 8);
    guest.memory().remove(kLow);
  };
  Migration run(std::move(spec));
  EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
  expect_valid(run, "regions");
}

TEST(EngineStream, ALinkThatIsLostAndOpenedAgainObeysTheSpecification) {
  const auto make = [] {
    RunSpec spec;
    spec.outgoing.lanes = 1;
    spec.outgoing.reconnect = std::chrono::seconds(20);
    return spec;
  };
  Migration clean(make());
  ASSERT_EQ(clean.out.outcome, Outcome::kDone) << clean.text();
  const auto begin = clean.bytes_at["precopy"];
  using test::Fault;
  const std::vector<Fault> cuts[] = {
      // Pages that have come and are void; the same with a second cut within VOID's connection; an
      // acknowledgement that is lost.
      {Fault::cut(1, test::Direction::kToTarget, begin[1].to_target + 30'000)},
      {Fault::cut(1, test::Direction::kToTarget, begin[1].to_target + 30'000),
       Fault::cut(2, test::Direction::kToTarget, 130)},
      {Fault::cut(0, test::Direction::kToSource, begin[0].to_source + 1)}};
  for (const auto& faults : cuts) {
    RunSpec spec = make();
    spec.plan.faults = faults;
    Migration run(std::move(spec));
    EXPECT_EQ(run.out.outcome, Outcome::kDone) << run.text();
    EXPECT_GE(run.out.report.reconnects.count, 1u) << run.text();
    expect_valid(run, "resumed");
  }
}

TEST(EngineStream, AttemptsThatAreGivenUpObeyTheSpecification) {
  // Where the first attempt hangs: in a section of the state, and while the target loads.
  for (const bool in_section : {true, false}) {
    RunSpec spec;
    Migration* run = nullptr;
    int stalls = 1;
    spec.watch_run = [&](Migration& migration) { run = &migration; };
    spec.outgoing.downtime_hard = std::chrono::milliseconds(100);
    spec.outgoing.peer_timeout = spec.incoming.peer_timeout = std::chrono::seconds(20);
    spec.incoming.lease = std::chrono::seconds(20);
    spec.source.state_bytes = spec.target.state_bytes = 600 << 10;
    spec.source.writes = [&](FakeSource& guest, const char* where) {
      if (std::string_view(where) == "resume") {
        run->network->release_all();
        guest.write(kLow, {5}, 77);
      }
      // The first is the rehearsal's.
      const bool of_attempt = std::string_view(where) == "save" && guest.pauses() > 1;
      if (of_attempt && in_section && stalls-- > 0) run->network->stall(0);
    };
    spec.target.hook = [&](const char* where) {
      if (std::string_view(where) != "load" || in_section || stalls-- <= 0) return;
      const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (run->world.running == 0 && std::chrono::steady_clock::now() < give_up) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    };
    spec.target.scribble = [](FakeMemory& memory, int loads) {
      if (loads == 0) memory.bytes(kLow)[30 * kPageSize] ^= std::byte{1};
    };
    Migration done(std::move(spec));
    expect_one_owner(done);
    EXPECT_EQ(done.out.outcome, Outcome::kDone) << done.text();
    EXPECT_GE(done.out.report.failed_attempts.size(), 1u);
    expect_valid(done, "given-up");
  }
}

}  // namespace
}  // namespace migrate::testing
