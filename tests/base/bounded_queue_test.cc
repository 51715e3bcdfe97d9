#include "base/bounded_queue.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>

namespace migrate {
namespace {

using namespace std::chrono_literals;

TEST(BoundedQueue, KeepsOrderAndTakesMoveOnlyItems) {
  BoundedQueue<std::unique_ptr<int>> queue(3);
  for (int round = 0; round < 5; ++round) {
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(queue.push(std::make_unique<int>(i)));
    EXPECT_EQ(queue.size(), 3u);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(**queue.pop(), i);
  }
  EXPECT_FALSE(queue.try_pop());
}

TEST(BoundedQueue, AFullQueueRefusesWithoutTakingTheItem) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  auto first = std::make_unique<int>(1);
  auto second = std::make_unique<int>(2);
  EXPECT_TRUE(queue.try_push(first));
  EXPECT_FALSE(queue.try_push(second));
  EXPECT_NE(second, nullptr);
}

TEST(BoundedQueue, EveryItemArrivesOnceWhateverTheThreads) {
  BoundedQueue<int> queue(4);
  constexpr int kEach = 20'000;
  std::atomic<std::int64_t> sum{0};
  std::atomic<int> count{0};
  std::vector<std::thread> consumers;
  for (int i = 0; i < 2; ++i) {
    consumers.emplace_back([&] {
      while (const auto item = queue.pop()) {
        sum += *item;
        ++count;
      }
    });
  }
  std::vector<std::thread> producers;
  for (int i = 0; i < 2; ++i) {
    producers.emplace_back([&] {
      for (int item = 1; item <= kEach; ++item) ASSERT_TRUE(queue.push(item));
    });
  }
  for (auto& thread : producers) thread.join();
  queue.close();
  for (auto& thread : consumers) thread.join();
  EXPECT_EQ(count, 2 * kEach);
  EXPECT_EQ(sum, std::int64_t{kEach} * (kEach + 1));
  EXPECT_TRUE(queue.finished());
}

TEST(BoundedQueue, CloseLetsConsumersDrain) {
  BoundedQueue<int> queue(2);
  ASSERT_TRUE(queue.push(1));
  queue.close();
  EXPECT_FALSE(queue.push(2));
  EXPECT_FALSE(queue.finished());
  EXPECT_EQ(queue.pop(), 1);
  EXPECT_EQ(queue.pop(), std::nullopt);
  EXPECT_TRUE(queue.finished());
}

TEST(BoundedQueue, CancelDropsItemsAndWakesBothSides) {
  auto item = std::make_shared<int>(1);
  BoundedQueue<std::shared_ptr<int>> full(1);
  BoundedQueue<int> empty(1);
  ASSERT_TRUE(full.push(item));
  std::thread producer([&] { EXPECT_FALSE(full.push(nullptr)); });
  std::thread consumer([&] { EXPECT_FALSE(empty.pop()); });
  full.cancel();
  empty.cancel();
  producer.join();
  consumer.join();
  EXPECT_EQ(item.use_count(), 1);
  EXPECT_FALSE(full.pop());
}

TEST(BoundedQueue, ADeadlineEndsAWaitButNotTheQueue) {
  BoundedQueue<int> queue(1);
  EXPECT_FALSE(queue.pop_until(std::chrono::steady_clock::now() + 1ms));
  EXPECT_FALSE(queue.finished());
  ASSERT_TRUE(queue.push(5));
  EXPECT_EQ(queue.pop_until(std::chrono::steady_clock::now() - 1s), 5);
}

TEST(BoundedQueueDeathTest, NeedsRoomForOne) { EXPECT_DEATH(BoundedQueue<int>(0), "check failed"); }

}  // namespace
}  // namespace migrate
