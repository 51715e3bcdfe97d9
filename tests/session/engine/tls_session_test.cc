// Sessions over TLS: one peer has all of a session's connections; strangers change nothing.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>

#include "migrate/tls.hpp"
#include "session/introductions.hpp"
#include "tests/transport/tls_files.hpp"

// Members of Introductions::Context that these tests do not use.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace migrate::testing {
namespace {

using session::Introductions;
using test::TlsFiles;
using ::testing::HasSubstr;

constexpr std::chrono::seconds kPatience{30};

class TlsSession : public ::testing::Test {
 protected:
  void SetUp() override {
    auto context = make_tls_context(TlsRole::kAccept, files_.host("target"));
    ASSERT_TRUE(context) << context.error().to_text();
    auto plain = make_tcp_acceptor("127.0.0.1", "0");
    ASSERT_TRUE(plain);
    const std::string address = (*plain)->address();
    port_ = address.substr(address.rfind(':') + 1);
    acceptor_ = make_tls_acceptor(*std::move(plain), *context);
    introductions_ = std::make_unique<Introductions>(Introductions::Context{
        *acceptor_, kPatience, kPatience, [](const wire::SessionId&) { return wire::Answer{}; },
        [this] { asked_ = true; }, [] {}});
    session_.bytes.fill(std::byte{0x51});
    secret_.bytes.fill(std::byte{0x77});
  }

  /// A connection of the host that has this certificate, which announces `session`.
  std::unique_ptr<RecordChannel> connect(const TlsOptions& options,
                                         const std::string& session = "") {
    auto context = make_tls_context(TlsRole::kConnect, options);
    EXPECT_TRUE(context);
    const auto connector = make_tls_connector(make_tcp_connector("127.0.0.1", port_), *context);
    connector->set_session(session);
    auto channel = connector->connect(kPatience);
    EXPECT_TRUE(channel) << channel.error().to_text();
    return std::make_unique<RecordChannel>(*std::move(channel), hasher_);
  }
  /// HELLO, as far as WELCOME: the session's secret is known to the source then.
  void begin(const TlsOptions& options) {
    control_ = connect(options);
    wire::Hello hello;
    hello.session = session_;
    hello.random.bytes.fill(std::byte{7});
    hello.guest.name = "guest";
    hello.guest.vcpus = 1;
    ASSERT_TRUE(control_->send(hello, kPatience));
    auto arrival = introductions_->wait_for_hello();
    ASSERT_TRUE(arrival) << arrival.error().to_text();
    accepted_ = std::move(arrival->control);
    hasher_ = wire::Hasher(hello.random, hello.random);
    introductions_->expect(session_, secret_, hasher_, 1);
  }
  [[nodiscard]] wire::Join join() const {
    return {session_, wire::LaneId{1}, wire::LaneRole::kBulk, secret_};
  }

  TlsFiles files_;
  std::string port_;
  std::atomic<bool> asked_{false};
  wire::SessionId session_;
  wire::JoinSecret secret_;
  wire::Hasher hasher_;
  std::unique_ptr<Acceptor> acceptor_;
  std::unique_ptr<Introductions> introductions_;
  std::unique_ptr<RecordChannel> control_;
  std::unique_ptr<RecordChannel> accepted_;
};

TEST_F(TlsSession, ALaneOfAnotherHostIsRefusedThoughItKnowsTheSecret) {
  const TlsOptions source = files_.host("source");
  begin(source);
  const auto other = connect(files_.host("other"));
  ASSERT_TRUE(other->send(join(), kPatience));
  const auto refused = other->expect<wire::Joined>(kPatience);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnauthorized) << refused.error().to_text();
  EXPECT_THAT(refused.error().message, HasSubstr("is not the host that began the session"));

  const auto lane = connect(source);
  ASSERT_TRUE(lane->send(join(), kPatience));
  EXPECT_TRUE(lane->expect<wire::Joined>(kPatience));
  EXPECT_TRUE(introductions_->wait_for_lanes(kPatience));
}

TEST_F(TlsSession, AQuestionOfAnotherHostDoesNotTakeTheSessionOver) {
  const TlsOptions source = files_.host("source");
  begin(source);
  const wire::Ask ask{session_, secret_};
  const auto other = connect(files_.host("other"));
  ASSERT_TRUE(other->send(ask, kPatience));
  const auto refused = other->expect<wire::Answer>(kPatience);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnauthorized) << refused.error().to_text();
  EXPECT_FALSE(asked_);

  const auto again = connect(source);
  ASSERT_TRUE(again->send(ask, kPatience));
  const auto until = std::chrono::steady_clock::now() + kPatience;
  EXPECT_NE(introductions_->take_asking(until), nullptr);
}

TEST_F(TlsSession, WhatAnnouncesAnotherSessionThanItSpeaksOfIsRefused) {
  const TlsOptions source = files_.host("source");
  const std::string other(32, 'a');
  const auto expect_refused = [&](RecordChannel& channel) {
    const auto refused = channel.receive(kPatience);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kProtocol) << refused.error().to_text();
    EXPECT_THAT(refused.error().message, HasSubstr("announced another session"));
    EXPECT_FALSE(refused.error().remedy.empty());
  };
  const auto stranger = connect(source, other);
  wire::Hello hello;
  hello.session = session_;
  hello.random.bytes.fill(std::byte{7});
  hello.guest.name = "guest";
  hello.guest.vcpus = 1;
  ASSERT_TRUE(stranger->send(hello, kPatience));
  expect_refused(*stranger);

  begin(source);
  const auto lane = connect(source, other);
  ASSERT_TRUE(lane->send(join(), kPatience));
  expect_refused(*lane);
  const auto asking = connect(source, other);
  ASSERT_TRUE(asking->send(wire::Ask{session_, secret_}, kPatience));
  expect_refused(*asking);
  const auto resuming = connect(source, other);
  ASSERT_TRUE(resuming->send(wire::Resume{session_, secret_, 0}, kPatience));
  expect_refused(*resuming);

  const auto good = connect(source, wire::to_text(session_));
  ASSERT_TRUE(good->send(join(), kPatience));
  EXPECT_TRUE(good->expect<wire::Joined>(kPatience));
}

TEST_F(TlsSession, SilentStrangersHoldNobodyUp) {
  std::vector<std::unique_ptr<Channel>> silent;
  for (int i = 0; i < 20; ++i) {
    auto channel = make_tcp_connector("127.0.0.1", port_)->connect(kPatience);
    ASSERT_TRUE(channel);
    silent.push_back(*std::move(channel));
  }
  begin(files_.host("source"));
}

}  // namespace
}  // namespace migrate::testing
