#include "adapters/kvm/vmm/devices/virtio_blk.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/virtio_blk.h>

#include <atomic>
#include <cerrno>

#include "tests/vmm_devices/temporary_disk.hpp"
#include "tests/vmm_devices/virtio_driver.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsSupersetOf;

constexpr std::uint64_t kBytes = 1 << 20;
constexpr std::uint64_t kFlush = std::uint64_t{1} << VIRTIO_BLK_F_FLUSH;
constexpr std::uint64_t kHeader = 16 * kPageSize;
constexpr std::uint64_t kStatus = 17 * kPageSize;
constexpr std::uint64_t kData = 18 * kPageSize;

/// A disk with its driver.
struct Machine {
  Machine(TestRam& memory, TestQueue& queue, const std::string& path, bool read_only = false,
          WriteBack::Sync sync = {})
      : disk_file(*DiskFile::open({path, read_only, std::move(sync)})),
        blk(*VirtioBlk::create("virtio-blk.0", "disk-of-the-test", memory.ram(), disk_file)),
        mmio(*blk, memory.ram(), line),
        driver(mmio),
        ring(queue) {}
  void bring_up(std::uint64_t features = kVersion1 | kIndirectFeature | kFlush) {
    ASSERT_TRUE(driver.agree(features));
    driver.set_up_queue(0, ring.layout());
    driver.go();
  }
  DiskFile disk_file;
  std::unique_ptr<VirtioBlk> blk;
  FakeLine line;
  VirtioMmio mmio;
  VirtioDriver driver;
  TestQueue& ring;
};

class VirtioBlkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    disk_.bring_up();
    disk_.mmio.resume();
  }
  void header(std::uint32_t type, std::uint64_t sector) {
    memory_.poke(kHeader, virtio_blk_outhdr{type, 0, sector});
    memory_.poke(kStatus, std::uint8_t{0xee});
  }
  /// Offers a request and waits until it is done.
  std::uint8_t run(Machine& machine, std::vector<TestDescriptor> parts) {
    const auto before = ring_.used_index();
    ring_.offer(0, std::move(parts));
    machine.driver.notify(0);
    EXPECT_TRUE(eventually([&] { return ring_.used_index() != before; }));
    return memory_.peek<std::uint8_t>(kStatus);
  }
  std::uint8_t request(Machine& machine, std::uint32_t type, std::uint64_t sector,
                       std::vector<TestDescriptor> data) {
    header(type, sector);
    data.insert(data.begin(), {kHeader, 16});
    data.push_back({kStatus, 1, kWrite});
    return run(machine, std::move(data));
  }
  std::uint8_t request(std::uint32_t type, std::uint64_t sector, std::vector<TestDescriptor> data) {
    return request(disk_, type, sector, std::move(data));
  }
  std::uint8_t range(std::uint32_t type, virtio_blk_discard_write_zeroes segment) {
    memory_.poke(kData, segment);
    return request(type, 0, {{kData, sizeof segment}});
  }

  TemporaryDisk image_{kBytes};
  TestRam memory_;
  TestQueue ring_{memory_, 16, 0};
  Machine disk_{memory_, ring_, image_.path()};
};

TEST_F(VirtioBlkTest, ConfigurationSaysHowLargeItIs) {
  EXPECT_EQ(in32(disk_.mmio, VIRTIO_MMIO_CONFIG), kBytes / 512);
  EXPECT_EQ(in32(disk_.mmio, VIRTIO_MMIO_CONFIG + offsetof(virtio_blk_config, blk_size)), 512u);
  EXPECT_EQ(in32(disk_.mmio, VIRTIO_MMIO_CONFIG + offsetof(virtio_blk_config, seg_max)), 254u);
}

TEST_F(VirtioBlkTest, WhatIsWrittenIsOnTheDiskAndIsReadBack) {
  memory_.poke_text(kData, std::string(512, 'a') + std::string(512, 'b'));
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 3, {{kData, 100}, {kData + 100, 924}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(image_.text(3 * 512, 1024), std::string(512, 'a') + std::string(512, 'b'));
  EXPECT_EQ(ring_.used(0), (Used{0, 1}));
  EXPECT_EQ(request(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 4,
                    {{TestRam::kHigh + 4000, 200, kWrite}, {TestRam::kHigh, 312, kWrite}}),
            VIRTIO_BLK_S_OK);
  EXPECT_EQ(memory_.peek_text(TestRam::kHigh + 4000, 200), std::string(200, 'b'));
  EXPECT_EQ(memory_.peek_text(TestRam::kHigh, 312), std::string(312, 'b'));
  EXPECT_EQ(ring_.used(2), (Used{0, 513}));
  EXPECT_TRUE(eventually([this] { return disk_.line.high(); }));
}

TEST_F(VirtioBlkTest, AWriteThatWasLostInTheBackgroundIsToldToEachFlush) {
  disk_.driver.reset();
  // As the kernel: told once.
  std::atomic<int> error{EIO};
  Machine lossy(memory_, ring_, image_.path(), false, [&error] { return error.exchange(0); });
  lossy.bring_up();
  lossy.mmio.resume();
  lossy.disk_file.begin_write_back();
  ASSERT_TRUE(eventually([&] { return error == 0; }));
  EXPECT_EQ(request(lossy, VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(lossy, VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_IOERR);
}

TEST_F(VirtioBlkTest, PagesThatTheDiskWroteAreMarked) {
  (void)memory_.take_marked();
  ASSERT_EQ(request(VIRTIO_BLK_T_IN, 0, {{TestRam::kHigh + 4000, 512, kWrite}}), VIRTIO_BLK_S_OK);
  ASSERT_TRUE(disk_.mmio.quiesce(soon()));
  EXPECT_THAT(memory_.take_marked(),
              IsSupersetOf({TestRam::page(TestRam::kHigh), TestRam::page(TestRam::kHigh) + 1,
                            TestRam::page(kStatus), std::uint64_t{2}}));
}

TEST_F(VirtioBlkTest, ItsIdentityIsTwentyBytes) {
  memory_.poke_text(kData, std::string(20, '?'));
  EXPECT_EQ(request(VIRTIO_BLK_T_GET_ID, 0, {{kData, 20, kWrite}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(memory_.peek_text(kData, 20), std::string("disk-of-the-test") + std::string(4, '\0'));
}

TEST_F(VirtioBlkTest, WhatTheDiskCannotDoIsAnErrorOfTheRequest) {
  const std::uint64_t end = kBytes / 512;
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, end, {{kData, 512, kWrite}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, end - 1, {{kData, 1024, kWrite}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, ~0ull, {{kData, 512}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, ~0ull / 512 + 1, {{kData, 512}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_OUT, 0, {{kData, 511}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(99, 0, {{kData, 512}}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, end - 1, {{kData, 512, kWrite}}), VIRTIO_BLK_S_OK);
  EXPECT_FALSE(disk_.driver.needs_reset());
}

TEST_F(VirtioBlkTest, ErrorsOfTheHostReachTheGuest) {
  image_.resize(512);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 1, {{kData, 512, kWrite}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_IN, 0, {{kData, 512, kWrite}}), VIRTIO_BLK_S_OK);
}

TEST_F(VirtioBlkTest, RangesAreZeroedAndDiscarded) {
  image_.put(0, std::string(4096, 'x'));
  EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, {1, 2, 0}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, {4, 1, 1}), VIRTIO_BLK_S_OK);
  const std::string x(512, 'x');
  const std::string zero(512, '\0');
  EXPECT_EQ(image_.text(0, 6 * 512), x + zero + zero + x + zero + x);
  EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, {0, 8, 0}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(range(VIRTIO_BLK_T_DISCARD, {0, 8, 1}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, {0, 8, 2}), VIRTIO_BLK_S_UNSUPP);
  EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, {2047, 2, 0}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(range(VIRTIO_BLK_T_WRITE_ZEROES, {~0ull, ~0u, 0}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(VIRTIO_BLK_T_DISCARD, 0, {{kData, 17}}), VIRTIO_BLK_S_IOERR);
}

TEST_F(VirtioBlkTest, ADriverWithoutFlushesWritesThrough) {
  disk_.bring_up(kVersion1);
  TestQueue ring(memory_, 16, 0);
  memory_.poke_text(kData, std::string(512, 'w'));
  header(VIRTIO_BLK_T_OUT, 0);
  memory_.poke(ring.layout().used.value + 2, std::uint16_t{0});
  ring.offer(0, {{kHeader, 16}, {kData, 512}, {kStatus, 1, kWrite}});
  disk_.driver.notify(0);
  ASSERT_TRUE(eventually([&] { return ring.used_index() == 1; }));
  EXPECT_EQ(memory_.peek<std::uint8_t>(kStatus), VIRTIO_BLK_S_OK);
  EXPECT_EQ(image_.text(0, 512), std::string(512, 'w'));
}

TEST_F(VirtioBlkTest, AReadOnlyDiskIsNotWritten) {
  Machine machine(memory_, ring_, image_.path(), true);
  disk_.driver.reset();
  EXPECT_NE(machine.driver.offered() & (std::uint64_t{1} << VIRTIO_BLK_F_RO), 0u);
  machine.bring_up();
  machine.mmio.resume();
  EXPECT_EQ(request(machine, VIRTIO_BLK_T_OUT, 0, {{kData, 512}}), VIRTIO_BLK_S_IOERR);
  memory_.poke(kData, virtio_blk_discard_write_zeroes{0, 1, 0});
  EXPECT_EQ(request(machine, VIRTIO_BLK_T_WRITE_ZEROES, 0, {{kData, 16}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(request(machine, VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(request(machine, VIRTIO_BLK_T_IN, 0, {{kData, 512, kWrite}}), VIRTIO_BLK_S_OK);
}

TEST_F(VirtioBlkTest, ARequestWithoutFormStopsTheDeviceUntilItIsReset) {
  for (const auto& parts : {std::vector<TestDescriptor>{{kHeader, 15}, {kStatus, 1, kWrite}},
                            std::vector<TestDescriptor>{{kHeader, 16}},
                            std::vector<TestDescriptor>{{kStatus, 513, kWrite}},
                            std::vector<TestDescriptor>{{~0ull, 16}, {kStatus, 1, kWrite}}}) {
    disk_.driver.reset();
    TestQueue ring(memory_, 16, 0);
    memory_.poke(ring.layout().used.value + 2, std::uint16_t{0});
    memory_.poke(ring.layout().available.value + 2, std::uint16_t{0});
    disk_.bring_up();
    header(VIRTIO_BLK_T_FLUSH, 0);
    ring.offer(0, parts);
    disk_.driver.notify(0);
    ASSERT_TRUE(eventually([this] { return disk_.driver.needs_reset(); }));
    ring.offer(4, {{kHeader, 16}, {kStatus, 1, kWrite}});
    disk_.driver.notify(0);
    ASSERT_TRUE(disk_.mmio.quiesce(soon()));
    EXPECT_EQ(ring.used_index(), 0) << "it does nothing more";
    disk_.mmio.resume();
  }
}

TEST_F(VirtioBlkTest, AQuiescedDiskLeavesRequestsInTheRingAndGoesOnWithThem) {
  ASSERT_TRUE(disk_.mmio.quiesce(soon()));
  ASSERT_TRUE(disk_.mmio.quiesce(soon())) << "again is fine";
  header(VIRTIO_BLK_T_FLUSH, 0);
  for (std::uint16_t i = 0; i < 3; ++i) {
    ring_.offer(static_cast<std::uint16_t>(2 * i), {{kHeader, 16}, {kStatus, 1, kWrite}});
  }
  disk_.driver.notify(0);
  (void)memory_.take_marked();
  const auto section = saved(disk_.mmio);
  EXPECT_EQ(ring_.used_index(), 0);
  EXPECT_TRUE(memory_.take_marked().empty());

  Machine moved(memory_, ring_, image_.path());
  ASSERT_TRUE(load(moved.mmio, section));
  EXPECT_EQ(ring_.used_index(), 0) << "not before it is resumed";
  moved.mmio.resume();
  EXPECT_TRUE(eventually([this] { return ring_.used_index() == 3; }));
  EXPECT_TRUE(eventually([&] { return moved.line.high(); }));
}

TEST_F(VirtioBlkTest, UnderLoadNoRequestIsLostOrDoneTwiceByAMove) {
  // The guest goes on offering while the disk is moved to and fro.
  constexpr std::uint16_t kRequests = 400;
  std::thread guest([this] {
    for (std::uint16_t i = 0; i < kRequests; ++i) {
      if (!eventually([&] { return static_cast<std::uint16_t>(i - ring_.used_index()) < 4; })) {
        return;
      }
      const auto slot = static_cast<std::uint16_t>(i % 4);
      const std::uint64_t place = 30 * kPageSize + slot * 1024;
      memory_.poke(place, virtio_blk_outhdr{VIRTIO_BLK_T_OUT, 0, i});
      memory_.poke_text(place + 512, std::string(256, static_cast<char>('a' + i % 26)));
      memory_.poke_text(place + 768, std::string(256, static_cast<char>('a' + i % 26)));
      ring_.offer(static_cast<std::uint16_t>(3 * slot),
                  {{place, 16}, {place + 512, 512}, {kStatus, 1, kWrite}});
      disk_.driver.notify(0);
    }
  });
  Machine other(memory_, ring_, image_.path());
  Machine* here = &disk_;
  Machine* there = &other;
  int moves = 0;
  while (ring_.used_index() < kRequests && !HasFailure()) {
    ASSERT_TRUE(here->mmio.quiesce(soon()));
    const auto section = saved(here->mmio);
    ASSERT_TRUE(load(there->mmio, section));
    there->mmio.resume();
    std::swap(here, there);
    // Notifications reach the first only.
    here->blk->notify(0);
    ++moves;
  }
  guest.join();
  EXPECT_GT(moves, 1);
  for (std::uint16_t i = 0; i < kRequests; ++i) {
    ASSERT_EQ(image_.text(i * 512u, 512), std::string(512, static_cast<char>('a' + i % 26))) << i;
  }
}

TEST_F(VirtioBlkTest, AnotherDiskIsNotTakenForThisOne) {
  const auto section = saved(disk_.mmio);
  TemporaryDisk smaller(kBytes / 2);
  Machine other(memory_, ring_, smaller.path());
  const Status loaded = load(other.mmio, section);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().code, ErrorCode::kIncompatible);
  EXPECT_THAT(loaded.error().message, HasSubstr(smaller.path()));
  Machine read_only(memory_, ring_, image_.path(), true);
  EXPECT_FALSE(load(read_only.mmio, section));
}

}  // namespace
}  // namespace migrate::vmm::test
