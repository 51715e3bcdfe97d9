// Random descriptor tables, most of them wrong, judged by the queue and by a naive reading of the
// standard that looks at everything first and decides then.
#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <vector>

#include "tests/vmm_devices/test_queue.hpp"

namespace migrate::vmm::test {
namespace {

constexpr std::uint16_t kSize = 8;
constexpr std::uint64_t kTables = 8 * kPageSize;
constexpr std::uint64_t kTableBytes = 8 * sizeof(TestDescriptor);

bool is_memory(std::uint64_t address, std::uint64_t bytes) {
  for (const std::uint64_t base : {std::uint64_t{0}, TestRam::kHigh}) {
    if (address >= base && address < base + TestRam::kSlotBytes &&
        bytes <= base + TestRam::kSlotBytes - address) {
      return true;
    }
  }
  return false;
}

std::vector<TestDescriptor> table_at(const TestRam& memory, std::uint64_t address,
                                     std::uint64_t entries) {
  std::vector<TestDescriptor> table;
  for (std::uint64_t i = 0; i < entries; ++i) {
    table.push_back(memory.peek<TestDescriptor>(address + i * sizeof(TestDescriptor)));
  }
  return table;
}

/// Entries in the order of their links; nullopt when the links leave the table or never end.
std::optional<std::vector<TestDescriptor>> linked(const std::vector<TestDescriptor>& table,
                                                  std::size_t first) {
  std::vector<TestDescriptor> chain;
  std::vector<bool> seen(table.size());
  for (std::size_t i = first;; i = chain.back().next) {
    if (i >= table.size() || seen[i]) return std::nullopt;
    seen[i] = true;
    chain.push_back(table[i]);
    // What comes after an indirect table is judged by the caller.
    if ((chain.back().flags & (kNext | kIndirect)) != kNext) return chain;
  }
}

std::optional<Chain> oracle(const TestRam& memory, const QueueLayout& layout, std::uint16_t head) {
  auto parts = linked(table_at(memory, layout.descriptors.value, layout.size), head);
  if (!parts) return std::nullopt;
  if ((parts->back().flags & kIndirect) != 0) {
    const TestDescriptor last = parts->back();
    parts->pop_back();
    if ((last.flags & kNext) != 0 || last.bytes == 0 || last.bytes % 16 != 0 ||
        last.bytes / 16 > kQueueSizeMax || !is_memory(last.address, last.bytes)) {
      return std::nullopt;
    }
    const auto inner = linked(table_at(memory, last.address, last.bytes / 16), 0);
    if (!inner || (inner->back().flags & kIndirect) != 0) return std::nullopt;
    parts->insert(parts->end(), inner->begin(), inner->end());
  }
  Chain chain;
  chain.head = head;
  for (const TestDescriptor& part : *parts) {
    const bool writable = (part.flags & kWrite) != 0;
    if (part.bytes == 0 || !is_memory(part.address, part.bytes)) return std::nullopt;
    if (!writable && !chain.writable.empty()) return std::nullopt;
    (writable ? chain.writable : chain.readable).push_back({GuestAddr{part.address}, part.bytes});
    (writable ? chain.writable_bytes : chain.readable_bytes) += part.bytes;
  }
  return chain;
}

class Chooser {
 public:
  explicit Chooser(std::uint32_t seed) : random_(seed) {}
  std::uint64_t below(std::uint64_t limit) { return random_() % limit; }
  bool one_in(std::uint64_t n) { return below(n) == 0; }

  TestDescriptor descriptor(bool inner) {
    TestDescriptor entry;
    entry.flags = static_cast<std::uint16_t>(one_in(2) ? kNext : 0);
    if (one_in(3)) entry.flags |= kWrite;
    entry.next = static_cast<std::uint16_t>(below(one_in(20) ? 65536 : kSize));
    if (one_in(inner ? 16 : 4)) {
      entry.flags |= kIndirect;
      if (!one_in(8)) entry.flags &= static_cast<std::uint16_t>(~kNext);
      entry.address = kTables + below(4) * kTableBytes + (one_in(10) ? 8 : 0);
      entry.bytes = static_cast<std::uint32_t>(one_in(8) ? below(200) : 16 * (1 + below(8)));
      return entry;
    }
    entry.address = (one_in(3) ? TestRam::kHigh : 0) + below(TestRam::kSlotBytes);
    if (one_in(25)) entry.address = TestRam::kSlotBytes - 1 - below(64);
    entry.bytes = static_cast<std::uint32_t>(one_in(25) ? below(3) : 1 + below(512));
    if (one_in(60)) entry.address = below(2) - below(600);
    return entry;
  }

 private:
  std::mt19937 random_;
};

TEST(VirtqueueOracle, TheQueueTakesExactlyWhatANaiveReadingTakes) {
  int taken_count = 0;
  int refused_count = 0;
  for (std::uint32_t seed = 1; seed <= 20'000; ++seed) {
    Chooser choose(seed);
    static TestRam memory;
    TestQueue driver(memory, kSize, 0);
    for (std::uint64_t i = 0; i < kSize; ++i) driver.descriptor(i, choose.descriptor(false));
    for (std::uint64_t i = 0; i < 4 * 8 + 2; ++i) {
      memory.poke(kTables + i * sizeof(TestDescriptor), choose.descriptor(true));
    }
    const auto head = static_cast<std::uint16_t>(choose.below(kSize));
    driver.offer(head);
    Virtqueue queue(memory.ram());
    queue.start(driver.layout(), {true, true});
    Chain chain;
    const auto taken = queue.take(chain);
    const auto expected = oracle(memory, driver.layout(), head);
    ASSERT_EQ(taken.has_value(), expected.has_value())
        << "seed " << seed << ": " << (taken ? "it was taken" : taken.error().message);
    if (!expected) {
      ++refused_count;
      continue;
    }
    ++taken_count;
    ASSERT_TRUE(*taken) << seed;
    ASSERT_EQ(chain.readable, expected->readable) << seed;
    ASSERT_EQ(chain.writable, expected->writable) << seed;
    ASSERT_EQ(chain.readable_bytes, expected->readable_bytes) << seed;
    ASSERT_EQ(chain.writable_bytes, expected->writable_bytes) << seed;
  }
  EXPECT_GT(taken_count, 2000);
  EXPECT_GT(refused_count, 2000);
}

}  // namespace
}  // namespace migrate::vmm::test
