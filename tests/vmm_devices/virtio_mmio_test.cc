#include "adapters/kvm/vmm/devices/virtio_mmio.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <random>

#include "tests/vmm_devices/virtio_driver.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::HasSubstr;

/// A device without a thread, which remembers what it is told.
class ToyDevice final : public VirtioDevice {
 public:
  std::string name() const override { return "virtio-toy.0"; }
  std::uint32_t type() const override { return 42; }
  std::uint64_t features() const override { return 0x5; }
  std::size_t queues() const override { return 2; }
  std::span<const std::byte> config() const override { return config_; }
  bool config_has_changed() const override { return changed_; }
  void start(VirtioTransport& transport, std::uint64_t features,
             std::span<Virtqueue> queues) override {
    transport_ = &transport;
    features_ = features;
    queues_ = queues;
    ++starts_;
  }
  void stop() override { transport_ = nullptr; }
  void notify(std::size_t queue) override { notified_.push_back(queue); }
  Status quiesce(SteadyTime) override { return {}; }
  void resume() override { ++resumes_; }
  void save(SectionBytes& bytes) const override { bytes.number(std::uint8_t{7}); }
  Status check(SectionCursor& cursor) const override {
    MIGRATE_ASSIGN(const auto value, cursor.number<std::uint8_t>());
    return value == 7 ? Status() : Status(cursor.bad("is of another toy"));
  }

  [[nodiscard]] bool running() const { return transport_ != nullptr; }
  std::array<std::byte, 6> config_ = {std::byte{1}, std::byte{2}, std::byte{3},
                                      std::byte{4}, std::byte{5}, std::byte{6}};
  bool changed_ = false;
  VirtioTransport* transport_ = nullptr;
  std::uint64_t features_ = 0;
  std::span<Virtqueue> queues_;
  std::vector<std::size_t> notified_;
  int starts_ = 0;
  int resumes_ = 0;
};

class VirtioMmioTest : public ::testing::Test {
 protected:
  void bring_up() {
    ASSERT_TRUE(driver_.agree(kVersion1 | kIndirectFeature | 0x4));
    driver_.set_up_queue(0, first_.layout());
    driver_.set_up_queue(1, second_.layout());
    driver_.go();
    ASSERT_TRUE(toy_.running());
  }

  TestRam memory_;
  FakeLine line_;
  ToyDevice toy_;
  VirtioMmio device_{toy_, memory_.ram(), line_};
  VirtioDriver driver_{device_};
  TestQueue first_{memory_, 8, 0};
  TestQueue second_{memory_, 256, 8 * kPageSize};
};

TEST_F(VirtioMmioTest, ItSaysWhatItIs) {
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_MAGIC_VALUE), 0x74726976u);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_VERSION), 2u);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_DEVICE_ID), 42u);
  EXPECT_EQ(driver_.offered(), kVersion1 | kIndirectFeature | kEventIndexFeature | 0x5);
  out32(device_, VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_DEVICE_FEATURES), 0u);
  out32(device_, VIRTIO_MMIO_SHM_SEL, 0);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_SHM_LEN_LOW), 0xffff'ffffu);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_SHM_LEN_HIGH), 0xffff'ffffu);
}

TEST_F(VirtioMmioTest, ADriverBringsItUp) {
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_QUEUE_NUM_MAX), kQueueSizeMax);
  bring_up();
  EXPECT_EQ(toy_.features_, kVersion1 | kIndirectFeature | 0x4);
  ASSERT_EQ(toy_.queues_.size(), 2u);
  EXPECT_TRUE(toy_.queues_[0].started() && toy_.queues_[1].started());
  driver_.notify(1);
  driver_.notify(2);
  EXPECT_EQ(toy_.notified_, std::vector<std::size_t>{1});
  driver_.reset();
  EXPECT_FALSE(toy_.running());
  EXPECT_EQ(driver_.status(), 0u);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_QUEUE_READY), 0u);
  driver_.notify(0);
  EXPECT_EQ(toy_.notified_.size(), 1u);
}

TEST_F(VirtioMmioTest, FeaturesItHasNotOfferedAreNotAgreedOn) {
  EXPECT_FALSE(driver_.agree(kVersion1 | 0x2));
  EXPECT_FALSE(driver_.agree(0x5)) << "the old interface is not spoken";
  EXPECT_FALSE(driver_.agree(kVersion1 | std::uint64_t{1} << 63));
  driver_.go();
  EXPECT_FALSE(toy_.running());
  EXPECT_TRUE(driver_.needs_reset());
  EXPECT_TRUE(driver_.agree(kVersion1 | 0x5));
  out32(device_, VIRTIO_MMIO_DRIVER_FEATURES, 0);
  driver_.go();
  EXPECT_EQ(toy_.features_, kVersion1 | 0x5) << "what was agreed on stays";
}

TEST_F(VirtioMmioTest, AQueueOutsideOfMemoryWantsAReset) {
  ASSERT_TRUE(driver_.agree(kVersion1));
  QueueLayout layout = first_.layout();
  layout.used = GuestAddr{TestRam::kSlotBytes};
  driver_.set_up_queue(0, layout);
  EXPECT_TRUE(driver_.needs_reset());
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_QUEUE_READY), 0u);
  driver_.go();
  EXPECT_FALSE(toy_.running());
  EXPECT_EQ(driver_.acknowledge(), std::uint32_t{VIRTIO_MMIO_INT_CONFIG});
  ASSERT_TRUE(driver_.agree(kVersion1));
  EXPECT_FALSE(driver_.needs_reset());
}

TEST_F(VirtioMmioTest, QueuesOfARunningDeviceStayWhereTheyAre) {
  bring_up();
  out32(device_, VIRTIO_MMIO_QUEUE_SEL, 0);
  out32(device_, VIRTIO_MMIO_QUEUE_USED_LOW, 0xffff'0000);
  out32(device_, VIRTIO_MMIO_QUEUE_NUM, 1);
  EXPECT_FALSE(driver_.needs_reset());
  out32(device_, VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_TRUE(driver_.needs_reset());
}

TEST_F(VirtioMmioTest, QueuesItHasNotGotAreNotThere) {
  out32(device_, VIRTIO_MMIO_QUEUE_SEL, 2);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_QUEUE_NUM_MAX), 0u);
  out32(device_, VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_QUEUE_READY), 0u);
  out32(device_, VIRTIO_MMIO_QUEUE_SEL, ~0u);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_QUEUE_READY), 0u);
}

TEST_F(VirtioMmioTest, TheLineIsHighUntilAllInterruptsAreAcknowledged) {
  bring_up();
  toy_.transport_->interrupt();
  toy_.transport_->needs_reset("the test says so");
  EXPECT_TRUE(line_.high());
  out32(device_, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  EXPECT_TRUE(line_.high());
  EXPECT_EQ(driver_.acknowledge(), std::uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_FALSE(line_.high());
  toy_.transport_->interrupt();
  driver_.reset();
  EXPECT_FALSE(line_.high());
}

TEST_F(VirtioMmioTest, ConfigurationSpaceIsReadInAnySizeAndEndsInZeroes) {
  EXPECT_EQ(in8(device_, VIRTIO_MMIO_CONFIG + 1), 2);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_CONFIG), 0x04030201u);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_CONFIG + 4), 0x0605u);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_CONFIG + 0xe00), 0u);
  out32(device_, VIRTIO_MMIO_CONFIG, 0);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_CONFIG), 0x04030201u);
}

TEST_F(VirtioMmioTest, AccessesOfOtherSizesAreIgnored) {
  out8(device_, VIRTIO_MMIO_STATUS, 1);
  EXPECT_EQ(driver_.status(), 0u);
  EXPECT_EQ(in8(device_, VIRTIO_MMIO_MAGIC_VALUE), 0);
  EXPECT_EQ(in32(device_, VIRTIO_MMIO_VERSION + 2), 0u);
}

TEST_F(VirtioMmioTest, ItsStateMovesAndTheQueuesGoOn) {
  bring_up();
  first_.offer(0, {{16 * kPageSize, 8}});
  Chain chain;
  ASSERT_TRUE(toy_.queues_[0].take(chain));
  toy_.queues_[0].complete(chain, 0);
  toy_.transport_->interrupt();
  const auto section = saved(device_);
  EXPECT_EQ(section.first.name, "vmm.virtio-toy.0");

  ToyDevice toy;
  FakeLine line;
  VirtioMmio moved(toy, memory_.ram(), line);
  for (int attempt = 1; attempt <= 2; ++attempt) {
    ASSERT_TRUE(load(moved, section));
    EXPECT_TRUE(line.high());
    ASSERT_TRUE(toy.running());
    EXPECT_EQ(toy.starts_, attempt);
    EXPECT_EQ(toy.features_, toy_.features_);
    EXPECT_EQ(toy.queues_[0].next(), 1);
    EXPECT_EQ(toy.queues_[1].next(), 0);
  }
  moved.resume();
  EXPECT_EQ(toy.resumes_, 1);
  EXPECT_EQ(saved(moved).second, section.second);
  VirtioDriver driver(moved);
  EXPECT_EQ(driver.status(), driver_.status());
}

TEST_F(VirtioMmioTest, AHalfSetUpDeviceMovesToo) {
  ASSERT_TRUE(driver_.agree(kVersion1));
  driver_.set_up_queue(0, first_.layout());
  ToyDevice toy;
  FakeLine line;
  VirtioMmio moved(toy, memory_.ram(), line);
  ASSERT_TRUE(load(moved, saved(device_)));
  EXPECT_FALSE(toy.running());
  VirtioDriver driver(moved);
  driver.set_up_queue(1, second_.layout());
  driver.go();
  ASSERT_TRUE(toy.running());
  EXPECT_TRUE(toy.queues_[0].started() && toy.queues_[1].started());
}

TEST_F(VirtioMmioTest, ADriverIsToldThatConfigurationSpaceIsAnotherNow) {
  bring_up();
  const auto section = saved(device_);
  const std::uint32_t before = in32(device_, VIRTIO_MMIO_CONFIG_GENERATION);
  ToyDevice toy;
  FakeLine line;
  VirtioMmio same(toy, memory_.ram(), line);
  ASSERT_TRUE(load(same, section));
  EXPECT_FALSE(line.high());
  EXPECT_EQ(in32(same, VIRTIO_MMIO_CONFIG_GENERATION), before) << "it may be reading";

  toy.config_[5] = std::byte{7};
  toy.changed_ = true;
  VirtioMmio other(toy, memory_.ram(), line);
  ASSERT_TRUE(load(other, section));
  EXPECT_TRUE(line.high());
  EXPECT_NE(in32(other, VIRTIO_MMIO_CONFIG_GENERATION), before);
  EXPECT_EQ(VirtioDriver(other).acknowledge(), std::uint32_t{VIRTIO_MMIO_INT_CONFIG});
  EXPECT_FALSE(line.high());
  EXPECT_TRUE(toy.running());
}

TEST_F(VirtioMmioTest, OneThatHasNoDriverYetTellsNobody) {
  ASSERT_TRUE(driver_.agree(kVersion1));
  ToyDevice toy;
  toy.changed_ = true;
  FakeLine line;
  VirtioMmio moved(toy, memory_.ram(), line);
  ASSERT_TRUE(load(moved, saved(device_)));
  EXPECT_FALSE(line.high());
}

TEST_F(VirtioMmioTest, SectionsCutShortAreRefused) {
  bring_up();
  const auto good = saved(device_);
  for (std::size_t size = 0; size < good.second.size(); ++size) {
    auto cut = good;
    cut.second.resize(size);
    EXPECT_FALSE(load(device_, cut)) << size;
    EXPECT_FALSE(toy_.running());
  }
  EXPECT_TRUE(load(device_, good));
  EXPECT_TRUE(toy_.running());
}

TEST_F(VirtioMmioTest, WhateverAPeerSendsTheQueuesStayInMemory) {
  bring_up();
  const auto good = saved(device_);
  std::mt19937 random(1);
  int accepted = 0;
  int refused = 0;
  for (int i = 0; i < 20'000; ++i) {
    auto bad = good;
    for (auto flips = 1 + random() % 3; flips > 0; --flips) {
      bad.second[random() % bad.second.size()] = static_cast<std::byte>(random());
    }
    const Status loaded = load(device_, bad);
    ++(loaded ? accepted : refused);
    if (!loaded || !toy_.running()) continue;
    for (Virtqueue& queue : toy_.queues_) {
      Chain chain;
      if (!queue.started()) continue;
      if (const auto taken = queue.take(chain); taken && *taken) queue.complete(chain, 0);
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(refused, 100);
}

TEST_F(VirtioMmioTest, FeaturesThatAreMissingHereAreNamed) {
  bring_up();
  auto section = saved(device_);
  section.second[15] |= std::byte{2};  // Bit 1 of the driver's features.
  const Status loaded = load(device_, section);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(loaded.error().message, HasSubstr("virtio-toy.0"));
}

}  // namespace
}  // namespace migrate::vmm::test
