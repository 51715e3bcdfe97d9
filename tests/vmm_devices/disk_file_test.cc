#include "adapters/kvm/vmm/devices/disk_file.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/vmm_devices/temporary_disk.hpp"

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
  ASSERT_TRUE(source.unlock());
  ASSERT_TRUE(target.lock());
  EXPECT_FALSE(source.lock());
  ASSERT_TRUE(target.unlock());
  EXPECT_TRUE(target.unlock()) << "again is fine";
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

}  // namespace
}  // namespace migrate::vmm::test
