#include "tests/session/engine/engine_run.hpp"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <future>
#include <thread>

#include "tests/wire/recording_channel.hpp"

namespace migrate::testing {
namespace {

using std::chrono::milliseconds;

class TestHost final : public Incoming::Host {
 public:
  explicit TestHost(Migration& run) : run_(run) {}
  Status on_described(const GuestDescription& description) override {
    described = true;
    return run_.spec.on_described ? run_.spec.on_described(description) : Status{};
  }
  Status on_ready() override {
    ++run_.host_ready;
    return {};
  }
  void on_started() override {
    ++run_.host_started;
    run_.host_heard_at = run_.network->bytes()[0].in(test::Direction::kToSource);
  }
  void on_memory(Memory memory, const std::string&) override { run_.host_memory.push_back(memory); }
  std::atomic<bool> described{false};

 private:
  Migration& run_;
};

class TakeoverLog final : public Takeover {
 public:
  explicit TakeoverLog(Migration& run) : run_(run) {}
  void taken_over(const TakenOver& guest) noexcept override {
    run_.takeovers.push_back({guest.session, guest.guest, guest.started_at, run_.world.running,
                              run_.host_started,
                              run_.network->bytes()[0].in(test::Direction::kToSource)});
  }

 private:
  Migration& run_;
};

class EventLog final : public Observer {
 public:
  explicit EventLog(Migration& run) : run_(run) {}
  void on_progress(const Progress&) override {}
  void on_event(const Event& event) override {
    run_.source_events.push_back(event.name + ": " + event.detail);
    run_.bytes_at.try_emplace(event.name, run_.network->bytes());
    if (run_.spec.on_source_event) run_.spec.on_source_event(event);
  }

 private:
  Migration& run_;
};

std::string make_runtime_dir() {
  std::string path = ::testing::TempDir() + "/engine-XXXXXX";
  MIGRATE_CHECK(mkdtemp(path.data()) != nullptr);
  return path;
}

}  // namespace

RunSpec::RunSpec() {
  outgoing.lanes = 2;
  outgoing.connect_timeout = outgoing.hello_timeout = milliseconds(2'000);
  outgoing.peer_timeout = milliseconds(2'000);
  outgoing.ask_window = milliseconds(400);
  outgoing.reconnect = milliseconds(0);  // What breaks stays broken, unless a test is about that.
  incoming.hello_timeout = outgoing.hello_timeout;
  incoming.peer_timeout = outgoing.peer_timeout;
  incoming.ask_window = outgoing.ask_window;
  incoming.lease = milliseconds(200);
}

Migration::Migration(RunSpec run_spec)
    : spec(std::move(run_spec)), runtime_dir_(make_runtime_dir()) {
  if (spec.regions.empty()) {
    spec.regions = {{kLow, {{0}, 64}, Backing::kAnonymous},
                    {kHigh, {{1u << 20}, 100}, Backing::kAnonymous}};
  }
  spec.incoming.runtime_dir = runtime_dir_;
  network = std::make_unique<test::InProcessNetwork>(spec.plan);
  auto plain_connector = network->connector();
  if (spec.wrap_connector) plain_connector = spec.wrap_connector(std::move(plain_connector));
  wire::testing::RecordingConnector recorder(*plain_connector, capture);
  Connector* connector = &recorder;
  auto acceptor = network->acceptor();
  auto source_guest = std::make_unique<FakeSource>(world, spec.regions, spec.source);
  if (spec.fill) {
    spec.fill(*source_guest);
  } else {
    for (std::uint64_t i = 0; i < 64; i += 3) source_guest->write(kLow, {i}, 7);
    for (std::uint64_t i = 0; i < 100; i += 3) source_guest->write(kHigh, {(1u << 20) + i}, 9);
  }
  TestHost host(*this);
  EventLog events(*this);
  TakeoverLog takeover(*this);
  Outgoing outgoing(std::move(source_guest), spec.outgoing, &events, spec.source_arbiter);
  Incoming incoming(std::make_unique<FakeTarget>(world, spec.target), spec.incoming, host, nullptr,
                    spec.target_arbiter, system_clock(), &takeover);
  if (spec.watch_run) spec.watch_run(*this);
  if (spec.ready) spec.ready(outgoing, incoming);
  std::promise<IncomingResult> promise;
  auto arrived = promise.get_future();
  std::thread target([&] {
    auto result = incoming.run(*acceptor);
    acceptor.reset();  // Nobody listens any more.
    promise.set_value(std::move(result));
  });
  out = outgoing.run(*connector);
  // With post-copy the source may be gone before its last word has come: then nobody waits for it.
  if (out.outcome == Outcome::kDone &&
      arrived.wait_for(milliseconds(100)) != std::future_status::ready) {
    incoming.guest_ended();
  }
  // A target that never heard of a guest waits for one for ever, as it should.
  if (!host.described || arrived.wait_for(milliseconds(5'000)) != std::future_status::ready) {
    incoming.cancel();
  }
  in = arrived.get();
  target.join();
}

Migration::~Migration() { std::filesystem::remove_all(runtime_dir_); }

std::string Migration::text() const {
  std::string text = spec.plan.to_text();
  text.append("\nsource: ").append(to_string(out.outcome));
  if (out.report.error) text.append(", ").append(out.report.error->to_text());
  text.append("\ntarget: ").append(to_string(in.outcome));
  if (in.report.error) text.append(", ").append(in.report.error->to_text());
  return text;
}

void expect_one_owner(Migration& run) {
  SCOPED_TRACE(run.text());
  EXPECT_LE(run.world.running_max, 1);
  // The network hears of a guest that has started, once, and of no other.
  EXPECT_EQ(run.takeovers.size(), run.target().started() ? 1u : 0u);
  const bool was_running = run.spec.source.run_state == RunState::kRunning;
  if (run.out.outcome == Outcome::kUncertain) {
    // Paused here; whether it runs there is what is not known here.
    EXPECT_FALSE(run.source().running());
    return;
  }
  if (run.out.outcome == Outcome::kDone) {
    EXPECT_EQ(run.in.outcome, Outcome::kDone);
    EXPECT_TRUE(run.target().started());
    EXPECT_EQ(run.target().running(), was_running);
    EXPECT_TRUE(run.target().memory() == run.source().memory()) << "memory differs";
    EXPECT_EQ(run.world.released, 1);
    EXPECT_TRUE(run.target().holds_lock());
  } else {
    EXPECT_NE(run.in.outcome, Outcome::kDone);
    EXPECT_EQ(run.source().running(), was_running);
    EXPECT_FALSE(run.target().started());
    EXPECT_EQ(run.world.released, 0);
    EXPECT_TRUE(run.source().holds_lock());
    EXPECT_EQ(run.source().throttle_now(), 0.0);
    EXPECT_TRUE(run.out.report.error.has_value());
  }
  EXPECT_EQ(run.world.running, was_running ? 1 : 0);
}

}  // namespace migrate::testing
