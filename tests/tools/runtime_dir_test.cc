#include "tools/migrate/runtime_dir.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "tests/tools/scratch_folder.hpp"

namespace migrate::tool {
namespace {

using testing::ScratchFolder;

RuntimeDir open_in(const ScratchFolder& scratch) {
  auto folder = RuntimeDir::open(scratch.path() / "run");
  EXPECT_TRUE(folder);
  return *std::move(folder);
}

TEST(RuntimeDir, IsMadeForItsOwnerAlone) {
  const ScratchFolder scratch;
  const RuntimeDir folder = open_in(scratch);
  struct stat found {};
  ASSERT_EQ(stat(folder.path().c_str(), &found), 0);
  EXPECT_EQ(found.st_mode & 07777, 0700u);
}

TEST(RuntimeDir, AFolderOthersMayWriteIsRefused) {
  const ScratchFolder scratch;
  ASSERT_EQ(chmod(scratch.path().c_str(), 0777), 0);
  const auto folder = RuntimeDir::open(scratch.path());
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code, ErrorCode::kPermission);
}

TEST(RuntimeDir, APathTooLongForSocketsIsRefusedAtOnce) {
  const ScratchFolder scratch;
  const auto folder = RuntimeDir::open(scratch.path() / std::string(80, 'x'));
  ASSERT_FALSE(folder);
  EXPECT_EQ(folder.error().code, ErrorCode::kInvalidArgument);
}

TEST(RuntimeDir, NamesThatAreNoFileNamesAreRefused) {
  for (const char* name : {"", ".", "..", ".hidden", "-rf", "a/b", "a b", "a\n", "é",
                           "0123456789012345678901234567890123456789012345678901234567890123x"}) {
    EXPECT_FALSE(check_guest_name(name)) << name;
  }
  for (const char* name : {"a", "web-1", "A.b_c", "0"}) EXPECT_TRUE(check_guest_name(name)) << name;
}

TEST(RuntimeDir, ANameHasOneHolder) {
  const ScratchFolder scratch;
  const RuntimeDir folder = open_in(scratch);
  auto first = folder.take_name("web");
  ASSERT_TRUE(first);
  EXPECT_TRUE(folder.is_name_taken("web"));
  const auto second = folder.take_name("web");
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kNameTaken);
  EXPECT_TRUE(folder.take_name("other"));
  first->release();
  EXPECT_FALSE(folder.is_name_taken("web"));
  EXPECT_TRUE(folder.take_name("web"));
}

TEST(RuntimeDir, AReleasedNameLeavesNothing) {
  const ScratchFolder scratch;
  const RuntimeDir folder = open_in(scratch);
  { const auto lock = folder.take_name("web"); }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(RuntimeDir, SocketsOfDeadProcessesAreSweptAndOthersListed) {
  const ScratchFolder scratch;
  const RuntimeDir folder = open_in(scratch);
  const auto lock = folder.take_name("alive");
  std::ofstream(folder.socket_path("alive")) << "";
  std::ofstream(folder.socket_path("dead")) << "";
  std::ofstream(folder.path() / "unrelated.txt") << "";
  EXPECT_EQ(folder.guests(), std::vector<std::string>{"alive"});
  EXPECT_FALSE(std::filesystem::exists(folder.socket_path("dead")));
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "dead.lock"));
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "unrelated.txt"));
}

}  // namespace
}  // namespace migrate::tool
