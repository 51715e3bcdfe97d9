// The life of a hosted guest, over HTTP's routes but without HTTP: real migrations of small guests
// over loopback.
#include "tools/migrate/guest_host.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "base/mutex.hpp"
#include "tests/net-takeover/net_space.hpp"
#include "tests/session/engine/fake_guest.hpp"
#include "tests/tools/scratch_folder.hpp"
#include "tools/migrate/control_api.hpp"

namespace migrate::tool {
namespace {

using migrate::testing::FakeSource;
using migrate::testing::FakeTarget;
using migrate::testing::World;
using std::chrono::milliseconds;
using tool::testing::ScratchFolder;

constexpr std::chrono::seconds kPatience{20};

std::vector<Region> small_memory() { return {{{0, 0, 0}, {{0}, 64}, Backing::kAnonymous}}; }

/// Forwards to a FakeSource, and can hold a migration up in its tracks.
class FakeHosted final : public HostedGuest {
 public:
  explicit FakeHosted(World& world) : world_(world) {}

  GuestFacts facts() const override { return {"web", 1, 64 * kPageSize, "fake"}; }
  GuestState state() const override {
    if (world_.released > 0) return GuestState::kLeft;
    MutexLock lock(mutex_);
    return state_;
  }
  std::optional<Error> failure() const override {
    return make_error(ErrorCode::kGuest, "triple fault");
  }
  int ended_fd() const override { return ended_.fd(); }
  Status pause() override { return set(GuestState::kPaused); }
  Status resume() override { return set(GuestState::kRunning); }
  void stop() override {
    static_cast<void>(set(GuestState::kStopped));
    ended_.set();
  }
  void crash() {
    static_cast<void>(set(GuestState::kCrashed));
    ended_.set();
  }
  Result<Json> stats() const override { return Json{{"pages_written", 7}}; }
  Result<ConsoleView> console() const override { return ConsoleView{"hello\n", ""}; }
  Result<std::unique_ptr<SourceGuest>> make_source() override {
    FakeSource::Script script;
    script.writes = [this](FakeSource&, const char* where) {
      if (std::string_view(where) != hold_at_ || --hold_in_ > 0) return;
      hold_at_ = "";
      held_.set_value();
      let_go_.get_future().wait();
    };
    return std::unique_ptr<SourceGuest>(
        std::make_unique<FakeSource>(world_, small_memory(), std::move(script)));
  }

  /// The next migration stops at `where` until let_go().
  /// The nth time from now.
  void hold_at(const char* where, int nth = 1) {
    hold_in_ = nth;
    hold_at_ = where;
  }
  void wait_until_held() { held_.get_future().wait(); }
  void let_go() { let_go_.set_value(); }

 private:
  Status set(GuestState state) {
    MutexLock lock(mutex_);
    state_ = state;
    return {};
  }
  World& world_;
  EventFd ended_ = *EventFd::create();
  mutable Mutex mutex_;
  GuestState state_ MIGRATE_GUARDED_BY(mutex_) = GuestState::kRunning;
  std::string_view hold_at_;
  int hold_in_ = 1;
  std::promise<void> held_;
  std::promise<void> let_go_;
};

/// A target in this process that takes one guest.
class Target final : private Incoming::Host {
 public:
  Target(World& world, const ScratchFolder& scratch)
      : acceptor_(*make_tcp_acceptor("127.0.0.1", "0")) {
    IncomingOptions options;
    options.runtime_dir = scratch.path().string();
    options.ask_window = milliseconds(200);
    incoming_ =
        std::make_unique<Incoming>(std::make_unique<FakeTarget>(world, FakeTarget::Script{}),
                                   options, static_cast<Incoming::Host&>(*this));
    result_ = std::async(std::launch::async, [this] { return incoming_->run(*acceptor_).outcome; });
  }
  ~Target() override { incoming_->cancel(); }
  [[nodiscard]] MigrationRequest request() const {
    return {*parse_endpoint(acceptor_->address(), EndpointUse::kSend), {}, nullptr};
  }
  Outcome wait() { return result_.get(); }

 private:
  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override {}
  void on_memory(Memory, const std::string&) override {}

  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<Incoming> incoming_;
  std::future<Outcome> result_;
};

class GuestHostTest : public ::testing::Test {
 protected:
  void SetUp() override {
    signals_.emplace(*SignalFd::open({SIGUSR1}));
    auto host = GuestHost::create(guest_, hub_);
    ASSERT_TRUE(host);
    host_ = *std::move(host);
  }
  HttpResponse call(const char* method, const char* path, const std::string& body = "") {
    return ControlApi(*host_).handle({method, path, body, -1});
  }
  /// The report of the migration under way.
  Json wait_for_report() {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    Mutex mutex;
    CondVar woken;
    const auto follower = hub_.follow([&] { woken.notify_all(); });
    for (;;) {
      while (const auto message = follower->next()) {
        if (message->kind == HubMessage::Kind::kReport) return Json::parse(message->text)["report"];
      }
      MutexLock lock(mutex);
      // A wake between next() and here is made good by the short wait.
      woken.wait_until(mutex, std::chrono::steady_clock::now() + milliseconds(10));
      if (std::chrono::steady_clock::now() > deadline) {
        ADD_FAILURE() << "no report";
        return Json::object();
      }
    }
  }

  ScratchFolder scratch_;
  World world_;
  EventHub hub_;
  FakeHosted guest_{world_};
  std::optional<SignalFd> signals_;
  std::unique_ptr<GuestHost> host_;
};

TEST_F(GuestHostTest, PausesAndResumes) {
  EXPECT_EQ(host_->status(), "running");
  EXPECT_EQ(Json::parse(call("POST", "/v1/guest/pause").body)["state"], "paused");
  EXPECT_EQ(Json::parse(call("POST", "/v1/guest/resume").body)["state"], "running");
  EXPECT_EQ(Json::parse(call("GET", "/v1/stats").body)["pages_written"], 7);
  EXPECT_EQ(Json::parse(call("GET", "/v1/console").body)["text"], "hello\n");
}

TEST_F(GuestHostTest, ServesUntilTheGuestHasStopped) {
  ASSERT_EQ(call("POST", "/v1/guest/stop").status, 200);
  EXPECT_EQ(host_->serve(*signals_).kind, HostEnd::Kind::kStopped);
}

TEST_F(GuestHostTest, ACrashEndsItWithTheReason) {
  guest_.crash();
  const HostEnd end = host_->serve(*signals_);
  EXPECT_EQ(end.kind, HostEnd::Kind::kCrashed);
  ASSERT_TRUE(end.error);
  EXPECT_EQ(end.error->message, "triple fault");
}

TEST_F(GuestHostTest, AGuestThatMigratedHasLeft) {
  Target target(world_, scratch_);
  ASSERT_TRUE(host_->start_migration(target.request()));
  EXPECT_EQ(wait_for_report()["outcome"], "done");
  EXPECT_EQ(target.wait(), Outcome::kDone);
  const HostEnd end = host_->serve(*signals_);
  EXPECT_EQ(end.kind, HostEnd::Kind::kLeft);
  EXPECT_EQ(end.target, target.request().target.text());
  EXPECT_EQ(world_.running_max, 1);
}

TEST_F(GuestHostTest, AFailedMigrationLeavesTheGuestAsItWasAndCanBeTriedAgain) {
  // A port that was free a moment ago.
  const MigrationRequest nowhere = [this] {
    const Target gone(world_, scratch_);
    return gone.request();
  }();
  ASSERT_TRUE(host_->start_migration(nowhere));
  const Json report = wait_for_report();
  EXPECT_EQ(report["outcome"], "failed");
  EXPECT_EQ(report["error"]["code"], "connect-failed");
  EXPECT_EQ(host_->status(), "running");
  EXPECT_EQ(Json::parse(call("GET", "/v1/migration").body)["report"], report);

  Target target(world_, scratch_);
  const auto number = host_->start_migration(target.request());
  ASSERT_TRUE(number);
  EXPECT_EQ(*number, 2u);
  EXPECT_EQ(wait_for_report()["outcome"], "done");
}

TEST_F(GuestHostTest, AnnouncementsEndWhenTheGuestLeavesAndNotBefore) {
  std::atomic<int> ends = 0;
  const auto ended = [&ends] { return ++ends == 0; };  // With nothing left to come.
  host_->set_network({{}, {}, ended});
  const MigrationRequest nowhere = [this] {
    const Target gone(world_, scratch_);
    return gone.request();
  }();
  ASSERT_TRUE(host_->start_migration(nowhere));
  EXPECT_EQ(wait_for_report()["outcome"], "failed");
  EXPECT_EQ(ends, 0) << "it was not about to leave";
  Target target(world_, scratch_);
  guest_.hold_at("save", 2);  // After the rehearsal.
  ASSERT_TRUE(host_->start_migration(target.request()));
  guest_.wait_until_held();
  EXPECT_EQ(ends, 1) << "it is paused to leave";
  guest_.let_go();
  EXPECT_EQ(wait_for_report()["outcome"], "done");
  EXPECT_EQ(target.wait(), Outcome::kDone);
}

TEST_F(GuestHostTest, AGuestWhoseAnnouncementsWereCutShortAndThatStaysIsAnnouncedAnew) {
  const migrate::testing::NetSpace space;
  if (!space.why_not().empty()) GTEST_SKIP() << space.why_not();
  space.must("ip link add name br0 type bridge forward_delay 0 && ip link set dev br0 up");
  migrate::testing::connect(space, "tap0", space, "card0");
  space.must("ip link set dev tap0 master br0");
  const std::string mac = "52:54:00:12:34:56";
  host_->set_network({{{"tap0", "", *parse_mac(mac), {}, {}}}, {}, [] { return true; }});
  std::optional<Target> target;
  guest_.hold_at("save", 2);  // After the rehearsal.
  // Its thread, and the announcer's, are where the bridge is.
  space.run([&] {
    target.emplace(world_, scratch_);
    ASSERT_TRUE(host_->start_migration(target->request()));
  });
  guest_.wait_until_held();
  EXPECT_EQ(call("DELETE", "/v1/migration").status, 202);
  guest_.let_go();
  EXPECT_EQ(wait_for_report()["outcome"], "cancelled");
  const auto known = [&] {
    return space.sh("bridge fdb show br br0").find(mac + " dev tap0") != std::string::npos;
  };
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!known() && std::chrono::steady_clock::now() < deadline) std::this_thread::yield();
  EXPECT_TRUE(known());
}

TEST_F(GuestHostTest, WhileItMigratesTheGuestIsNotTouched) {
  Target target(world_, scratch_);
  guest_.hold_at("collect");
  ASSERT_TRUE(host_->start_migration(target.request()));
  guest_.wait_until_held();
  EXPECT_EQ(host_->status(), "migrating");
  for (const char* path : {"/v1/guest/pause", "/v1/guest/resume"}) {
    const HttpResponse response = call("POST", path);
    EXPECT_EQ(response.status, 409) << path;
    EXPECT_EQ(Json::parse(response.body)["error"]["code"], "busy");
  }
  EXPECT_EQ(call("PUT", "/v1/migration", R"({"target":"127.0.0.1:1"})").status, 409);
  guest_.let_go();
  EXPECT_EQ(wait_for_report()["outcome"], "done");
}

TEST_F(GuestHostTest, CancellingLetsTheGuestGoOnHere) {
  Target target(world_, scratch_);
  guest_.hold_at("collect");
  ASSERT_TRUE(host_->start_migration(target.request()));
  guest_.wait_until_held();
  EXPECT_EQ(call("DELETE", "/v1/migration").status, 202);
  guest_.let_go();
  EXPECT_EQ(wait_for_report()["outcome"], "cancelled");
  EXPECT_EQ(host_->status(), "running");
  EXPECT_EQ(call("DELETE", "/v1/migration").status, 404);
}

TEST_F(GuestHostTest, StoppingCancelsTheMigrationFirst) {
  Target target(world_, scratch_);
  guest_.hold_at("collect");
  ASSERT_TRUE(host_->start_migration(target.request()));
  guest_.wait_until_held();
  EXPECT_EQ(call("POST", "/v1/guest/stop").status, 200);
  guest_.let_go();
  EXPECT_EQ(host_->serve(*signals_).kind, HostEnd::Kind::kStopped);
  EXPECT_EQ(Json::parse(call("GET", "/v1/migration").body)["report"]["outcome"], "cancelled");
}

TEST_F(GuestHostTest, AGuestThatEndsByItselfEndsItsMigration) {
  Target target(world_, scratch_);
  guest_.hold_at("collect");
  MigrationRequest request = target.request();
  // A limit that no migration keeps: it cannot be over before the crash is noticed.
  request.options.max_downtime = std::chrono::microseconds(1);
  request.options.max_rounds = 10'000;
  ASSERT_TRUE(host_->start_migration(request));
  guest_.wait_until_held();
  guest_.crash();
  auto end = std::async(std::launch::async, [this] { return host_->serve(*signals_); });
  guest_.let_go();
  EXPECT_EQ(end.get().kind, HostEnd::Kind::kCrashed);
}

/// A recording that would take ten minutes, in its tracks until let_go().
class Recording {
 public:
  Recording(GuestHost& host, FakeHosted& guest, int client = -1) {
    guest.hold_at("collect");
    const TraceOptions options{std::chrono::minutes(10), std::chrono::seconds(10), -1};
    trace_ = std::async(std::launch::async,
                        [&host, options, client] { return host.record(options, client); });
    guest.wait_until_held();
  }
  Result<DirtyTrace> wait() { return trace_.get(); }

 private:
  std::future<Result<DirtyTrace>> trace_;
};

TEST_F(GuestHostTest, ATraceIsGivenWhole) {
  const HttpResponse response =
      call("POST", "/v1/trace", R"({"duration":"300ms","interval":"20ms"})");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.content_type, "application/octet-stream");
  const auto trace = decode_trace(std::as_bytes(std::span(response.body)));
  ASSERT_TRUE(trace) << trace.error().to_text();
  EXPECT_EQ(trace->pages(), 64u);
  EXPECT_EQ(host_->status(), "running");
}

TEST_F(GuestHostTest, ARecordingYieldsToWhateverElseIsAsked) {
  Recording recording(*host_, guest_);
  EXPECT_EQ(host_->status(), "running");
  EXPECT_EQ(call("POST", "/v1/trace").status, 409) << "one at a time";
  auto paused = std::async(std::launch::async, [this] { return host_->pause(); });
  guest_.let_go();
  EXPECT_TRUE(paused.get());
  EXPECT_EQ(host_->status(), "paused");
  const auto trace = recording.wait();
  ASSERT_FALSE(trace);
  EXPECT_EQ(trace.error().code, ErrorCode::kBusy);
}

TEST_F(GuestHostTest, ARecordingYieldsToAMigration) {
  Target target(world_, scratch_);
  Recording recording(*host_, guest_);
  auto started =
      std::async(std::launch::async, [&] { return host_->start_migration(target.request()); });
  guest_.let_go();
  EXPECT_TRUE(started.get());
  EXPECT_FALSE(recording.wait());
  EXPECT_EQ(wait_for_report()["outcome"], "done");
}

TEST_F(GuestHostTest, ARecordingEndsWithTheClientThatWantedIt) {
  std::array<int, 2> ends{};
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()), 0);
  const Fd client(ends[0]);
  Recording recording(*host_, guest_, ends[1]);
  Fd server(ends[1]);
  ::shutdown(client.get(), SHUT_RDWR);
  guest_.let_go();
  const auto trace = recording.wait();
  ASSERT_FALSE(trace);
  EXPECT_EQ(trace.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(host_->status(), "running");
}

TEST_F(GuestHostTest, AGuestThatEndsWhileItIsRecordedHasEnded) {
  Recording recording(*host_, guest_);
  guest_.crash();
  auto end = std::async(std::launch::async, [this] { return host_->serve(*signals_); });
  guest_.let_go();
  EXPECT_EQ(end.get().kind, HostEnd::Kind::kCrashed);
  EXPECT_FALSE(recording.wait());
  EXPECT_EQ(call("POST", "/v1/trace").status, 409);
}

TEST_F(GuestHostTest, RecordingsAreCheckedFirst) {
  for (const char* body : {"[]", R"({"duration":3})", R"({"duration":"soon"})", R"({"more":"1s"})",
                           R"({"duration":"2h"})", R"({"interval":"1us"})"}) {
    EXPECT_EQ(call("POST", "/v1/trace", body).status, 400) << body;
  }
}

TEST_F(GuestHostTest, RequestsAreCheckedBeforeAnythingHappens) {
  const std::vector<std::string> bad = {
      "",
      "{",
      "[]",
      "7",
      R"({"target":7})",
      R"({"target":"nowhere"})",
      R"({"target":"127.0.0.1:1","options":[]})",
      R"({"target":"127.0.0.1:1","options":{"max-downtime":50}})",
      R"({"target":"127.0.0.1:1","options":{"max-downtime":"soon"}})",
      R"({"target":"127.0.0.1:1","options":{"no-such":"1"}})",
      R"({"target":"127.0.0.1:1","more":1})",
      R"({"target":"127.0.0.1:1","insecure":"yes"})",
      R"({"target":"10.0.0.1:1"})",
      std::string(50'000, '['),
  };
  for (const std::string& body : bad) {
    const HttpResponse response = call("PUT", "/v1/migration", body);
    EXPECT_EQ(response.status, 400) << body;
    const Json error = Json::parse(response.body)["error"];
    EXPECT_EQ(error["code"], "invalid-argument");
    EXPECT_FALSE(error["message"].get<std::string>().empty());
  }
  EXPECT_EQ(host_->status(), "running");
}

TEST_F(GuestHostTest, UnknownPathsAndMethodsAreToldWhatThereIs) {
  EXPECT_EQ(call("GET", "/v2/guest").status, 404);
  const HttpResponse response = call("PATCH", "/v1/migration");
  EXPECT_EQ(response.status, 405);
  EXPECT_EQ(response.allow, "GET, PUT, DELETE");
  EXPECT_EQ(call("GET", "/v1/migration").status, 404) << "there was none yet";
}

TEST_F(GuestHostTest, OnlyAnUncertainGuestCanBeResolved) {
  EXPECT_EQ(call("POST", "/v1/guest/resolve", R"({"action":"resume"})").status, 400);
  EXPECT_EQ(call("POST", "/v1/guest/resolve", R"({"action":"explode"})").status, 400);
  EXPECT_EQ(call("POST", "/v1/guest/resolve").status, 400);
}

TEST_F(GuestHostTest, MetricsAreInPrometheusFormat) {
  const HttpResponse response = call("GET", "/metrics");
  EXPECT_EQ(response.status, 200);
  EXPECT_NE(response.body.find("# TYPE migrate_guest_state gauge\n"), std::string::npos);
  EXPECT_NE(response.body.find("migrate_guest_state{guest=\"web\",state=\"running\"} 1\n"),
            std::string::npos);
  EXPECT_NE(response.body.find("migrate_guest_pages_written_total{guest=\"web\"} 7\n"),
            std::string::npos);
}

TEST(ArrivingGuest, CannotBeTouchedBeforeItHasArrived) {
  World world;
  EventHub hub;
  FakeHosted guest(world);
  const auto host = GuestHost::create(guest, hub, true);
  ASSERT_TRUE(host);
  EXPECT_EQ((*host)->status(), "migrating");
  EXPECT_EQ((*host)->pause().error().code, ErrorCode::kBusy);
  EXPECT_EQ((*host)->stop().error().code, ErrorCode::kBusy);
  (*host)->arrived();
  EXPECT_EQ((*host)->status(), "running");
  EXPECT_TRUE((*host)->pause());
}

}  // namespace
}  // namespace migrate::tool
