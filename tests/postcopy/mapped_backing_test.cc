// Which memory can be filled lazily, and in which units.
#include "postcopy/mapped_backing.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "base/fd.hpp"
#include "migrate/memory.hpp"
#include "postcopy/lazy_target.hpp"
#include "tests/postcopy/guest_ram.hpp"

namespace migrate::postcopy {
namespace {

using ::testing::HasSubstr;

constexpr std::size_t kBytes = 16 * kPageSize;

/// Some mapping, as a guest's memory.
class Mapped final : public PageSink {
 public:
  Mapped(int protection, int flags, int fd)
      : memory_(::mmap(nullptr, kBytes, protection, flags, fd, 0)) {}
  ~Mapped() override { ::munmap(memory_, kBytes); }
  Mapped(const Mapped&) = delete;
  Mapped& operator=(const Mapped&) = delete;
  [[nodiscard]] std::byte* begin() { return static_cast<std::byte*>(memory_); }

  Status update_regions(const RegionDelta&) override { return {}; }
  Status write(const RegionId&, PageRange, std::span<const std::byte>) override { return {}; }
  Status zero(const RegionId&, PageRange) override { return {}; }
  Status read(const RegionId&, PageRange, std::span<std::byte>) override { return {}; }
  std::span<std::byte> mapped(const RegionId&) override { return {begin(), kBytes}; }

 private:
  void* memory_;
};

Status possible(PageSink& pages) {
  return LazyTarget::possible(pages, std::vector{Region{{0, 1, 0}, {{0}, 16}, Backing::kUnknown}});
}

void expect_refused(PageSink& pages, const std::string& why) {
  const Status refused = possible(pages);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
  EXPECT_THAT(refused.error().message, HasSubstr(why));
  EXPECT_NE(refused.error().remedy, "");
}

constexpr int kReadWrite = PROT_READ | PROT_WRITE;

TEST(MappedBacking, AnonymousMemoryIsPossiblePrivateOrShared) {
  Mapped own(kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  Mapped shared(kReadWrite, MAP_SHARED | MAP_ANONYMOUS, -1);
  EXPECT_TRUE(possible(own));
  EXPECT_TRUE(possible(shared));
}

TEST(MappedBacking, SomeOfItMayBeMappedInAnotherWay) {
  Mapped own(kReadWrite, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  ASSERT_EQ(::madvise(own.begin() + 4 * kPageSize, kPageSize, MADV_DONTDUMP), 0);
  EXPECT_TRUE(possible(own));
  ASSERT_EQ(::munmap(own.begin() + 4 * kPageSize, kPageSize), 0);
  expect_refused(own, "mapped only in part");
}

TEST(MappedBacking, AFileOnADiskIsRefused) {
  std::FILE* const file = std::tmpfile();
  ASSERT_NE(file, nullptr);
  ASSERT_EQ(::ftruncate(::fileno(file), kBytes), 0);
  Mapped shared(kReadWrite, MAP_SHARED, ::fileno(file));
  expect_refused(shared, "file");
  std::fclose(file);
}

TEST(MappedBacking, APrivateViewOfAMemfdIsRefused) {
  const Fd file(::memfd_create("guest", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(file.get(), kBytes), 0);
  Mapped own(kReadWrite, MAP_PRIVATE, file.get());
  expect_refused(own, "private mapping of the file");
}

TEST(MappedBacking, SharedMemoryThatIsLockedIsRefused) {
  Mapped shared(kReadWrite, MAP_SHARED | MAP_ANONYMOUS, -1);
  // Not mlock(), which does nothing under sanitizers.
  ASSERT_EQ(::syscall(SYS_mlock, shared.begin(), kBytes), 0);
  expect_refused(shared, "locked");
}

TEST(MappedBacking, MemoryThatCannotBeWrittenIsRefused) {
  Mapped own(PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
  expect_refused(own, "not writable");
}

TEST(MappedBacking, PagesOf1GiBAreRefusedWithARemedy) {
  constexpr std::string_view kText =
      "40000000-80000000 rw-p 00000000 00:0f 1234       /anon_hugepage (deleted)\n"
      "Size:            1048576 kB\n"
      "KernelPageSize:  1048576 kB\n"
      "MMUPageSize:     1048576 kB\n"
      "VmFlags: rd wr mr mw me ac de ht \n"
      "80000000-80001000 rw-p 00000000 00:00 0 \n"
      "KernelPageSize:        4 kB\n"
      "VmFlags: rd wr mr mw me ac \n";
  const auto mapped = MappedBackings::parse(kText);
  ASSERT_TRUE(mapped) << mapped.error().to_text();
  const auto huge = mapped->of({0x40000000, 0x80000000}, "it");
  ASSERT_TRUE(huge) << huge.error().to_text();
  EXPECT_EQ(*huge, (MappedBacking{false, true, std::uint64_t{1} << 30}));
  const auto small = mapped->of({0x80000000, 0x80001000}, "it");
  ASSERT_TRUE(small);
  EXPECT_EQ(*small, MappedBacking{});
  const auto both = mapped->of({0x40000000, 0x80001000}, "it");
  ASSERT_FALSE(both);
  EXPECT_THAT(both.error().message, HasSubstr("several kinds"));
}

}  // namespace
}  // namespace migrate::postcopy
