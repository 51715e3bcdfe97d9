// Sizes, rates and times: what is accepted means exactly what it says, all else is refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "migrate/options.hpp"

namespace migrate {
namespace {

using std::chrono::microseconds;

struct Case {
  const char* text;
  std::uint64_t value;
};

TEST(Quantities, SizesAreExact) {
  const Case cases[] = {{"0", 0},
                        {"4096", 4096},
                        {"1K", 1024},
                        {"256M", 256ull << 20},
                        {"1.5G", 3ull << 29},
                        {"0.5K", 512},
                        {"1.000M", 1ull << 20},
                        {"2T", 2ull << 40},
                        {"16777215T", 16777215ull << 40},
                        {"18446744073709551615", ~0ull}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    const auto size = parse_size(c.text);
    ASSERT_TRUE(size);
    EXPECT_EQ(*size, c.value);
  }
}

TEST(Quantities, SizesThatCannotBeMeantAreRefused) {
  for (const char* text : {"",
                           " 1",
                           "1 ",
                           "-1",
                           "+1",
                           "M",
                           "1m",
                           "1MB",
                           "1MiB",
                           "1..5G",
                           "1.G",
                           ".5G",
                           "0.5",
                           "1.0001K",
                           "0x10",
                           "1e6",
                           "16777216T",
                           "18446744073709551616",
                           "99999999999999999999999K",
                           "1.00000000000000000000000001K"}) {
    SCOPED_TRACE(text);
    const auto size = parse_size(text);
    ASSERT_FALSE(size);
    EXPECT_EQ(size.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(size.error().to_text(), testing::HasSubstr("accepted: "));
    EXPECT_THAT(size.error().to_text(), testing::HasSubstr(text));
  }
}

TEST(Quantities, RatesAreBytesByTwosOrBitsByTens) {
  const Case cases[] = {{"0", 0},
                        {"200M", 200ull << 20},
                        {"10Gbit", 1'250'000'000},
                        {"500Mbit", 62'500'000},
                        {"2.5Gbit", 312'500'000},
                        {"8Kbit", 1000},
                        {"0.008Kbit", 1}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    const auto rate = parse_rate(c.text);
    ASSERT_TRUE(rate);
    EXPECT_EQ(*rate, c.value);
  }
  for (const char* text : {"10gbit", "10Gb", "10Gbps", "10Gbit/s", "-1M", "999999999999Gbit"}) {
    EXPECT_FALSE(parse_rate(text)) << text;
  }
}

TEST(Quantities, TimesAreWholeMicroseconds) {
  const Case cases[] = {{"0us", 0},        {"200us", 200},      {"50ms", 50'000},
                        {"2s", 2'000'000}, {"1.5s", 1'500'000}, {"0.25ms", 250},
                        {"1.0us", 1},      {"0.000001s", 1},    {"86400s", 86'400'000'000}};
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    const auto time = parse_duration(c.text);
    ASSERT_TRUE(time);
    EXPECT_EQ(time->count(), static_cast<std::int64_t>(c.value));
  }
  for (const char* text : {"", "50", "50 ms", "-1s", "1.5us", "0.0000001s", "1m", "1min",
                           "9223372036854776us", "18446744073709551615us", "99999999999999s"}) {
    EXPECT_FALSE(parse_duration(text)) << text;
  }
}

TEST(Quantities, FormattedTimesReadBackTheSame) {
  const std::pair<std::int64_t, const char*> cases[] = {
      {0, "0us"},          {999, "999us"},      {1000, "1ms"},
      {1050, "1.05ms"},    {50'000, "50ms"},    {999'999, "999.999ms"},
      {1'000'000, "1s"},   {1'500'000, "1.5s"}, {1'000'001, "1.000001s"},
      {90'000'000, "90s"}, {-1500, "-1.5ms"}};
  for (const auto& [count, text] : cases) EXPECT_EQ(format_duration(microseconds(count)), text);
  std::mt19937_64 random(7);
  for (int i = 0; i < 1000; ++i) {
    const microseconds time(static_cast<std::int64_t>(random() >> (12 + random() % 50)));
    const auto parsed = parse_duration(format_duration(time));
    ASSERT_TRUE(parsed) << format_duration(time);
    EXPECT_EQ(*parsed, time);
  }
}

TEST(Quantities, FormattedSizesAreShortAndNeverTooLarge) {
  const std::pair<std::uint64_t, const char*> cases[] = {{0, "0"},
                                                         {1023, "1023"},
                                                         {1024, "1K"},
                                                         {256ull << 20, "256M"},
                                                         {3ull << 29, "1.5G"},
                                                         {(1ull << 30) - 1, "1023.99M"},
                                                         {(1ull << 30) + (5ull << 20), "1G"},
                                                         {(1ull << 30) + (52ull << 20), "1.05G"},
                                                         {~0ull, "16777215.99T"}};
  for (const auto& [bytes, text] : cases) EXPECT_EQ(format_size(bytes), text);
}

}  // namespace
}  // namespace migrate
