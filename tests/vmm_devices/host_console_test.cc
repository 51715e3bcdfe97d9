#include "adapters/kvm/vmm/devices/host_console.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include "base/mutex.hpp"
#include "tests/vmm_devices/temporary_disk.hpp"
#include "tests/vmm_devices/virtio_driver.hpp"

namespace migrate::vmm::test {
namespace {

void put(HostConsole& console, const std::string& text) {
  console.write(std::as_bytes(std::span(text)));
}

/// What was typed, taken a byte at a time.
class Typed {
 public:
  std::size_t take(std::span<const std::byte> bytes) {
    MutexLock lock(mutex_);
    text_ += static_cast<char>(bytes.front());
    return 1;
  }
  [[nodiscard]] std::string text() {
    MutexLock lock(mutex_);
    return text_;
  }

 private:
  Mutex mutex_;
  std::string text_ MIGRATE_GUARDED_BY(mutex_);
};

TEST(HostConsole, AFileIsAppendedTo) {
  TemporaryDisk file(0);
  for (const char* const text : {"first\n", "second\n"}) {
    const auto console = HostConsole::open({ConsoleKind::kFile, file.path(), true});
    ASSERT_TRUE(console);
    put(**console, text);
    EXPECT_TRUE((*console)->start_input([](auto) { return std::size_t{0}; })) << "there is none";
  }
  EXPECT_EQ(file.text(0, 13), "first\nsecond\n");
  const auto none = HostConsole::open({ConsoleKind::kFile, file.folder() + "/no/file", true});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, ErrorCode::kNotFound);
}

TEST(HostConsole, ATerminalHasTwoEnds) {
  const auto console = HostConsole::open({ConsoleKind::kTerminal, "", true});
  if (!console) GTEST_SKIP() << console.error().to_text();
  Typed typed;
  ASSERT_TRUE((*console)->start_input([&](auto bytes) { return typed.take(bytes); }));
  for (int i = 0; i < 2; ++i) {
    // Who looks in may leave and come back.
    const Fd user(::open((*console)->terminal().c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
    ASSERT_TRUE(user);
    put(**console, "login: ");
    pollfd wait{user.get(), POLLIN, 0};
    ASSERT_EQ(::poll(&wait, 1, 60'000), 1);
    char bytes[16] = {};
    EXPECT_EQ(::read(user.get(), bytes, sizeof bytes), 7);
    EXPECT_STREQ(bytes, "login: ");
    ASSERT_EQ(::write(user.get(), "root\r", 5), 5);
    const std::string all = i == 0 ? "root\r" : "root\rroot\r";
    EXPECT_TRUE(eventually([&] { return typed.text() == all; })) << typed.text();
  }
}

TEST(HostConsole, OutputThatNobodyReadsIsDroppedAndNotWaitedFor) {
  const auto console = HostConsole::open({ConsoleKind::kTerminal, "", true});
  if (!console) GTEST_SKIP() << console.error().to_text();
  const std::string text(4096, 'x');
  for (int i = 0; i < 100; ++i) put(**console, text);
  EXPECT_GT((*console)->dropped_bytes(), 0u);
}

TEST(HostConsole, ItClosesWhileTheGuestTakesNoInput) {
  const auto console = HostConsole::open({ConsoleKind::kTerminal, "", true});
  if (!console) GTEST_SKIP() << console.error().to_text();
  std::atomic<int> offered{0};
  ASSERT_TRUE((*console)->start_input([&](auto) {
    ++offered;
    return std::size_t{0};
  }));
  const Fd user(::open((*console)->terminal().c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC));
  ASSERT_EQ(::write(user.get(), "a", 1), 1);
  EXPECT_TRUE(eventually([&] { return offered > 1; })) << "it is offered again";
}

}  // namespace
}  // namespace migrate::vmm::test
