// Who comes to a listener, and where they are brought.
#include "tools/migrate/session_listener.hpp"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <set>
#include <thread>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "session/host_identity.hpp"
#include "session/journal.hpp"
#include "tests/tools/scratch_folder.hpp"
#include "tools/migrate/connection_passing.hpp"
#include "transport/record_channel.hpp"

namespace migrate::tool {
namespace {

using std::chrono::milliseconds;
using testing::ScratchFolder;

constexpr std::chrono::seconds kPatience{20};

wire::SessionId session_number(std::uint8_t number) {
  wire::SessionId session;
  session.bytes.fill(static_cast<std::byte>(number));
  return session;
}

class RecordingStarter final : public SessionStarter {
 public:
  Status start(const wire::SessionId& session, Fd connection, const std::string&) override {
    MutexLock lock(mutex_);
    if (full_) return make_error(ErrorCode::kBusy, "full");
    sessions_.push_back(session);
    connections_.push_back(std::move(connection));
    changed_.notify_all();
    return {};
  }
  std::vector<wire::SessionId> wait_for(std::size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    MutexLock lock(mutex_);
    while (sessions_.size() < count && changed_.wait_until(mutex_, deadline)) {
    }
    return sessions_;
  }
  void set_full() {
    MutexLock lock(mutex_);
    full_ = true;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  bool full_ MIGRATE_GUARDED_BY(mutex_) = false;
  std::vector<wire::SessionId> sessions_ MIGRATE_GUARDED_BY(mutex_);
  std::vector<Fd> connections_ MIGRATE_GUARDED_BY(mutex_);
};

class SessionListenerTest : public ::testing::Test {
 protected:
  void listen(milliseconds hello_timeout = milliseconds(20'000),
              const Endpoint& where = {"127.0.0.1", "0"}) {
    auto folder = RuntimeDir::open(scratch_.path());
    ASSERT_TRUE(folder);
    folder_.emplace(*std::move(folder));
    auto listener = SessionListener::open(where, *folder_, hello_timeout);
    ASSERT_TRUE(listener) << listener.error().to_text();
    listener_ = *std::move(listener);
    thread_ = std::thread([this] { listener_->run(starter_, wake_.fd()); });
  }
  void TearDown() override {
    wake_.set();
    if (thread_.joinable()) thread_.join();
  }

  RecordChannel connect() {
    const auto endpoint = parse_endpoint(listener_->address(), EndpointUse::kSend);
    auto channel = make_connector(*endpoint)->connect(kPatience);
    EXPECT_TRUE(channel);
    return RecordChannel(*std::move(channel));
  }
  /// The error the listener tells `records`.
  static ErrorCode told(RecordChannel& records) {
    const auto record = records.receive(kPatience);
    return record ? ErrorCode::kInternal : record.error().code;
  }
  static void send_bytes(RecordChannel& records, std::string text) {
    const iovec part{text.data(), text.size()};
    EXPECT_TRUE(records.channel().send(std::span(&part, 1), kPatience));
  }

  static wire::Hello hello_of(const wire::SessionId& session) {
    wire::Hello hello;
    hello.session = session;
    hello.random.bytes.fill(std::byte{1});
    hello.guest.name = "web";
    hello.guest.vcpus = 1;
    return hello;
  }
  static wire::Join join_of(const wire::SessionId& session) {
    wire::Join join;
    join.session = session;
    join.lane.number = 1;
    return join;
  }
  static wire::Ask ask_of(const wire::SessionId& session) {
    wire::Ask ask;
    ask.session = session;
    return ask;
  }

  ScratchFolder scratch_;
  std::optional<RuntimeDir> folder_;
  RecordingStarter starter_;
  EventFd wake_ = *EventFd::create();
  std::unique_ptr<SessionListener> listener_;
  std::thread thread_;
};

TEST_F(SessionListenerTest, OverAUnixSocketAHelloInPiecesIsWaitedFor) {
  const std::string path = (scratch_.path() / "in.sock").string();
  listen(milliseconds(20'000), {"", path, Endpoint::Kind::kUnix});
  std::vector<std::byte> bytes;
  ASSERT_TRUE(wire::encode_record(hello_of(session_number(1)), 0, wire::Hasher(), bytes));
  auto one = connect();
  for (const std::byte& byte : bytes) {
    const iovec part{const_cast<std::byte*>(&byte), 1};
    ASSERT_TRUE(one.channel().send(std::span(&part, 1), kPatience));
  }
  auto two = connect();
  ASSERT_TRUE(two.send(join_of(session_number(9)), kPatience));
  EXPECT_EQ(told(two), ErrorCode::kNotFound);
  EXPECT_EQ(starter_.wait_for(1), std::vector{session_number(1)});
}

TEST_F(SessionListenerTest, OverAUnixSocketWhoSaysNothingWholeIsDropped) {
  const std::string path = (scratch_.path() / "in.sock").string();
  listen(milliseconds(50), {"", path, Endpoint::Kind::kUnix});
  auto records = connect();
  send_bytes(records, "M");
  EXPECT_EQ(told(records), ErrorCode::kTimeout);
}

TEST_F(SessionListenerTest, HelloStartsItsSession) {
  listen();
  auto one = connect();
  ASSERT_TRUE(one.send(hello_of(session_number(1)), kPatience));
  auto two = connect();
  ASSERT_TRUE(two.send(hello_of(session_number(2)), kPatience));
  const auto sessions = starter_.wait_for(2);
  EXPECT_EQ(std::set<wire::SessionId>(sessions.begin(), sessions.end()),
            (std::set{session_number(1), session_number(2)}));
}

TEST_F(SessionListenerTest, ASilentConnectionHoldsUpNobodyAndIsDropped) {
  listen(milliseconds(300));
  auto silent = connect();
  auto trickling = connect();
  send_bytes(trickling, std::string("\x01\x00", 2));
  auto good = connect();
  ASSERT_TRUE(good.send(hello_of(session_number(1)), kPatience));
  EXPECT_EQ(starter_.wait_for(1).size(), 1u);
  EXPECT_EQ(told(silent), ErrorCode::kTimeout);
  EXPECT_EQ(told(trickling), ErrorCode::kTimeout);
}

TEST_F(SessionListenerTest, GarbageIsToldSoAndHoldsUpNobody) {
  listen();
  auto garbage = connect();
  send_bytes(garbage, "GET / HTTP/1.1\r\nHost: target\r\n\r\n" + std::string(100'000, 'x'));
  EXPECT_EQ(told(garbage), ErrorCode::kProtocol);
  auto wrong_type = connect();
  ASSERT_TRUE(wrong_type.send(wire::ErrorRecord{}, kPatience));
  EXPECT_EQ(told(wrong_type), ErrorCode::kProtocol);
  auto good = connect();
  ASSERT_TRUE(good.send(hello_of(session_number(1)), kPatience));
  EXPECT_EQ(starter_.wait_for(1).size(), 1u);
}

TEST_F(SessionListenerTest, LanesAndQuestionsGoToTheLivingSession) {
  listen();
  const wire::SessionId session = session_number(7);
  const auto acceptor = PassedAcceptor::open(lanes_path(*folder_, session), "x");
  ASSERT_TRUE(acceptor);
  auto lane = connect();
  ASSERT_TRUE(lane.send(join_of(session), kPatience));
  auto passed = (*acceptor)->accept(kPatience);
  ASSERT_TRUE(passed);
  const auto join = RecordChannel(*std::move(passed)).expect<wire::Join>(kPatience);
  ASSERT_TRUE(join) << "nothing of the connection may be lost on the way";
  EXPECT_EQ(join->session, session);

  auto asking = connect();
  ASSERT_TRUE(asking.send(ask_of(session), kPatience));
  passed = (*acceptor)->accept(kPatience);
  ASSERT_TRUE(passed);
  EXPECT_TRUE(RecordChannel(*std::move(passed)).expect<wire::Ask>(kPatience));
}

TEST_F(SessionListenerTest, AllLanesOfALargeSessionArriveThoughItIsSlow) {
  listen();
  const wire::SessionId session = session_number(7);
  const auto acceptor = PassedAcceptor::open(lanes_path(*folder_, session), "x");
  ASSERT_TRUE(acceptor);
  std::vector<RecordChannel> lanes;
  lanes.reserve(64);
  for (int i = 0; i < 64; ++i) {
    lanes.push_back(connect());
    ASSERT_TRUE(lanes.back().send(join_of(session), kPatience));
  }
  for (int i = 0; i < 64; ++i) ASSERT_TRUE((*acceptor)->accept(kPatience)) << i;
}

TEST_F(SessionListenerTest, ALaneOfNoSessionIsToldSo) {
  listen();
  auto lane = connect();
  ASSERT_TRUE(lane.send(join_of(session_number(9)), kPatience));
  EXPECT_EQ(told(lane), ErrorCode::kNotFound);
}

TEST_F(SessionListenerTest, TheJournalAnswersForADeadProcess) {
  listen();
  const wire::SessionId session = session_number(3);
  {
    auto journal =
        session::Journal::create(folder_->path().string(), session, session::this_boot());
    ASSERT_TRUE(journal);
    ASSERT_TRUE(journal->record(session::RecordState::kReady, 2, std::chrono::seconds(1)));
  }
  auto asking = connect();
  ASSERT_TRUE(asking.send(ask_of(session), kPatience));
  const auto answer = asking.expect<wire::Answer>(kPatience);
  ASSERT_TRUE(answer) << answer.error().to_text();
  EXPECT_EQ(answer->state, wire::JournalState::kDiscarded);
  EXPECT_EQ(answer->attempt, 2u);
  EXPECT_FALSE(answer->process_lives);
  EXPECT_EQ(answer->boot, session::this_boot());
}

TEST_F(SessionListenerTest, ASessionNobodyKnowsIsUnknownNotDiscarded) {
  listen();
  auto asking = connect();
  ASSERT_TRUE(asking.send(ask_of(session_number(4)), kPatience));
  const auto answer = asking.expect<wire::Answer>(kPatience);
  ASSERT_TRUE(answer) << answer.error().to_text();
  EXPECT_EQ(answer->state, wire::JournalState::kUnknown);
}

TEST_F(SessionListenerTest, ARefusalReachesThePeer) {
  listen();
  starter_.set_full();
  auto one = connect();
  ASSERT_TRUE(one.send(hello_of(session_number(1)), kPatience));
  EXPECT_EQ(told(one), ErrorCode::kBusy);
}

TEST_F(SessionListenerTest, APortInUseIsAnAddressInUse) {
  listen();
  const auto endpoint = parse_endpoint(listener_->address(), EndpointUse::kSend);
  const auto second = SessionListener::open(*endpoint, *folder_, kPatience);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_FALSE(second.error().remedy.empty());
}

TEST(FirstRecord, NoPrefixOfAnIntroductionIsMisread) {
  std::vector<std::byte> bytes;
  wire::Ask ask;
  ask.session = session_number(5);
  ASSERT_TRUE(wire::encode_record(ask, 0, wire::Hasher(), bytes));
  for (std::size_t length = 0; length <= bytes.size(); ++length) {
    const auto record = read_first_record(std::span(bytes).first(length));
    ASSERT_TRUE(record) << length;
    if (record->kind == FirstRecord::Kind::kIncomplete) {
      EXPECT_GT(record->bytes_needed, length);
      EXPECT_LE(record->bytes_needed, bytes.size());
    } else {
      EXPECT_EQ(record->kind, FirstRecord::Kind::kAsk);
      EXPECT_EQ(record->session, ask.session);
    }
  }
}

}  // namespace
}  // namespace migrate::tool
