// Questions to the kernel, and answers that do not fit.
#include "net-takeover/netlink.hpp"

#include <gtest/gtest.h>
#include <linux/rtnetlink.h>

#include <cerrno>

#include "net-takeover/link_facts.hpp"

namespace migrate::takeover {
namespace {

Result<int> ask_for_loopback(std::size_t answer_bytes, std::size_t& bodies) {
  MIGRATE_ASSIGN(Netlink netlink, Netlink::open(answer_bytes));
  ifinfomsg info{};
  NetlinkRequest request(RTM_GETLINK, 0, std::as_bytes(std::span(&info, 1)));
  request.attribute(IFLA_IFNAME, std::string_view("lo"));
  return netlink.ask(request, [&bodies](auto) { ++bodies; });
}

TEST(Netlink, AnAnswerThatDoesNotFitIsAnError) {
  std::size_t bodies = 0;
  const auto whole = ask_for_loopback(Netlink::kAnswerBytes, bodies);
  ASSERT_TRUE(whole) << whole.error().to_text();
  EXPECT_EQ(*whole, 0);
  EXPECT_EQ(bodies, 1u);
  bodies = 0;
  const auto cut = ask_for_loopback(64, bodies);
  ASSERT_FALSE(cut);
  EXPECT_EQ(cut.error().sys_errno, EMSGSIZE);
  EXPECT_EQ(bodies, 0u);
}

TEST(LinkFacts, AreOfTheInterfaceThatIsNamed) {
  const auto facts = link_facts("lo");
  ASSERT_TRUE(facts) << facts.error().to_text();
  EXPECT_EQ(facts->name, "lo");
  EXPECT_FALSE(facts->ethernet);
  EXPECT_FALSE(facts->vlan_filtering);
}

}  // namespace
}  // namespace migrate::takeover
