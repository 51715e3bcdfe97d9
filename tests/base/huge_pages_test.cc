// The pool of huge pages: what it has for a guest, and what is said when that is too little.
#include "base/huge_pages.hpp"

#include <gmock/gmock.h>
#include <stdlib.h>  // NOLINT: mkdtemp

#include <filesystem>
#include <fstream>

namespace migrate {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

HugePagePool pool_of(std::uint64_t total, std::uint64_t free, std::uint64_t reserved) {
  HugePagePool pool;
  pool.page_bytes = kHugePage2MiB;
  pool.total = total;
  pool.free = free;
  pool.reserved = reserved;
  return pool;
}

TEST(HugePages, AGuestThatFitsIsTaken) {
  EXPECT_TRUE(check_huge_pages(64 << 20, kHugePage2MiB, pool_of(40, 34, 2)));
  EXPECT_TRUE(check_huge_pages(2ull << 30, kHugePage1GiB, pool_of(2, 2, 0)));
  HugePagePool growing = pool_of(0, 0, 0);
  growing.overcommit = 40;
  growing.surplus = 8;
  EXPECT_TRUE(check_huge_pages(64 << 20, kHugePage2MiB, growing));
  growing.surplus = 9;
  EXPECT_FALSE(check_huge_pages(64 << 20, kHugePage2MiB, growing));
}

TEST(HugePages, TooFewAreSaidWithTheNumberMissing) {
  // Free, but promised to others.
  const Status refused = check_huge_pages(64 << 20, kHugePage2MiB, pool_of(40, 34, 4));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoMemory);
  EXPECT_THAT(refused.error().message, HasSubstr("2 are missing"));
  EXPECT_THAT(refused.error().remedy, HasSubstr("echo 42 > "));
  EXPECT_THAT(refused.error().remedy, HasSubstr("nr_hugepages"));
}

TEST(HugePages, MemoryThatIsNotWholePagesOrOfASizeThatIsNotThereIsRefused) {
  const Status part = check_huge_pages(3 << 20, kHugePage2MiB, pool_of(40, 40, 0));
  ASSERT_FALSE(part);
  EXPECT_EQ(part.error().code, ErrorCode::kInvalidArgument);
  EXPECT_FALSE(part.error().remedy.empty());
  const Status none = check_huge_pages(2ull << 30, kHugePage1GiB, std::nullopt);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kUnsupported);
  EXPECT_FALSE(none.error().remedy.empty());
}

class HugePageFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "huge-pages-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }

  void write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text;
  }
  [[nodiscard]] std::optional<HugePagePool> read(std::uint64_t page_bytes) const {
    return read_huge_page_pool(page_bytes, root_.string());
  }

  fs::path root_;
};

TEST_F(HugePageFiles, AreReadBySize) {
  EXPECT_FALSE(read(kHugePage2MiB));
  const std::string pool = "sys/kernel/mm/hugepages/hugepages-2048kB/";
  write(pool + "nr_hugepages", "512\n");
  write(pool + "free_hugepages", "400\n");
  write(pool + "resv_hugepages", "30\n");
  write(pool + "nr_overcommit_hugepages", "7\n");
  write(pool + "surplus_hugepages", "5\n");
  const auto found = read(kHugePage2MiB);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->total, 512U);
  EXPECT_EQ(found->unclaimed(), 370U);
  EXPECT_EQ(found->may_be_added(), 2U);
  EXPECT_TRUE(check_huge_pages(740ull << 20, kHugePage2MiB, found));
  EXPECT_FALSE(read(kHugePage1GiB));
}

TEST_F(HugePageFiles, TheTightestCgroupCounts) {
  const std::string pool = "sys/kernel/mm/hugepages/hugepages-2048kB/";
  write(pool + "nr_hugepages", "512\n");
  write(pool + "free_hugepages", "512\n");
  write("proc/self/cgroup", "1:name=systemd:/x\n0::/user/job\n");
  write("sys/fs/cgroup/user/job/hugetlb.2MB.max", "max\n");
  write("sys/fs/cgroup/user/job/hugetlb.2MB.current", "0\n");
  write("sys/fs/cgroup/user/hugetlb.2MB.max", "67108864\n");
  write("sys/fs/cgroup/user/hugetlb.2MB.current", "4194304\n");
  ASSERT_TRUE(read(kHugePage2MiB));
  EXPECT_EQ(read(kHugePage2MiB)->allowed, 30U);
  write("sys/fs/cgroup/user/job/hugetlb.2MB.rsvd.max", "8388608\n");
  write("sys/fs/cgroup/user/job/hugetlb.2MB.rsvd.current", "0\n");
  const auto found = read(kHugePage2MiB);
  EXPECT_EQ(found->allowed, 4U);
  const Status refused = check_huge_pages(16 << 20, kHugePage2MiB, found);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNoMemory);
  EXPECT_THAT(refused.error().message, HasSubstr("cgroup leaves it 4"));
}

}  // namespace
}  // namespace migrate
