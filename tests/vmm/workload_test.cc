#include "adapters/kvm/vmm/workload.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

namespace migrate::vmm {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = 1 << 20;

struct Accepted {
  std::string_view text;
  GuestWorkload workload;
};

GuestWorkload guest(std::vector<VcpuWork> vcpus, std::uint64_t seed = kDefaultSeed,
                    Fill fill = Fill::kMixed, std::string file = {}) {
  return {std::move(vcpus), seed, fill, std::move(file)};
}

VcpuWork writer(std::uint64_t rate, std::uint64_t set, Pattern pattern = Pattern::kUniform) {
  return {WorkKind::kWriter, rate, set, pattern};
}

TEST(Workload, EachFormParsesToWhatItSays) {
  const VcpuWork idle;
  const VcpuWork counter{WorkKind::kCounter, 0, 0, Pattern::kUniform};
  const Accepted cases[] = {
      {"", guest({idle})},
      {"idle", guest({idle})},
      {"counter", guest({counter})},
      {"writer", guest({writer(kDefaultWriterRate, 0)})},
      {"writer:rate=200M,set=256M", guest({writer(200 * kMiB, 256 * kMiB)})},
      {"writer:rate=max,pattern=zipf", guest({writer(0, 0, Pattern::kZipf)})},
      {"writer:pattern=burst,rate=1Gbit,set=4K",
       guest({writer(125'000'000, 4096, Pattern::kBurst)})},
      {"reader:set=64M", guest({{WorkKind::kReader, 0, 64 * kMiB, Pattern::kUniform}})},
      {"verifier:rate=8M", guest({{WorkKind::kVerifier, 8 * kMiB, 0, Pattern::kUniform}})},
      {"responder+idle", guest({{WorkKind::kResponder, 0, 0, Pattern::kUniform}, idle})},
      {"idle+counter", guest({idle, counter})},
      {"idle:seed=7,fill=random", guest({idle}, 7, Fill::kRandom)},
      {"idle:seed=18446744073709551615", guest({idle}, ~0ull)},
      {"counter+idle:fill=zero", guest({counter, idle}, kDefaultSeed, Fill::kZero)},
      {"idle:fill=text+idle:fill=text", guest({idle, idle}, kDefaultSeed, Fill::kText)},
      {"idle:fill=@/tmp/a=b:c", guest({idle}, kDefaultSeed, Fill::kFile, "/tmp/a=b:c")},
      {"writer:rate=500M,set=128M,pattern=sweep+reader:set=64M,seed=3",
       guest({writer(500 * kMiB, 128 * kMiB, Pattern::kSweep),
              {WorkKind::kReader, 0, 64 * kMiB, Pattern::kUniform}},
             3)},
  };
  for (const Accepted& accepted : cases) {
    const auto parsed = parse_workload(accepted.text);
    ASSERT_TRUE(parsed) << accepted.text << ": " << parsed.error().to_text();
    EXPECT_EQ(*parsed, accepted.workload) << accepted.text;
    const auto again = parse_workload(to_text(*parsed));
    ASSERT_TRUE(again) << to_text(*parsed);
    EXPECT_EQ(*again, *parsed) << accepted.text << " became " << to_text(*parsed);
  }
}

struct Refused {
  std::string_view text;
  std::string_view says;     ///< Part of the message.
  std::string_view advises;  ///< Part of the remedy.
};

TEST(Workload, ARefusalNamesWhatIsWrongAndWhatIsAccepted) {
  const Refused cases[] = {
      {"responder:ip=192.0.2.7", "no option \"ip=192.0.2.7\"", "seed, fill"},
      {"Writer", "\"Writer\"", "writer"},
      {"+", "empty", "idle"},
      {"idle+", "empty", "idle"},
      {"idle++idle", "empty", "idle"},
      {"writer:", "no option \"\"", "rate, set, pattern"},
      {"writer:rate", "\"rate\"", "key=value"},
      {"writer:rate=1M,", "no option \"\"", "key=value"},
      {"writer:colour=red", "\"colour=red\"", "rate, set, pattern, seed, fill"},
      {"idle:rate=1M", "\"rate=1M\"", "seed, fill"},
      {"reader:pattern=sweep", "\"pattern=sweep\"", "rate, set, seed, fill"},
      {"writer:rate=0", "out of range", "rate=max"},
      {"writer:rate=17G", "out of range", "rate=max"},
      {"writer:rate=fast", "\"fast\"", "accepted"},
      {"writer:rate=", "\"\"", "accepted"},
      {"writer:set=0", "whole pages", "4K"},
      {"writer:set=1000", "whole pages", "4K"},
      {"writer:set=-4K", "\"-4K\"", "accepted"},
      {"writer:rate=1M,rate=1M", "twice", "once"},
      {"writer:pattern=random", "\"random\"", "uniform, sweep, zipf, burst"},
      {"idle:seed=-1", "\"-1\"", "seed=1"},
      {"idle:seed=18446744073709551616", "2^64", "seed=1"},
      {"idle:seed=", "2^64", "seed=1"},
      {"idle:seed=1+idle:seed=2", "two values", "once"},
      {"idle:fill=zero+idle:fill=text", "two values", "once"},
      {"idle:fill=@a+idle:fill=@b", "two values", "once"},
      {"idle:fill=@", "\"@\"", "@FILE"},
      {"idle:fill=noise", "\"noise\"", "zero, text, random, mixed, @FILE"},
  };
  for (const Refused& refused : cases) {
    const auto parsed = parse_workload(refused.text);
    ASSERT_FALSE(parsed) << refused.text;
    EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument) << refused.text;
    EXPECT_THAT(parsed.error().message, HasSubstr(std::string(refused.says))) << refused.text;
    EXPECT_THAT(parsed.error().remedy, HasSubstr(std::string(refused.advises))) << refused.text;
  }
}

TEST(Workload, MoreThanAGuestCanHaveIsRefused) {
  std::string text = "idle";
  for (std::uint32_t i = 1; i < demo::kVcpusMax; ++i) text += "+idle";
  EXPECT_TRUE(parse_workload(text));
  EXPECT_FALSE(parse_workload(text + "+idle"));
}

/// Damages words at random places. Whatever comes out is refused with a remedy, or means the same
/// when it is written out and read again.
TEST(Workload, NoTextIsTakenForSomethingElse) {
  constexpr std::string_view kAlphabet = "writedlcounv:=,+@0159KMGbts-. \n";
  std::mt19937_64 random(20261121);
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  for (int round = 0; round < 20'000; ++round) {
    std::string text = "writer:rate=200M,set=256M,pattern=zipf+reader:set=64M,seed=9+idle:fill=@f";
    for (std::size_t i = below(6) + 1; i > 0; --i) {
      const std::size_t at = below(text.size());
      if (below(3) == 0) {
        text.erase(at, below(9));
      } else {
        text[at] = kAlphabet[below(kAlphabet.size())];
      }
      if (text.empty()) break;
    }
    const auto parsed = parse_workload(text);
    if (!parsed) {
      EXPECT_EQ(parsed.error().code, ErrorCode::kInvalidArgument) << text;
      EXPECT_FALSE(parsed.error().remedy.empty()) << text;
      continue;
    }
    const auto again = parse_workload(to_text(*parsed));
    ASSERT_TRUE(again) << text << " became " << to_text(*parsed);
    ASSERT_EQ(*again, *parsed) << text << " became " << to_text(*parsed);
  }
}

}  // namespace
}  // namespace migrate::vmm
