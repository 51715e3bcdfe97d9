// What the demo guest and the VMM compute alike: fill, stamps, the plan.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/card_memory.hpp"
#include "adapters/kvm/vmm/demo_guest/image.hpp"
#include "adapters/kvm/vmm/demo_guest/stamp.hpp"
#include "adapters/kvm/vmm/demo_plan.hpp"

namespace migrate::vmm {
namespace {

using demo::ErrorKind;
using demo::PageKind;
using ::testing::HasSubstr;
using PageWords = std::array<std::uint64_t, demo::kWordsPerPage>;

PageWords page_of(Fill fill, std::uint64_t seed, std::uint64_t page) {
  PageWords words{};
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] = demo::fill_word(demo::page_kind(fill, seed, page), demo::page_base(seed, page), i);
  }
  return words;
}

TEST(Fill, MixedMemoryHasItsSharesInRunsOfAMebibyte) {
  for (const std::uint64_t seed : {1ull, 2ull, 12345ull}) {
    std::map<PageKind, int> runs;
    for (std::uint64_t run = 0; run < 200; ++run) {
      const std::uint64_t first = run * demo::kRunPages;
      const PageKind kind = demo::page_kind(Fill::kMixed, seed, first);
      EXPECT_EQ(demo::page_kind(Fill::kMixed, seed, first + demo::kRunPages - 1), kind);
      ++runs[kind];
    }
    EXPECT_EQ(runs[PageKind::kZero], 80);
    EXPECT_EQ(runs[PageKind::kText], 70);
    EXPECT_EQ(runs[PageKind::kRandom], 50);
  }
}

TEST(Fill, PagesDifferFromEachOtherAndBySeed) {
  for (const Fill fill : {Fill::kText, Fill::kRandom}) {
    std::set<PageWords> pages;
    for (std::uint64_t page = 0; page < 300; ++page) pages.insert(page_of(fill, 1, page));
    EXPECT_EQ(pages.size(), 300u);
    EXPECT_NE(page_of(fill, 1, 7), page_of(fill, 2, 7));
    EXPECT_EQ(page_of(fill, 1, 7), page_of(fill, 1, 7));
  }
}

TEST(Fill, TextIsLetters) {
  const PageWords words = page_of(Fill::kText, 1, 3);
  const auto* text = reinterpret_cast<const char*>(words.data());
  EXPECT_TRUE(std::all_of(text, text + demo::kPage, [](char character) {
    return (character >= 'a' && character <= 'z') ||
           std::string_view(" \n,.;:").find(character) != std::string_view::npos;
  }));
}

TEST(Fill, AHashSeesEveryWord) {
  PageWords words = page_of(Fill::kRandom, 1, 3);
  const demo::PageHash before = demo::hash_page(words.data());
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] ^= 1ull << (i % 64);
    const demo::PageHash after = demo::hash_page(words.data());
    const bool edge = i < demo::kStampWords || i >= demo::kInsideEnd;
    EXPECT_EQ(after.inside == before.inside, edge) << i;
    EXPECT_EQ(after.edges == before.edges, !edge) << i;
    words[i] ^= 1ull << (i % 64);
  }
}

TEST(Stamp, TellsWhatIsWrongWithAPage) {
  PageWords words{};
  demo::write_stamp(words.data(), demo::make_stamp(1, 100, 5));
  const auto judge = [&](std::uint64_t page, std::uint64_t generation) {
    return demo::judge_stamp(1, page, generation, demo::read_stamp(words.data()));
  };
  EXPECT_EQ(judge(100, 5), ErrorKind::kNone);
  EXPECT_EQ(judge(100, 6), ErrorKind::kStale);
  EXPECT_EQ(judge(101, 5), ErrorKind::kMisplaced);
  for (std::size_t i = 0; i < words.size(); ++i) {
    words[i] ^= 2;
    const bool stamped = i < demo::kStampWords || i >= demo::kInsideEnd;
    EXPECT_EQ(judge(100, 5), stamped ? ErrorKind::kCorrupt : ErrorKind::kNone) << i;
    words[i] ^= 2;
  }
  words = {};
  EXPECT_EQ(judge(100, 5), ErrorKind::kCorrupt) << "a page lost to zeros";
}

TEST(Image, TheProgramFitsAndIsThere) {
  EXPECT_GT(demo::image().size(), 1000u);
  EXPECT_LE(demo::image().size(), demo::kProgramMax);
}

VmmConfig config_of(std::string_view workload, std::uint64_t memory_bytes, std::uint32_t vcpus) {
  VmmConfig config;
  config.memory_bytes = memory_bytes;
  config.vcpus = vcpus;
  config.workload = parse_workload(workload).value();
  return config;
}

TEST(Plan, EveryDataPageIsSomebodysToCheckAndNoSetsOverlap) {
  const struct {
    std::string_view workload;
    std::uint64_t memory_bytes;
    std::uint32_t vcpus;
  } cases[] = {
      {"idle", kMemoryMin, 1},
      {"idle", 6ull << 30, 3},
      {"writer", kMemoryMin, 1},
      {"writer:set=4K+writer:set=1M+reader:set=64K", 16 << 20, 5},
      {"writer:set=1M+idle+reader:set=2M+counter:fill=@x", 64 << 20, 4},
  };
  for (const auto& test : cases) {
    const auto plan = plan_demo_guest(config_of(test.workload, test.memory_bytes, test.vcpus), 1);
    ASSERT_TRUE(plan) << test.workload << plan.error().to_text();
    std::vector<int> checkers(plan->pages - plan->data_first);
    std::vector<int> owners(checkers.size());
    for (const demo::VcpuPlan& vcpu : plan->plans) {
      for (std::uint64_t i = 0; i < vcpu.share_pages; ++i) {
        ++checkers[vcpu.share_first - plan->data_first + i];
      }
      for (std::uint64_t i = 0; i < vcpu.set_pages; ++i) {
        ++owners[vcpu.set_first - plan->data_first + i];
        if (vcpu.kind == WorkKind::kWriter) ++checkers[vcpu.set_first - plan->data_first + i];
      }
      if (vcpu.kind != WorkKind::kWriter) continue;
      EXPECT_GE(vcpu.generations, demo::kTables);
      EXPECT_LE(vcpu.generations + 4 * vcpu.set_pages, plan->data_first * demo::kPage);
      EXPECT_LE(vcpu.set_first + vcpu.set_pages, plan->writers_end);
    }
    EXPECT_EQ(std::count(checkers.begin(), checkers.end(), 1), std::ssize(checkers));
    EXPECT_LE(*std::max_element(owners.begin(), owners.end()), 1);
  }
}

TEST(Plan, AVerifierChecksAllDataPages) {
  const auto plan = plan_demo_guest(config_of("verifier+writer:set=1M", 16 << 20, 2), 1);
  ASSERT_TRUE(plan);
  EXPECT_EQ(plan->plans[0].share_first, plan->data_first);
  EXPECT_EQ(plan->plans[0].share_pages, plan->pages - plan->data_first);
}

VmmConfig config_with_cards(std::string_view workload, std::vector<NetConfig> nets) {
  VmmConfig config = config_of(workload, 16 << 20, 3);
  config.nets = std::move(nets);
  return config;
}
const NetConfig kCard{"tap0", std::nullopt, {*parse_ip("192.0.2.7"), *parse_ip("2001:db8::7")}};

TEST(Plan, EachResponderHasTheCardOfItsNumber) {
  NetConfig second = kCard;
  second.mac = *parse_mac("52:54:00:12:34:56");
  const auto plan =
      plan_demo_guest(config_with_cards("responder+writer:set=1M+responder", {kCard, second}), 1);
  ASSERT_TRUE(plan) << plan.error().to_text();
  EXPECT_EQ(plan->cards[0].vcpu, 0u);
  EXPECT_EQ(plan->cards[1].vcpu, 2u);
  EXPECT_EQ(plan->cards[2].present, 0u);
  EXPECT_EQ(plan->cards[1].mac[5], 0x56);
  EXPECT_EQ(plan->cards[0].addresses[0].version, 4);
  EXPECT_EQ(plan->cards[0].addresses[1].version, 6);
  EXPECT_EQ(plan->cards[0].addresses[1].bytes[15], 7);
  EXPECT_EQ(plan->cards[0].addresses[2].version, 0);
  // Memory of its own, before all that is checked by page.
  EXPECT_GE(plan->cards[0].memory, demo::kTables);
  EXPECT_GE(plan->cards[1].memory, plan->cards[0].memory + sizeof(demo::CardMemory));
  EXPECT_GE(plan->plans[1].generations, plan->cards[1].memory + sizeof(demo::CardMemory));
  EXPECT_GE(plan->data_first * demo::kPage, plan->plans[1].generations);
}

TEST(Plan, RespondersAndCardsMustMatch) {
  NetConfig silent = kCard;
  silent.addresses.clear();
  const struct {
    VmmConfig config;
    std::string_view says;
    std::string_view advises;
  } cases[] = {
      {config_with_cards("responder", {}), "1 of its vCPUs are responders", "--net tap=IF,ip=A"},
      {config_with_cards("responder+responder", {kCard}), "has 1 network cards",
       "--net tap=IF,ip=A"},
      {config_with_cards("idle", {kCard}), "1 network cards, and 0", "leave out --net"},
      {config_with_cards("responder", {silent}), "0 addresses", "ip=192.0.2.7"},
  };
  for (const auto& test : cases) {
    const auto plan = plan_demo_guest(test.config, 1);
    ASSERT_FALSE(plan) << test.says;
    EXPECT_EQ(plan.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(plan.error().message, HasSubstr(std::string(test.says)));
    EXPECT_THAT(plan.error().remedy, HasSubstr(std::string(test.advises)));
  }
}

TEST(Plan, WhatDoesNotFitIsRefusedWithWhatWould) {
  const struct {
    VmmConfig config;
    std::string_view says;
  } cases[] = {
      {config_of("idle", 0, 1), "memory"},
      {config_of("idle", 4 << 20, 1), "memory"},
      {config_of("idle", (256 << 20) + 4096, 1), "memory"},
      {config_of("idle", 128ull << 30, 1), "memory"},
      {config_of("idle", 64 << 20, 0), "vCPUs"},
      {config_of("idle", 64 << 20, 65), "vCPUs"},
      {config_of("idle+idle", 64 << 20, 1), "2 workloads for 1 vCPUs"},
      {config_of("writer:set=64M", 64 << 20, 1), "set of 64M"},
      {config_of("writer:set=40M+writer:set=40M", 64 << 20, 2), "set of 40M"},
      {config_of("writer:set=32M+reader:set=40M", 64 << 20, 2), "set of 40M"},
      {config_of("writer:set=16777215T", 64 << 20, 1), "does not fit"},
  };
  for (const auto& test : cases) {
    const auto plan = plan_demo_guest(test.config, 1);
    ASSERT_FALSE(plan) << test.says;
    EXPECT_EQ(plan.error().code, ErrorCode::kInvalidArgument);
    EXPECT_THAT(plan.error().message, HasSubstr(std::string(test.says)));
    EXPECT_FALSE(plan.error().remedy.empty());
  }
}

}  // namespace
}  // namespace migrate::vmm
