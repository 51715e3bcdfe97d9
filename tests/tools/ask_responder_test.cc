#include "tools/migrate/ask_responder.hpp"

#include <gtest/gtest.h>

#include "migrate/endpoint.hpp"
#include "session/host_identity.hpp"
#include "transport/record_channel.hpp"

namespace migrate::tool {
namespace {

constexpr std::chrono::seconds kPatience{20};

wire::SessionId session_number(std::uint8_t number) {
  wire::SessionId session;
  session.bytes.fill(static_cast<std::byte>(number));
  return session;
}

class AskResponderTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto acceptor = make_tcp_acceptor("127.0.0.1", "0");
    ASSERT_TRUE(acceptor);
    endpoint_ = *parse_endpoint((*acceptor)->address(), EndpointUse::kSend);
    responder_ = std::make_unique<AskResponder>(*std::move(acceptor), session_number(1), 3);
  }
  RecordChannel connect() {
    auto channel = make_tcp_connector(endpoint_.host, endpoint_.port)->connect(kPatience);
    EXPECT_TRUE(channel);
    return RecordChannel(*std::move(channel));
  }
  static wire::Ask ask_of(const wire::SessionId& session) {
    wire::Ask ask;
    ask.session = session;
    return ask;
  }

  Endpoint endpoint_;
  std::unique_ptr<AskResponder> responder_;
};

TEST_F(AskResponderTest, SaysThatTheGuestRunsHereAsOftenAsItIsAsked) {
  for (int i = 0; i < 3; ++i) {
    auto asking = connect();
    ASSERT_TRUE(asking.send(ask_of(session_number(1)), kPatience));
    const auto answer = asking.expect<wire::Answer>(kPatience);
    ASSERT_TRUE(answer) << answer.error().to_text();
    EXPECT_EQ(answer->state, wire::JournalState::kStarted);
    EXPECT_EQ(answer->attempt, 3u);
    EXPECT_EQ(answer->boot, session::this_boot());
    EXPECT_TRUE(answer->process_lives);
  }
}

TEST_F(AskResponderTest, AnswersForNoOtherSession) {
  auto asking = connect();
  ASSERT_TRUE(asking.send(ask_of(session_number(2)), kPatience));
  const auto answer = asking.expect<wire::Answer>(kPatience);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code, ErrorCode::kNotFound);
}

TEST_F(AskResponderTest, ASilentConnectionHoldsItUpForAMomentOnly) {
  const auto silent = connect();
  auto asking = connect();
  ASSERT_TRUE(asking.send(ask_of(session_number(1)), kPatience));
  EXPECT_TRUE(asking.expect<wire::Answer>(kPatience));
}

}  // namespace
}  // namespace migrate::tool
