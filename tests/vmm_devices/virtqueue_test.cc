#include "adapters/kvm/vmm/devices/virtqueue.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "adapters/kvm/vmm/devices/chain_io.hpp"
#include "tests/vmm_devices/test_queue.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kBase = 0;
constexpr std::uint64_t kData = 16 * kPageSize;
constexpr std::uint64_t kTable = 8 * kPageSize;

class VirtqueueTest : public ::testing::Test {
 protected:
  static constexpr Virtqueue::Features kAll{true, true};

  void SetUp() override {
    ASSERT_TRUE(Virtqueue::check(memory_.ram(), driver_.layout()));
    queue_.start(driver_.layout(), {true, false});
  }
  std::string refusal() {
    const auto taken = queue_.take(chain_);
    if (taken) return *taken ? "it was taken" : "nothing was there";
    EXPECT_EQ(taken.error().code, ErrorCode::kGuest);
    return taken.error().message;
  }
  bool take() {
    const auto taken = queue_.take(chain_);
    EXPECT_TRUE(taken.has_value());
    return taken && *taken;
  }
  void indirect(std::span<const TestDescriptor> table) {
    for (std::size_t i = 0; i < table.size(); ++i) memory_.poke(kTable + 16 * i, table[i]);
  }

  TestRam memory_;
  TestQueue driver_{memory_, 8, kBase};
  Virtqueue queue_{memory_.ram()};
  Chain chain_;
};

TEST_F(VirtqueueTest, ARequestIsTakenAndGivenBack) {
  EXPECT_FALSE(take());
  driver_.offer(3, {{kData, 16}, {TestRam::kHigh, 512}, {kData + 4096, 513, kWrite}});
  ASSERT_TRUE(take());
  EXPECT_EQ(chain_.head, 3);
  EXPECT_THAT(chain_.readable, ElementsAre(ChainPart{GuestAddr{kData}, 16},
                                           ChainPart{GuestAddr{TestRam::kHigh}, 512}));
  EXPECT_THAT(chain_.writable, ElementsAre(ChainPart{GuestAddr{kData + 4096}, 513}));
  EXPECT_EQ(chain_.readable_bytes, 528u);
  EXPECT_EQ(chain_.writable_bytes, 513u);
  EXPECT_FALSE(take());
  queue_.complete(chain_, 513);
  EXPECT_EQ(driver_.used_index(), 1);
  EXPECT_EQ(driver_.used(0), (Used{3, 513}));
}

TEST_F(VirtqueueTest, WhatTheDeviceWroteIsMarkedWithTheRing) {
  driver_.offer(0, {{kData, 4096}, {kData + 4096, 4097, kWrite}, {TestRam::kHigh, 1, kWrite}});
  ASSERT_TRUE(take());
  EXPECT_THAT(memory_.take_marked(), IsEmpty());
  queue_.complete(chain_, 4098);
  EXPECT_THAT(memory_.take_marked(), ElementsAre(2, 17, 18, 256));
}

TEST_F(VirtqueueTest, AChainMayEndInAnIndirectTable) {
  const TestDescriptor table[] = {{kData + 64, 8, kNext, 2}, {}, {kData + 128, 9, kWrite, 0}};
  indirect(table);
  // The table's own write flag says nothing.
  driver_.offer(5, {{kData, 16}, {kTable, sizeof table, kIndirect | kWrite}});
  ASSERT_TRUE(take());
  EXPECT_EQ(chain_.head, 5);
  EXPECT_THAT(chain_.readable,
              ElementsAre(ChainPart{GuestAddr{kData}, 16}, ChainPart{GuestAddr{kData + 64}, 8}));
  EXPECT_THAT(chain_.writable, ElementsAre(ChainPart{GuestAddr{kData + 128}, 9}));
}

TEST_F(VirtqueueTest, ARequestPutBackIsTakenAgain) {
  driver_.offer(1, {{kData, 16}});
  ASSERT_TRUE(take());
  queue_.put_back();
  EXPECT_EQ(queue_.next(), 0);
  ASSERT_TRUE(take());
  EXPECT_EQ(chain_.head, 1);
}

TEST_F(VirtqueueTest, TheRingGoesRoundAndItsIndexPastItsEnd) {
  for (int i = 0; i < 70'000; ++i) {
    driver_.offer(static_cast<std::uint16_t>(i % 8), {{kData, 16}});
    if (i % 8 != 7) driver_.descriptor(i % 8, {kData, 16});
    ASSERT_TRUE(take()) << i;
    ASSERT_EQ(chain_.head, i % 8);
    queue_.complete(chain_, 0);
    ASSERT_EQ(driver_.used_index(), static_cast<std::uint16_t>(i + 1));
  }
}

/// Numbers of the pages that are named.
std::vector<std::uint64_t> first_pages(TestRam& memory, const Virtqueue& queue) {
  std::vector<Region> regions;
  for (const KvmMemorySlot& slot : memory.slots()) regions.push_back(region_of(slot));
  PageBitmap pages(regions);
  FirstPages first(memory.slots(), pages);
  queue.add_first_pages(first);
  std::vector<std::uint64_t> numbers;
  pages.for_each_run([&](const RegionId&, PageRange run) {
    for (std::uint64_t i = 0; i < run.count; ++i) numbers.push_back(run.first.number + i);
  });
  return numbers;
}

TEST_F(VirtqueueTest, RingsAndTheBuffersOfWhatWaitsAndOfWhatWasCompletedAreNamed) {
  const auto rings = first_pages(memory_, queue_);
  EXPECT_THAT(rings, ElementsAre(0, 1, 2)) << "descriptors, available, used";
  driver_.offer(0, {{kData, 4096, kWrite}});
  ASSERT_TRUE(take());
  queue_.complete(chain_, 4096);
  driver_.offer(3, {{kData + 2 * kPageSize + 4000, 200}, {TestRam::kHigh, 16, kWrite}});
  EXPECT_THAT(first_pages(memory_, queue_), ElementsAre(0, 1, 2, 16, 18, 19, 256));
  ASSERT_TRUE(take());
  EXPECT_EQ(chain_.head, 3) << "nothing was taken by naming it";
}

TEST_F(VirtqueueTest, AnIndirectTableIsNamedWithItsBuffers) {
  const TestDescriptor table[] = {{kData + 5 * kPageSize, 8, 0, 0}};
  indirect(table);
  driver_.offer(5, {{kTable, sizeof table, kIndirect}});
  EXPECT_THAT(first_pages(memory_, queue_), ElementsAre(0, 1, 2, 8, 21));
}

TEST_F(VirtqueueTest, HowManyBuffersAreNamedIsBound) {
  constexpr std::uint32_t kPart = 40 * kPageSize;
  driver_.offer(0, {{kData, kPart}, {kData, kPart}, {TestRam::kHigh, 64 * kPageSize}});
  const auto named = first_pages(memory_, queue_);
  constexpr std::uint64_t kLeft = Virtqueue::kFirstBufferPages - 80;
  EXPECT_EQ(named.size(), 3 + 40 + kLeft);
  EXPECT_EQ(named.back(), 256 + kLeft - 1);
}

TEST_F(VirtqueueTest, OfDescriptorsThatBreakTheRulesOnlyTheRingsAreNamed) {
  driver_.offer(0, {{~std::uint64_t{0} - 5, 100}});
  EXPECT_THAT(first_pages(memory_, queue_), ElementsAre(0, 1, 2));
  Virtqueue stopped{memory_.ram()};
  EXPECT_THAT(first_pages(memory_, stopped), IsEmpty());
}

struct Hostile {
  const char* why;
  std::vector<TestDescriptor> parts;
};

TEST_F(VirtqueueTest, DescriptorsThatBreakTheRulesAreRefused) {
  const std::uint64_t end = TestRam::kSlotBytes;
  const Hostile cases[] = {
      {"not memory", {{end, 1}}},
      {"not memory", {{end - 1, 2}}},
      {"not memory", {{~0ull, 2}}},
      {"not memory", {{kData, 0xffff'ffff}}},
      {"no bytes", {{kData, 0}}},
      {"after a writable one", {{kData, 1, kWrite}, {kData, 1}}},
      {"goes on", {{kTable, 16, kIndirect}, {kData, 1}}},
      {"table of 0 bytes", {{kTable, 0, kIndirect}}},
      {"table of 17 bytes", {{kTable, 17, kIndirect}}},
      {"table of 4112 bytes", {{kTable, (kQueueSizeMax + 1) * 16, kIndirect}}},
      {"table is not memory", {{end - 16, 32, kIndirect}}},
  };
  for (const Hostile& bad : cases) {
    queue_.start(driver_.layout(), {true, false});
    driver_.set_index(1);
    driver_.put_entry(0, 0);
    for (std::size_t i = 0; i < bad.parts.size(); ++i) {
      TestDescriptor entry = bad.parts[i];
      if (i + 1 < bad.parts.size()) entry.flags |= kNext;
      entry.next = static_cast<std::uint16_t>(i + 1);
      driver_.descriptor(i, entry);
    }
    EXPECT_THAT(refusal(), HasSubstr(bad.why));
    EXPECT_EQ(queue_.next(), 0) << "a refused request is not taken";
  }
}

TEST_F(VirtqueueTest, LoopsEnd) {
  driver_.descriptor(0, {kData, 1, kNext, 1});
  driver_.descriptor(1, {kData, 1, kNext, 0});
  driver_.offer(0);
  EXPECT_THAT(refusal(), HasSubstr("loop"));
}

TEST_F(VirtqueueTest, LoopsOfAnIndirectTableEnd) {
  const TestDescriptor table[] = {{kData, 1, kNext, 1}, {kData, 1, kNext, 1}};
  indirect(table);
  driver_.offer(0, {{kTable, sizeof table, kIndirect}});
  EXPECT_THAT(refusal(), HasSubstr("loop"));
}

TEST_F(VirtqueueTest, ATableInATableIsRefused) {
  const TestDescriptor table[] = {{kTable, 16, kIndirect, 0}};
  indirect(table);
  driver_.offer(0, {{kTable, sizeof table, kIndirect}});
  EXPECT_THAT(refusal(), HasSubstr("in an indirect table"));
}

TEST_F(VirtqueueTest, AnIndirectTableMustHaveBeenAgreedOn) {
  queue_.start(driver_.layout(), {false, false});
  driver_.offer(0, {{kTable, 16, kIndirect}});
  EXPECT_THAT(refusal(), HasSubstr("not agreed on"));
}

TEST_F(VirtqueueTest, DescriptorsOutsideTheirTableAreRefused) {
  driver_.offer(8);
  EXPECT_THAT(refusal(), HasSubstr("descriptor 8"));
  queue_.start(driver_.layout(), {true, false});
  driver_.put_entry(0, 0);
  driver_.descriptor(0, {kData, 1, kNext, 0xffff});
  EXPECT_THAT(refusal(), HasSubstr("descriptor 65535"));
}

TEST_F(VirtqueueTest, ARequestOfFourGigabytesIsRefused) {
  // The same 128 KiB again and again, in an indirect table as long as they may be: 32 MiB at most.
  // So it takes a slot as large as this to get there.
  KvmMemorySlot slot;
  std::byte nothing{};
  slot.guest_address = GuestAddr{1ull << 40};
  slot.bytes = 3ull << 30;
  slot.host = &nothing;  // Never touched: a refused chain is not read.
  auto slots = memory_.slots();
  slots.push_back(slot);
  const GuestRam ram(slots, nullptr);
  Virtqueue queue(ram);
  queue.start(driver_.layout(), {true, false});
  driver_.offer(0, {{1ull << 40, 3u << 30}, {1ull << 40, 1u << 30, kWrite}});
  const auto taken = queue.take(chain_);
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error().message, HasSubstr("4 GiB"));
}

TEST_F(VirtqueueTest, MoreRequestsThanTheRingHoldsAreRefused) {
  driver_.set_index(9);
  EXPECT_THAT(refusal(), HasSubstr("9 requests"));
  EXPECT_FALSE(queue_.waiting());
  EXPECT_FALSE(queue_.await_notification());
  driver_.set_index(0xffff);
  EXPECT_THAT(refusal(), HasSubstr("65535 requests"));
}

TEST_F(VirtqueueTest, QueuesThatCannotLieThereAreRefused) {
  const QueueLayout good = driver_.layout();
  const auto wrong = [&](const char* why, auto change) {
    QueueLayout layout = good;
    change(layout);
    const Status checked = Virtqueue::check(memory_.ram(), layout);
    ASSERT_FALSE(checked) << why;
    EXPECT_THAT(checked.error().message, HasSubstr(why));
  };
  for (const int size : {0, 3, 512, 0x8000}) {
    wrong("size", [&](QueueLayout& layout) { layout.size = static_cast<std::uint16_t>(size); });
  }
  wrong("table is not aligned", [](QueueLayout& layout) { layout.descriptors.value += 8; });
  wrong("available ring is not aligned", [](QueueLayout& layout) { layout.available.value += 1; });
  wrong("used ring is not aligned", [](QueueLayout& layout) { layout.used.value += 2; });
  const std::uint64_t end = TestRam::kSlotBytes;
  wrong("table is not", [&](QueueLayout& layout) { layout.descriptors.value = end - 112; });
  wrong("available ring is not", [&](QueueLayout& layout) { layout.available.value = end - 20; });
  wrong("used ring is not", [&](QueueLayout& layout) { layout.used.value = end - 68; });
  wrong("used ring is not", [&](QueueLayout& layout) { layout.used.value = ~3ull; });
}

TEST_F(VirtqueueTest, TheFlagSaysWhetherToInterrupt) {
  driver_.offer(0, {{kData, 1}});
  ASSERT_TRUE(take());
  queue_.complete(chain_, 0);
  EXPECT_TRUE(queue_.wants_interrupt());
  driver_.set_flags(1);
  EXPECT_FALSE(queue_.wants_interrupt());
}

TEST_F(VirtqueueTest, TheEventSaysWhenToInterrupt) {
  queue_.start(driver_.layout(), kAll);
  driver_.set_used_event(100);
  const auto complete = [this] {
    driver_.offer(0, {{kData, 1}});
    ASSERT_TRUE(take());
    queue_.complete(chain_, 0);
  };
  complete();
  EXPECT_TRUE(queue_.wants_interrupt()) << "what was told before is not known";
  complete();
  EXPECT_FALSE(queue_.wants_interrupt());
  driver_.set_used_event(2);
  complete();
  EXPECT_TRUE(queue_.wants_interrupt());
  EXPECT_FALSE(queue_.wants_interrupt()) << "nothing was completed since";
}

TEST_F(VirtqueueTest, TheGuestIsAskedToNotifyFromTheNextRequestOn) {
  queue_.start(driver_.layout(), kAll);
  driver_.offer(0, {{kData, 1}});
  driver_.offer(1, {{kData, 1}});
  ASSERT_TRUE(take());
  const auto more = queue_.await_notification();
  ASSERT_TRUE(more);
  EXPECT_TRUE(*more) << "one was there already";
  EXPECT_EQ(driver_.available_event(), 1);
  ASSERT_TRUE(take());
  const auto none = queue_.await_notification();
  ASSERT_TRUE(none);
  EXPECT_FALSE(*none);
  EXPECT_EQ(driver_.available_event(), 2);
}

TEST_F(VirtqueueTest, ADrainedQueueGoesOnElsewhereWhereItWas) {
  for (int i = 0; i < 11; ++i) {
    driver_.offer(2, {{kData, 1}});
    ASSERT_TRUE(take());
    queue_.complete(chain_, 7);
  }
  Virtqueue moved(memory_.ram());
  moved.start(driver_.layout(), kAll, queue_.next());
  driver_.offer(4, {{kData, 1}});
  const auto taken = moved.take(chain_);
  ASSERT_TRUE(taken && *taken);
  moved.complete(chain_, 9);
  EXPECT_EQ(driver_.used_index(), 12);
  EXPECT_EQ(driver_.used(11), (Used{4, 9}));
}

TEST_F(VirtqueueTest, BytesAreCopiedAcrossTheBordersOfParts) {
  memory_.poke_text(kData, "abc");
  memory_.poke_text(TestRam::kHigh, "defgh");
  driver_.offer(
      0, {{kData, 3}, {TestRam::kHigh, 5}, {kData + 100, 2, kWrite}, {kData + 200, 4, kWrite}});
  ASSERT_TRUE(take());
  std::byte middle[5];
  copy_from(memory_.ram(), chain_.readable, 2, middle);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(middle), 5), "cdefg");
  copy_to(memory_.ram(), chain_.writable, 1, middle);
  EXPECT_EQ(memory_.peek_text(kData + 101, 1), "c");
  EXPECT_EQ(memory_.peek_text(kData + 200, 4), "defg");
  EXPECT_EQ(memory_of(memory_.ram(), chain_.readable, 3, 5).size(), 1u);
}

}  // namespace
}  // namespace migrate::vmm::test
