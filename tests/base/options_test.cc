// The registry: every option can be set, read back and refused, and its help says what holds.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "migrate/guest.hpp"
#include "migrate/options.hpp"
#include "migrate/progress.hpp"

namespace migrate {
namespace {

using testing::HasSubstr;

const OptionSpec& option(std::string_view name) {
  for (const OptionSpec& spec : outgoing_option_registry()) {
    if (spec.name == name) return spec;
  }
  ADD_FAILURE() << "no option " << name;
  return outgoing_option_registry()[0];
}

TEST(Options, DefaultsAreTheDocumentedOnes) {
  const std::map<std::string, std::string, std::less<>> expected = {
      {"strategy", "auto"},
      {"max-downtime", "50ms"},
      {"max-rounds", "30"},
      {"bandwidth", "0"},
      {"lanes", "0"},
      {"downtime-hard", "off"},
      {"max-attempts", "10"},
      {"policy", "own"},
      {"throttle-max", "0.99"},
      {"on-stall", "postcopy,throttle,abort"},
      {"push-bandwidth", "0"},
      {"push-order", "bubble"},
      {"release", "end"},
      {"verify", "digest"},
      {"connect-timeout", "10s"},
      {"hello-timeout", "10s"},
      {"peer-timeout", "30s"},
      {"ask-window", "60s"},
      {"reconnect", "auto"},
      {"compress", "auto"},
      {"delta-cache", "32M"},
      {"switchover-bandwidth", "same"},
      {"forward", "0s"},
      {"io", "auto"},
      {"zerocopy", "off"}};
  ASSERT_EQ(outgoing_option_registry().size(), expected.size());
  for (const OptionSpec& spec : outgoing_option_registry()) {
    SCOPED_TRACE(spec.name);
    const auto found = expected.find(spec.name);
    ASSERT_NE(found, expected.end());
    EXPECT_EQ(spec.get(OutgoingOptions{}), found->second);
    EXPECT_FALSE(spec.help.empty());
    EXPECT_EQ(spec.help.back(), '.');
    EXPECT_FALSE(spec.argument.empty());
  }
}

TEST(Options, WhatIsSetReadsBack) {
  const std::pair<const char*, const char*> cases[] = {
      {"strategy", "stop-copy"},
      {"strategy", "precopy"},
      {"strategy", "postcopy"},
      {"strategy", "hybrid"},
      {"strategy", "auto"},
      {"compress", "none"},
      {"compress", "zstd:19"},
      {"compress", "zstd:-7"},
      {"compress", "auto"},
      {"delta-cache", "0"},
      {"delta-cache", "1G"},
      {"max-downtime", "1us"},
      {"max-downtime", "1.5s"},
      {"max-downtime", "86400s"},
      {"max-rounds", "1"},
      {"max-rounds", "10000"},
      {"bandwidth", "10Gbit"},
      {"bandwidth", "500Mbit"},
      {"bandwidth", "12345"},
      {"lanes", "64"},
      {"on-stall", "abort"},
      {"on-stall", "throttle"},
      {"on-stall", "raise:200ms,throttle,raise:2s,abort"},
      {"on-stall", "postcopy,raise:2s"},
      {"push-bandwidth", "1Gbit"},
      {"push-order", "address"},
      {"release", "early"},
      {"reconnect", "auto"},
      {"downtime-hard", "20ms"},
      {"downtime-hard", "off"},
      {"max-attempts", "3"},
      {"policy", "xen"},
      {"policy", "fixed:7"},
      {"throttle-max", "0.5"},
      {"on-stall", "throttle,abort"},
      {"verify", "full"},
      {"connect-timeout", "250ms"},
      {"hello-timeout", "1s"},
      {"peer-timeout", "86400s"},
      {"ask-window", "1ms"},
      {"reconnect", "0s"},
      {"reconnect", "86400s"},
      {"switchover-bandwidth", "0"},
      {"switchover-bandwidth", "10Gbit"},
      {"switchover-bandwidth", "same"},
      {"io", "auto"},
      {"zerocopy", "off"}};
  for (const auto& [name, value] : cases) {
    SCOPED_TRACE(std::string(name) + "=" + value);
    OutgoingOptions options;
    const Status set = set_option(options, name, value);
    ASSERT_TRUE(set) << set.error().to_text();
    EXPECT_EQ(option(name).get(options), value);
  }
}

TEST(Options, WhatIsRefusedNamesTheOptionAndChangesNothing) {
  const std::pair<const char*, const char*> cases[] = {{"strategy", ""},
                                                       {"strategy", "Auto"},
                                                       {"strategy", "post-copy"},
                                                       {"push-bandwidth", "much"},
                                                       {"push-order", "around"},
                                                       {"release", "never"},
                                                       {"on-stall", "postcopy,postcopy"},
                                                       {"max-downtime", "0ms"},
                                                       {"max-downtime", "50"},
                                                       {"max-downtime", "86401s"},
                                                       {"max-rounds", "0"},
                                                       {"max-rounds", "10001"},
                                                       {"max-rounds", "-1"},
                                                       {"max-rounds", "3.5"},
                                                       {"max-rounds", " 3"},
                                                       {"max-rounds", "4294967297"},
                                                       {"bandwidth", "fast"},
                                                       {"bandwidth", "-1"},
                                                       {"switchover-bandwidth", "half"},
                                                       {"lanes", "65"},
                                                       {"lanes", ""},
                                                       {"on-stall", ""},
                                                       {"on-stall", "abort,throttle"},
                                                       {"on-stall", "throttle,"},
                                                       {"on-stall", ",abort"},
                                                       {"on-stall", "throttle,throttle"},
                                                       {"on-stall", "raise"},
                                                       {"on-stall", "raise:0s"},
                                                       {"on-stall", "raise:2s,raise:1s"},
                                                       {"downtime-hard", "999us"},
                                                       {"downtime-hard", "never"},
                                                       {"max-attempts", "0"},
                                                       {"policy", "best"},
                                                       {"policy", "fixed:0"},
                                                       {"throttle-max", "1"},
                                                       {"throttle-max", "-0.1"},
                                                       {"throttle-max", "nan"},
                                                       {"on-stall", "wait"},
                                                       {"verify", "none"},
                                                       {"connect-timeout", "0s"},
                                                       {"hello-timeout", "1.5us"},
                                                       {"peer-timeout", "1500us"},
                                                       {"ask-window", "10"},
                                                       {"reconnect", "86401s"},
                                                       {"compress", ""},
                                                       {"compress", "lz4"},
                                                       {"compress", "zstd:"},
                                                       {"compress", "zstd:0"},
                                                       {"compress", "zstd:20"},
                                                       {"compress", "zstd:-8"},
                                                       {"compress", "zstd:1x"},
                                                       {"compress", "zstd1"},
                                                       {"delta-cache", "much"},
                                                       {"delta-cache", "65G"},
                                                       {"reconnect", "1us"}};
  for (const auto& [name, value] : cases) {
    SCOPED_TRACE(std::string(name) + "=" + value);
    OutgoingOptions options;
    const Status set = set_option(options, name, value);
    ASSERT_FALSE(set);
    EXPECT_EQ(set.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(set.error().message, HasSubstr(name));
    EXPECT_THAT(set.error().remedy, HasSubstr("accepted: "));
    EXPECT_EQ(option(name).get(options), option(name).get(OutgoingOptions{}));
  }
}

TEST(Options, AnUnknownNameIsToldAllNames) {
  OutgoingOptions options;
  const Status set = set_option(options, "downtime", "5ms");
  ASSERT_FALSE(set);
  for (const OptionSpec& spec : outgoing_option_registry()) {
    EXPECT_THAT(set.error().remedy, HasSubstr(std::string(spec.name)));
  }
}

TEST(Options, TheLadderIsTheStrategysUnlessItIsGiven) {
  OutgoingOptions options;
  options.strategy = Strategy::kPrecopy;
  EXPECT_EQ(option("on-stall").get(options), "throttle,abort");
  options.strategy = Strategy::kHybrid;
  EXPECT_EQ(option("on-stall").get(options), "throttle,abort");
  options.strategy = Strategy::kAuto;
  ASSERT_TRUE(set_option(options, "on-stall", "raise:1s"));
  EXPECT_EQ(option("on-stall").get(options), "raise:1s");
}

TEST(Options, ArgumentsShownAreThoseAccepted) {
  for (const char* name : {"strategy", "verify"}) {
    std::string rest(option(name).argument);
    while (!rest.empty()) {
      const std::size_t bar = rest.find('|');
      OutgoingOptions options;
      EXPECT_TRUE(set_option(options, name, rest.substr(0, bar))) << rest;
      rest = bar == std::string::npos ? "" : rest.substr(bar + 1);
    }
  }
}

TEST(Names, ArePinned) {
  EXPECT_EQ(to_string(Strategy::kStopCopy), "stop-copy");
  EXPECT_EQ(to_string(VerifyMode::kFull), "full");
  EXPECT_EQ(to_string(StallStep{StallStep::Kind::kThrottle}), "throttle");
  EXPECT_EQ(to_string(GuestKind::kVm), "vm");
  EXPECT_EQ(to_string(GuestKind::kContainer), "container");
  EXPECT_EQ(to_string(RunState::kRunning), "running");
  EXPECT_EQ(to_string(RunState::kPaused), "paused");
  const char* outcomes[] = {"done", "failed", "refused", "cancelled", "uncertain", "lost"};
  for (unsigned i = 0; i < std::size(outcomes); ++i) {
    EXPECT_EQ(to_string(static_cast<Outcome>(i)), outcomes[i]);
  }
  // A number from a newer peer must not crash what prints it.
  EXPECT_EQ(to_string(static_cast<Outcome>(200)), "unknown");
  EXPECT_EQ(to_string(static_cast<Strategy>(200)), "unknown");
}

}  // namespace
}  // namespace migrate
