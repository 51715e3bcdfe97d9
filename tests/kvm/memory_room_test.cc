// A guest that does not fit is refused beforehand, with the limit that is in its way.
#include "adapters/kvm/memory_room.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace migrate::kvm {
namespace {

namespace fs = std::filesystem;

class MemoryRoomTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "memory-room-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((folder_ / path).parent_path());
    std::ofstream(folder_ / path) << text;
  }
  [[nodiscard]] MemoryRoom room() const {
    return memory_room((folder_ / "proc").string(), (folder_ / "cgroup").string());
  }

  fs::path folder_;
};

KvmMachine machine_of(std::uint64_t bytes) {
  KvmMachine machine;
  machine.slots.push_back({0, {0}, bytes, Backing::kMemfd, false});
  return machine;
}

TEST_F(MemoryRoomTest, IsWhatTheHostHasFree) {
  write("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    1000 kB\nSwapFree: 24 kB\n");
  EXPECT_EQ(room().bytes, 1024U * 1024);
  EXPECT_EQ(room().limited_by, "this host's free memory");
}

TEST_F(MemoryRoomTest, IsWhatTheTightestCgroupLeaves) {
  write("proc/meminfo", "MemAvailable: 10485760 kB\n");
  write("proc/self/cgroup", "1:name=systemd:/x\n0::/user/job\n");
  write("cgroup/user/memory.max", "5000000\n");
  write("cgroup/user/memory.current", "4000000\n");
  write("cgroup/user/memory.stat", "anon 1\ninactive_file 500000\n");
  write("cgroup/user/job/memory.max", "max\n");
  write("cgroup/user/job/memory.current", "1\n");
  EXPECT_EQ(room().bytes, 1'500'000U);
  EXPECT_EQ(room().limited_by, "the memory limit of this process's cgroup");
}

TEST_F(MemoryRoomTest, FilesThatAreMissingOrStrangeLimitNothing) {
  EXPECT_GT(room().bytes, 1ull << 60);
  write("proc/meminfo", "MemAvailable: lots\n");
  write("proc/self/cgroup", "0::relative");
  EXPECT_GT(room().bytes, 1ull << 60);
}

TEST_F(MemoryRoomTest, AGuestThatDoesNotFitIsRefusedWithTheNumbers) {
  const MemoryRoom room{64ull << 20, "this host's free memory"};
  EXPECT_TRUE(check_memory_room(machine_of(32ull << 20), room));
  const Status refused = check_memory_room(machine_of(64ull << 20), room);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoMemory);
  EXPECT_NE(refused.error().message.find("64 MiB"), std::string::npos);
  EXPECT_FALSE(refused.error().remedy.empty());
}

TEST_F(MemoryRoomTest, SlotsThatAreNotWholeHugePagesAreRefused) {
  KvmMachine machine = machine_of(6 << 20);
  machine.slots[0].guest_address = {1 << 20};
  for (const std::uint64_t page_bytes : {std::uint64_t{2} << 20, std::uint64_t{1} << 30}) {
    const Status refused = check_memory_room(machine, MemoryRoom{}, page_bytes);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::kIncompatible);
    EXPECT_FALSE(refused.error().remedy.empty());
  }
}

TEST_F(MemoryRoomTest, TheFileSizeLimitIsRespected) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit tight = before;
  tight.rlim_cur = 1 << 20;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  const Status refused = check_memory_room(machine_of(2 << 20), MemoryRoom{});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoMemory);
}

}  // namespace
}  // namespace migrate::kvm
