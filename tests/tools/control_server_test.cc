// What clients that misbehave, and those that do not, get from the control socket.
#include "tools/migrate/control_server.hpp"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <future>

#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "tests/tools/scratch_folder.hpp"
#include "tools/migrate/control_client.hpp"

namespace migrate::tool {
namespace {

using std::chrono::milliseconds;
using testing::ScratchFolder;

constexpr milliseconds kPatience{20'000};

/// Echoes; /wait holds its answer back until let go.
class EchoHandler final : public RequestHandler {
 public:
  HttpResponse handle(const HttpRequest& request) override {
    if (request.path == "/wait") released_.get_future().wait();
    HttpResponse response;
    response.body =
        Json{{"method", request.method}, {"path", request.path}, {"body", request.body}}.dump();
    return response;
  }
  void release() { released_.set_value(); }

 private:
  std::promise<void> released_;
};

/// A client that may do what it likes.
class RawClient {
 public:
  explicit RawClient(const std::filesystem::path& path)
      : socket_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    EXPECT_EQ(connect(socket_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address),
              0);
  }
  void send(std::string_view text) {
    while (!text.empty()) {
      const auto sent = ::send(socket_.get(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<std::size_t>(sent));
    }
  }
  /// All until the server closes; "" and a failed expectation when it does not.
  std::string read_to_end() {
    std::string text;
    char part[4096];
    for (;;) {
      pollfd wait{socket_.get(), POLLIN, 0};
      if (poll(&wait, 1, static_cast<int>(kPatience.count())) <= 0) {
        ADD_FAILURE() << "the server did not close the connection";
        return text;
      }
      const auto got = recv(socket_.get(), part, sizeof part, 0);
      if (got <= 0) return text;
      text.append(part, static_cast<std::size_t>(got));
    }
  }

 private:
  Fd socket_;
};

class ControlServerTest : public ::testing::Test {
 protected:
  void open(ControlLimits limits = {}) {
    server_ = std::make_unique<ControlServer>(path(), handler_, hub_, limits);
    ASSERT_TRUE(server_->open());
  }
  [[nodiscard]] std::filesystem::path path() const { return scratch_.path() / "web.sock"; }
  /// The server serves others, whatever one client did.
  void expect_serving() {
    const auto answer = control_request(path(), "GET", "/fine");
    ASSERT_TRUE(answer) << answer.error().to_text();
    EXPECT_EQ((*answer)["path"], "/fine");
  }

  ScratchFolder scratch_;
  EchoHandler handler_;
  EventHub hub_;
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, AnswersItsOwnerAlone) {
  open();
  struct stat found {};
  ASSERT_EQ(stat(path().c_str(), &found), 0);
  EXPECT_TRUE(S_ISSOCK(found.st_mode));
  EXPECT_EQ(found.st_mode & 0777, 0600u);
  const auto answer = control_request(path(), "PUT", "/v1/x", {{"a", 1}});
  ASSERT_TRUE(answer);
  EXPECT_EQ((*answer)["method"], "PUT");
  EXPECT_EQ((*answer)["body"], "{\"a\":1}");
}

TEST_F(ControlServerTest, ASocketLeftBehindIsReplaced) {
  {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stale(fopen(path().c_str(), "w"), fclose);
  }
  open();
  expect_serving();
  server_->close();
  EXPECT_TRUE(std::filesystem::is_empty(scratch_.path()));
  EXPECT_EQ(control_request(path(), "GET", "/").error().code, ErrorCode::kNotFound);
}

TEST_F(ControlServerTest, GarbageIsABadRequest) {
  open();
  for (const char* text :
       {"\r\n\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03",
        "GET / HTTP/9.9\r\n\r\n", "GET / HTTP/1.1\r\nno colon\r\n\r\n",
        "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"}) {
    RawClient client(path());
    client.send(text);
    const std::string answer = client.read_to_end();
    EXPECT_EQ(answer.rfind("HTTP/1.1 400", 0), 0u) << text << "\n" << answer;
    EXPECT_NE(answer.find("\"error\""), std::string::npos);
  }
  expect_serving();
}

TEST_F(ControlServerTest, OversizedRequestsAreRefusedWithoutBeingRead) {
  open();
  {
    RawClient client(path());
    client.send("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n");
    EXPECT_EQ(client.read_to_end().rfind("HTTP/1.1 413", 0), 0u);
  }
  {
    RawClient client(path());
    client.send("GET / HTTP/1.1\r\nX-Long: " + std::string(100'000, 'x'));
    EXPECT_EQ(client.read_to_end().rfind("HTTP/1.1 431", 0), 0u);
  }
  expect_serving();
}

TEST_F(ControlServerTest, ARequestThatNeverEndsIsDropped) {
  ControlLimits limits;
  limits.request_timeout = milliseconds(50);
  open(limits);
  RawClient client(path());
  client.send("GET /slow HTTP/1.1\r\nX-");
  EXPECT_EQ(client.read_to_end(), "");
  expect_serving();
}

TEST_F(ControlServerTest, ASilentConnectionIsDropped) {
  ControlLimits limits;
  limits.idle_timeout = milliseconds(50);
  open(limits);
  RawClient client(path());
  EXPECT_EQ(client.read_to_end(), "");
}

TEST_F(ControlServerTest, ConnectionsBeyondTheLimitAreToldAndOthersServed) {
  ControlLimits limits;
  limits.connections_max = 2;
  limits.idle_timeout = milliseconds(60'000);
  open(limits);
  auto first = std::make_unique<RawClient>(path());
  RawClient second(path());
  RawClient third(path());
  const std::string answer = third.read_to_end();
  EXPECT_EQ(answer.rfind("HTTP/1.1 503", 0), 0u) << answer;
  EXPECT_NE(answer.find("\"busy\""), std::string::npos);
  first.reset();
  // The seat is free once the server has seen the other end close.
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  auto served = control_request(path(), "GET", "/fine");
  while (!served && std::chrono::steady_clock::now() < deadline) {
    served = control_request(path(), "GET", "/fine");
  }
  EXPECT_TRUE(served);
}

TEST_F(ControlServerTest, OneConnectionCarriesManyRequests) {
  open();
  RawClient client(path());
  client.send(
      "GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\nGET /3 HTTP/1.1\r\nConnection: close\r\n\r\n");
  const std::string answer = client.read_to_end();
  EXPECT_LT(answer.find("\"/1\""), answer.find("\"/2\""));
  EXPECT_LT(answer.find("\"/2\""), answer.find("\"/3\""));
  EXPECT_NE(answer.find("\"/3\""), std::string::npos);
}

TEST_F(ControlServerTest, ARequestThatTakesTimeHoldsUpNobodyElse) {
  open();
  auto slow =
      std::async(std::launch::async, [this] { return control_request(path(), "GET", "/wait"); });
  expect_serving();
  handler_.release();
  EXPECT_TRUE(slow.get());
}

TEST_F(ControlServerTest, AnswersUnderWayAreFinishedBeforeItCloses) {
  open();
  auto slow =
      std::async(std::launch::async, [this] { return control_request(path(), "GET", "/wait"); });
  while (server_->drain(milliseconds(0))) {
  }
  handler_.release();
  EXPECT_TRUE(server_->drain(kPatience));
  server_->close();
  EXPECT_TRUE(slow.get());
}

TEST_F(ControlServerTest, FollowersHearEverythingAndThenTheEnd) {
  open();
  hub_.begin(1);
  hub_.publish(Event{"precopy", Phase::kRounds, 0, "before"});
  const auto stream = EventStream::open(path());
  ASSERT_TRUE(stream) << stream.error().to_text();
  hub_.publish_report({{"outcome", "done"}});
  EXPECT_TRUE(server_->drain(kPatience));
  server_->close();
  const auto event = (*stream)->next(-1, kPatience);
  ASSERT_EQ(event.got, EventStream::Got::kMessage);
  EXPECT_EQ(event.message["detail"], "before");
  const auto report = (*stream)->next(-1, kPatience);
  ASSERT_EQ(report.got, EventStream::Got::kMessage);
  EXPECT_EQ(report.message["report"]["outcome"], "done");
  EXPECT_EQ((*stream)->next(-1, kPatience).got, EventStream::Got::kClosed);
}

TEST_F(ControlServerTest, AFollowerThatNeverReadsIsDroppedAndHoldsUpNobody) {
  ControlLimits limits;
  limits.write_timeout = milliseconds(1'000);
  open(limits);
  hub_.begin(1);
  RawClient stuck(path());
  stuck.send(
      "GET /v1/events HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n");
  const auto stream = EventStream::open(path());
  ASSERT_TRUE(stream);
  // More than a socket's buffers hold, many times over.
  for (int i = 0; i < 400; ++i) {
    hub_.publish(Event{"round-end", Phase::kRounds, 1, std::string(10'000, 'x')});
  }
  hub_.publish_report({{"outcome", "done"}});
  for (;;) {
    const auto next = (*stream)->next(-1, kPatience);
    ASSERT_EQ(next.got, EventStream::Got::kMessage);
    if (next.message.contains("report")) break;
  }
  EXPECT_TRUE(server_->drain(kPatience)) << "the stuck follower should have been dropped";
}

TEST_F(ControlServerTest, EventsWithoutAnUpgradeAreToldToUpgrade) {
  open();
  RawClient client(path());
  client.send("GET /v1/events HTTP/1.1\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.read_to_end().rfind("HTTP/1.1 426", 0), 0u);
}

TEST_F(ControlServerTest, FollowersBeyondTheLimitAreToldSo) {
  ControlLimits limits;
  limits.connections_max = 2;
  open(limits);
  const auto first = EventStream::open(path());
  ASSERT_TRUE(first);
  const auto second = EventStream::open(path());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
}

TEST_F(ControlServerTest, WhatIsWatchedWakesAFollower) {
  open();
  const auto stream = EventStream::open(path());
  ASSERT_TRUE(stream);
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const Fd reader(ends[0]);
  const Fd writer(ends[1]);
  EXPECT_EQ((*stream)->next(reader.get(), milliseconds(1)).got, EventStream::Got::kTimeout);
  ASSERT_EQ(write(writer.get(), "x", 1), 1);
  EXPECT_EQ((*stream)->next(reader.get(), kPatience).got, EventStream::Got::kWatched);
}

TEST(ControlClient, NobodyThereIsNotFound) {
  const ScratchFolder scratch;
  const auto answer = control_request(scratch.path() / "gone.sock", "GET", "/");
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kNotFound);
  EXPECT_NE(answer.error().message.find("'gone'"), std::string::npos);
}

}  // namespace
}  // namespace migrate::tool
