#include "tools/migrate/endpoint.hpp"

#include <gtest/gtest.h>

namespace migrate::tool {
namespace {

TEST(Endpoint, NamesAndAddressesParse) {
  const auto name = parse_endpoint("host-b:4444");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->host, "host-b");
  EXPECT_EQ(name->port, "4444");
  const auto v6 = parse_endpoint("[::1]:4444");
  ASSERT_TRUE(v6);
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->text(), "[::1]:4444");
}

TEST(Endpoint, NonsenseIsRefusedWithWhatToGive) {
  for (const char* text : {"", "host", ":4444", "host:", "host:x", "host:65536", "host:-1",
                           "::1:4444", "host: 1", "[]:1"}) {
    const auto parsed = parse_endpoint(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_NE(parsed.error().remedy.find("HOST:PORT"), std::string::npos) << text;
  }
}

TEST(Endpoint, OnlyLoopbackPassesWithoutInsistence) {
  for (const char* text : {"127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "[::ffff:127.0.0.1]:1"}) {
    EXPECT_TRUE(require_loopback(*parse_endpoint(text))) << text;
  }
  for (const char* text :
       {"10.0.0.1:1", "0.0.0.0:1", "[::]:1", "[fe80::1]:1", "[::ffff:10.0.0.1]:1"}) {
    const Status status = require_loopback(*parse_endpoint(text));
    ASSERT_FALSE(status) << text;
    EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument) << text;
    EXPECT_NE(status.error().remedy.find("--insecure"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace migrate::tool
