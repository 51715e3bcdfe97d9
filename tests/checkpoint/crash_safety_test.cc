// Whatever call fails and whenever the process is killed: the former image is there bit for bit, or
// the new one whole.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <set>
#include <thread>

#include "checkpoint/file_output.hpp"
#include "checkpoint/image_writer.hpp"
#include "tests/checkpoint/faulty_calls.hpp"
#include "tests/checkpoint/writer_bed.hpp"

namespace migrate::checkpoint {
namespace {

class Folder : public TestFolder {
 public:
  [[nodiscard]] std::string image() const { return file("guest.img"); }
};

using Fault = FaultyCalls::Fault;

constexpr std::uint64_t kPages = 600;

std::vector<std::byte> memory_of(std::uint64_t seed) {
  std::vector<std::byte> memory(kPages * kPageSize);
  std::mt19937_64 random(seed);
  // A zero page here and there.
  for (std::uint64_t page = 0; page < kPages; ++page) {
    if (page % 7 == 3) continue;
    for (std::size_t i = 0; i < kPageSize; i += 8) {
      const std::uint64_t value = random();
      std::memcpy(memory.data() + page * kPageSize + i, &value, 8);
    }
  }
  return memory;
}

Status checkpoint(const std::string& path, std::uint64_t seed, const FileOutputOptions& options,
                  FileCalls& calls) {
  MIGRATE_ASSIGN(auto output, make_file_output(path, options, calls));
  MIGRATE_ASSIGN(const ImageHeader header, new_header(nullptr));
  ImageDescription description;
  description.guest.name = "guest";
  description.guest.regions = {{{0, 0, 0}, {{0}, kPages}, Backing::kAnonymous}};
  MIGRATE_ASSIGN(const auto writer,
                 ImageWriter::create(std::move(output), header, description, {}));
  {
    const std::vector<std::byte> memory = memory_of(seed);
    MIGRATE_ASSIGN(const auto lane, writer->make_lane());
    for (std::uint64_t page = 0; page < kPages; ++page) {
      MIGRATE_TRY(lane->add(0, page, memory.data() + page * kPageSize));
    }
    MIGRATE_TRY(lane->flush());
  }
  MIGRATE_TRY(writer->state({}));
  MIGRATE_ASSIGN([[maybe_unused]] const auto written, writer->finish());
  return {};
}

/// The image opens, and has the memory of `seed`.
testing::AssertionResult holds(const std::string& path, std::uint64_t seed) {
  const auto chain = ImageChain::open(path);
  if (!chain) return testing::AssertionFailure() << chain.error().to_text();
  auto reader = ImageReader::create(*chain);
  if (!reader) return testing::AssertionFailure() << reader.error().to_text();
  std::vector<std::byte> into(kPages * kPageSize);
  if (const Status read = (*reader)->read(0, 0, kPages, into.data()); !read) {
    return testing::AssertionFailure() << read.error().to_text();
  }
  if (into != memory_of(seed)) return testing::AssertionFailure() << "other memory";
  return testing::AssertionSuccess();
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

constexpr std::uint64_t kFormer = 1;
constexpr std::uint64_t kNew = 2;
constexpr std::uint64_t kNext = 3;

struct Case {
  const char* name;
  FileOutputOptions file;
  bool former;  // There is an image of that name already.
};

class CrashSafety : public testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().former) {
      ASSERT_TRUE(checkpoint(folder_.image(), kFormer, GetParam().file, kernel_file_calls()));
      former_ = bytes_of(folder_.image());
    }
    // How many calls there are to be swept over.
    const Folder other;
    FaultyCalls calls;
    if (GetParam().former) {
      ASSERT_TRUE(checkpoint(other.image(), kFormer, GetParam().file, kernel_file_calls()));
    }
    ASSERT_TRUE(checkpoint(other.image(), kNew, GetParam().file, calls));
    calls_ = calls.calls();
    ASSERT_GT(calls_, 10);
  }

  /// As it was before.
  void expect_former() {
    if (GetParam().former) {
      EXPECT_EQ(bytes_of(folder_.image()), former_);
    } else {
      EXPECT_FALSE(std::filesystem::exists(folder_.image()));
    }
  }
  [[nodiscard]] bool is_former() const {
    if (!GetParam().former) return !std::filesystem::exists(folder_.image());
    return bytes_of(folder_.image()) == former_;
  }
  [[nodiscard]] std::set<std::string> former_names() const {
    return GetParam().former ? std::set<std::string>{"guest.img"} : std::set<std::string>{};
  }
  /// For the next fault.
  void put_former_back() {
    std::filesystem::remove(folder_.image());
    if (GetParam().former) {
      std::ofstream(folder_.image(), std::ios::binary) << former_;
    }
  }
  void expect_failure(const Status& done, int sys_errno) {
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().code, ErrorCode::kIo);
    EXPECT_EQ(done.error().sys_errno, sys_errno);
    EXPECT_NE(done.error().message.find(folder_.image()), std::string::npos)
        << done.error().to_text();
    EXPECT_FALSE(done.error().remedy.empty());
    expect_former();
    EXPECT_EQ(folder_.names(), former_names());
  }

  Folder folder_;
  std::string former_;
  int calls_ = 0;
};

TEST_P(CrashSafety, AnErrorOfAnyCallChangesNothing) {
  for (const int sys_errno : {EIO, ENOSPC, EDQUOT}) {
    for (int at = 0; at < calls_; ++at) {
      FaultyCalls calls(Fault::kError, at, sys_errno);
      const Status done = checkpoint(folder_.image(), kNew, GetParam().file, calls);
      SCOPED_TRACE(std::string(calls.which()) + " " + std::to_string(at) + ": " +
                   std::to_string(sys_errno));
      ASSERT_TRUE(calls.happened());
      if (calls.which() == "unlinkat") {
        // Of the former file, when the new one is there for good.
        ASSERT_TRUE(done) << done.error().to_text();
        EXPECT_TRUE(holds(folder_.image(), kNew));
        ASSERT_TRUE(checkpoint(folder_.image(), kNext, GetParam().file, kernel_file_calls()));
        EXPECT_EQ(folder_.names(), std::set<std::string>{"guest.img"});
        put_former_back();
      } else {
        expect_failure(done, sys_errno);
      }
    }
  }
}

TEST_P(CrashSafety, AShortWriteIsFinished) {
  int happened = 0;
  for (int at = 0; at < calls_; ++at) {
    FaultyCalls calls(Fault::kShort, at);
    const Status done = checkpoint(folder_.image(), kNew, GetParam().file, calls);
    SCOPED_TRACE(std::string(calls.which()) + " " + std::to_string(at));
    ASSERT_TRUE(done) << done.error().to_text();
    EXPECT_TRUE(holds(folder_.image(), kNew));
    EXPECT_EQ(folder_.names(), std::set<std::string>{"guest.img"});
    happened += calls.happened() ? 1 : 0;
    put_former_back();
  }
  EXPECT_GT(happened, 3);
}

TEST_P(CrashSafety, AnInterruptedCallIsMadeAgain) {
  for (const int sys_errno : {EINTR, EAGAIN}) {
    for (int at = 0; at < calls_; ++at) {
      FaultyCalls calls(Fault::kError, at, sys_errno);
      const Status done = checkpoint(folder_.image(), kNew, GetParam().file, calls);
      const std::string& which = calls.which();
      const bool may_be =
          which == "pwrite" || which == "completed" || (which == "fsync" && sys_errno == EINTR);
      if (!may_be) continue;
      SCOPED_TRACE(which + " " + std::to_string(at));
      ASSERT_TRUE(done) << done.error().to_text();
      EXPECT_TRUE(holds(folder_.image(), kNew));
    }
  }
}

/// Runs `work` in a process of its own; what it returned, or nothing when it was killed.
std::optional<int> in_a_child(const std::function<int()>& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  return std::nullopt;
}

/// What a killed process had open, io_uring lets go a little later.
void wait_until_unlocked(const Folder& folder) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  for (const std::string& name : folder.names()) {
    const Fd fd(::open((folder.path() + "/" + name).c_str(), O_RDONLY | O_CLOEXEC));
    while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
      ASSERT_LT(std::chrono::steady_clock::now(), deadline) << name;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

TEST_P(CrashSafety, AKillAtAnyCallLeavesTheFormerOrTheNewImage) {
  int former = 0;
  int made = 0;
  for (const Fault fault : {Fault::kKillBefore, Fault::kKillAfter}) {
    for (int at = 0; at < calls_; ++at) {
      SCOPED_TRACE(at);
      const auto ended = in_a_child([&] {
        FaultyCalls calls(fault, at);
        return checkpoint(folder_.image(), kNew, GetParam().file, calls) ? 0 : 1;
      });
      ASSERT_FALSE(ended);
      if (is_former()) {
        ++former;
      } else {
        ++made;
        EXPECT_TRUE(holds(folder_.image(), kNew));
      }
      wait_until_unlocked(folder_);
      ASSERT_TRUE(checkpoint(folder_.image(), kNext, GetParam().file, kernel_file_calls()));
      EXPECT_TRUE(holds(folder_.image(), kNext));
      EXPECT_EQ(folder_.names(), std::set<std::string>{"guest.img"});
      put_former_back();
    }
  }
  EXPECT_GT(former, 10);
  EXPECT_GT(made, 1);
}

TEST_P(CrashSafety, AFileAtItsLimitIsAnErrorAndNoSignal) {
  const auto ended = in_a_child([&] {
    const rlimit limit{.rlim_cur = 1 << 20, .rlim_max = 1 << 20};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
    const Status done = checkpoint(folder_.image(), kNew, GetParam().file, kernel_file_calls());
    if (done) return 3;
    if (done.error().sys_errno != EFBIG) return 4;
    return done.error().remedy.find("ulimit -f") == std::string::npos ? 5 : 0;
  });
  EXPECT_EQ(ended, 0);
  expect_former();
  EXPECT_EQ(folder_.names(), former_names());
}

TEST_P(CrashSafety, AFullFileSystemSaysHowMuchToFree) {
  const auto ended = in_a_child([&] {
    // Seen by this process only, gone with it.
    const std::string there = folder_.path() + "/small";
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mkdir(there.c_str(), 0700) != 0 ||
        ::mount("tmpfs", there.c_str(), "tmpfs", 0, "size=1m") != 0) {
      return 2;
    }
    std::ofstream(there + "/guest.img") << "former";
    const Status done =
        checkpoint(there + "/guest.img", kNew, GetParam().file, kernel_file_calls());
    if (done) return 3;
    if (done.error().sys_errno != ENOSPC) return 4;
    if (done.error().remedy.find("free more than ") != 0 ||
        done.error().remedy.find(there) == std::string::npos) {
      return 5;
    }
    if (bytes_of(there + "/guest.img") != "former") return 6;
    const auto names = std::filesystem::directory_iterator(there);
    return std::distance(begin(names), end(names)) == 1 ? 0 : 7;
  });
  EXPECT_EQ(ended, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, CrashSafety,
    testing::Values(Case{"UringOverFormer", {}, true}, Case{"UringNew", {}, false},
                    Case{"UringBuffered", {.direct = false}, true},
                    Case{"PwriteOverFormer", {.uring = false}, true},
                    Case{"PwriteBufferedNew", {.direct = false, .uring = false}, false}),
    [](const auto& one) { return one.param.name; });

TEST(CrashSafetyOfOthers, AFileThatIsBeingWrittenIsNoLeftover) {
  const Folder folder;
  auto first = make_file_output(folder.image());
  ASSERT_TRUE(first);
  auto second = make_file_output(folder.image());
  ASSERT_TRUE(second);
  EXPECT_EQ(folder.names().size(), 2u);
  ASSERT_TRUE((*first)->publish());
  ASSERT_TRUE((*second)->publish());
  EXPECT_EQ(folder.names(), std::set<std::string>{"guest.img"});
}

TEST(CrashSafetyOfOthers, OnlyLeftoversOfTheSameNameAreRemoved) {
  const Folder folder;
  const std::set<std::string> keep = {".guest.img.0123456789abcdeg.partial", ".guest.img.partial",
                                      ".guest.imgx.0123456789abcdef.partial", "guest.img.partial"};
  for (const std::string& name : keep) std::ofstream(folder.path() + "/" + name) << "x";
  std::ofstream(folder.path() + "/.guest.img.0123456789abcdef.partial") << "x";
  { ASSERT_TRUE(make_file_output(folder.image())); }
  EXPECT_EQ(folder.names(), keep);
}

TEST(CrashSafetyOfOthers, PlacesThatCannotBeWrittenAreTold) {
  const Folder folder;
  const auto none = make_file_output(folder.path() + "/none/guest.img");
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
  EXPECT_FALSE(none.error().remedy.empty());
  for (const std::string& path : {folder.path(), std::string("/dev/null"), folder.path() + "/"}) {
    const auto made = make_file_output(path);
    ASSERT_FALSE(made) << path;
    EXPECT_EQ(made.error().code, ErrorCode::kInvalidArgument);
    EXPECT_FALSE(made.error().remedy.empty());
  }
  std::filesystem::create_symlink("elsewhere", folder.path() + "/link");
  EXPECT_FALSE(make_file_output(folder.path() + "/link"));
}

TEST(CrashSafetyOfOthers, MemoryIsNobodyElsesToRead) {
  const Folder folder;
  ASSERT_TRUE(checkpoint(folder.image(), kNew, {}, kernel_file_calls()));
  struct stat about = {};
  ASSERT_EQ(::stat(folder.image().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 07777, 0600u);
}

}  // namespace
}  // namespace migrate::checkpoint
