#include "adapters/kvm/vmm/devices/disk_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/vmm_devices/temporary_disk.hpp"
#include "tests/vmm_devices/virtio_driver.hpp"

namespace migrate::vmm::test {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kBytes = 1 << 20;

class DiskFileTest : public ::testing::Test {
 protected:
  DiskFile open(bool read_only = false) {
    auto disk = DiskFile::open({image_.path(), read_only});
    EXPECT_TRUE(disk) << disk.error().to_text();
    return *std::move(disk);
  }
  static ErrorCode refusal(const std::string& path) {
    const auto disk = DiskFile::open({path, false});
    EXPECT_FALSE(disk);
    if (disk) return ErrorCode::kInternal;
    EXPECT_THAT(disk.error().message, HasSubstr(path));
    EXPECT_NE(disk.error().remedy, "");
    return disk.error().code;
  }
  TemporaryDisk image_{kBytes};
};

TEST_F(DiskFileTest, WhatCannotBeADiskIsRefusedWithARemedy) {
  EXPECT_EQ(refusal(image_.folder() + "/none"), ErrorCode::kNotFound);
  EXPECT_EQ(refusal(image_.folder()), ErrorCode::kInvalidArgument);
  EXPECT_EQ(refusal("/dev/null"), ErrorCode::kInvalidArgument);
  image_.resize(1000);
  EXPECT_EQ(refusal(image_.path()), ErrorCode::kInvalidArgument);
  image_.resize(0);
  EXPECT_EQ(refusal(image_.path()), ErrorCode::kInvalidArgument);
}

TEST_F(DiskFileTest, OneWriterOnlyAndItIsNamed) {
  DiskFile first = open();
  DiskFile second = open();
  ASSERT_TRUE(first.lock());
  EXPECT_TRUE(first.lock()) << "again is fine";
  const Status refused = second.lock();
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kBusy);
  EXPECT_THAT(refused.error().message, HasSubstr("process " + std::to_string(::getpid()) + " ("));
  DiskFile reader = open(true);
  EXPECT_FALSE(reader.lock());
}

TEST_F(DiskFileTest, TheLockIsHandedOverAndBack) {
  DiskFile source = open();
  DiskFile target = open();
  ASSERT_TRUE(source.lock());
  ASSERT_TRUE(source.unlock(soon()));
  ASSERT_TRUE(target.lock());
  EXPECT_FALSE(source.lock());
  ASSERT_TRUE(target.unlock(soon()));
  EXPECT_TRUE(target.unlock(soon())) << "again is fine";
  EXPECT_TRUE(source.lock());
}

TEST_F(DiskFileTest, TheLockEndsWithItsHolder) {
  DiskFile left = open();
  {
    DiskFile gone = open();
    ASSERT_TRUE(gone.lock());
    ASSERT_FALSE(left.lock());
  }
  EXPECT_TRUE(left.lock());
}

TEST_F(DiskFileTest, ReadersShare) {
  DiskFile first = open(true);
  DiskFile second = open(true);
  EXPECT_TRUE(first.lock());
  EXPECT_TRUE(second.lock());
  DiskFile writer = open();
  EXPECT_FALSE(writer.lock());
}

TEST_F(DiskFileTest, AnImageResizedMeanwhileIsNotTaken) {
  DiskFile disk = open();
  image_.resize(kBytes / 2);
  const Status locked = disk.lock();
  ASSERT_FALSE(locked);
  EXPECT_EQ(locked.error().code, ErrorCode::kIncompatible);
  image_.resize(kBytes);
  EXPECT_TRUE(open().lock()) << "the lock was not kept";
}

TEST_F(DiskFileTest, BytesGoWhereTheyShallInPieces) {
  DiskFile disk = open();
  std::string a = "first";
  std::string b;
  std::string c = "second";
  iovec out[] = {{a.data(), a.size()}, {b.data(), 0}, {c.data(), c.size()}};
  ASSERT_EQ(disk.write(out, 4090), 0);
  EXPECT_EQ(image_.text(4090, 11), "firstsecond");
  std::string d(4, ' ');
  std::string e(7, ' ');
  iovec in[] = {{d.data(), d.size()}, {e.data(), e.size()}};
  ASSERT_EQ(disk.read(in, 4090), 0);
  EXPECT_EQ(d + e, "firstsecond");
  EXPECT_EQ(disk.flush(), 0);
}

TEST_F(DiskFileTest, TheEndOfTheFileIsAnError) {
  DiskFile disk = open();
  std::string text(1024, ' ');
  iovec in[] = {{text.data(), text.size()}};
  EXPECT_EQ(disk.read(in, kBytes - 512), EIO);
}

TEST_F(DiskFileTest, ZeroedAndDiscardedRangesReadAsZeroAndTheSizeStays) {
  DiskFile disk = open();
  const std::string full(8192, 'x');
  for (const bool unmap : {false, true}) {
    image_.put(4096, full);
    ASSERT_EQ(disk.write_zeroes(4096 + 512, 1024, unmap), 0);
    EXPECT_EQ(image_.text(4096, 2048),
              full.substr(0, 512) + std::string(1024, '\0') + full.substr(0, 512));
  }
  EXPECT_EQ(disk.discard(0, kBytes), 0);
  EXPECT_EQ(std::filesystem::file_size(image_.path()), kBytes);
}

/// Storage that does what a test says.
struct Storage {
  [[nodiscard]] WriteBack::Sync sync() {
    return [this] {
      ++syncs;
      while (hangs) std::this_thread::yield();
      // As the kernel: a failure is told once.
      return error.exchange(0);
    };
  }
  std::atomic<int> syncs{0};
  std::atomic<bool> hangs{false};
  std::atomic<int> error{0};
};

class DiskOnStorage : public ::testing::Test {
 protected:
  static DiskFile open(const DiskFile::Options& options) {
    auto disk = DiskFile::open(options);
    EXPECT_TRUE(disk) << disk.error().to_text();
    return *std::move(disk);
  }
  TemporaryDisk image_{kBytes};
  Storage storage_;
  DiskFile disk_ = open({image_.path(), false, storage_.sync()});
};

TEST_F(DiskOnStorage, AWriteThatWasLostIsToldForGoodAndTheLockStays) {
  ASSERT_TRUE(disk_.lock());
  storage_.error = EIO;
  // In the background: nobody hears of it.
  disk_.begin_write_back();
  ASSERT_TRUE(eventually([&] { return storage_.error == 0; }));
  EXPECT_EQ(disk_.flush(), EIO);
  EXPECT_EQ(disk_.flush(), EIO);
  const Status unlocked = disk_.unlock(soon());
  ASSERT_FALSE(unlocked);
  EXPECT_EQ(unlocked.error().code, ErrorCode::kIo);
  EXPECT_EQ(unlocked.error().sys_errno, EIO);
  EXPECT_THAT(unlocked.error().message, HasSubstr(image_.path()));
  EXPECT_NE(unlocked.error().remedy, "");
  EXPECT_EQ(disk_.write_back(soon()).error().code, ErrorCode::kIo);
  EXPECT_EQ(open({image_.path()}).lock().error().code, ErrorCode::kBusy);
  EXPECT_TRUE(disk_.lock()) << "the guest goes on here";
}

TEST_F(DiskOnStorage, StorageThatHangsIsWaitedForToADeadlineAndTheLockStays) {
  ASSERT_TRUE(disk_.lock());
  storage_.hangs = true;
  const Status late = disk_.unlock(std::chrono::steady_clock::now());
  storage_.hangs = false;
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, ErrorCode::kTimeout);
  EXPECT_NE(late.error().remedy, "");
  EXPECT_EQ(open({image_.path()}).lock().error().code, ErrorCode::kBusy);
  EXPECT_TRUE(disk_.unlock(soon()));
  EXPECT_TRUE(open({image_.path()}).lock());
}

TEST_F(DiskOnStorage, WhatIsWrittenAfterItWasAskedForIsWrittenBackToo) {
  ASSERT_TRUE(disk_.write_back(soon()));
  const int before = storage_.syncs;
  ASSERT_TRUE(disk_.write_back(soon()));
  EXPECT_GT(storage_.syncs, before);
}

TEST_F(DiskOnStorage, AGuestAboutToLeaveIsKeptUpWith) {
  std::string text(kBytes, 'x');
  const auto write_all = [&] {
    for (std::uint64_t bytes = 0; bytes < WriteBack::kEagerBytes; bytes += kBytes) {
      iovec out[] = {{text.data(), text.size()}};
      ASSERT_EQ(disk_.write(out, 0), 0);
    }
  };
  disk_.keep_written_back();
  ASSERT_TRUE(eventually([&] { return storage_.syncs == 1; }));
  write_all();
  EXPECT_TRUE(eventually([&] { return storage_.syncs == 2; }));
}

}  // namespace
}  // namespace migrate::vmm::test
