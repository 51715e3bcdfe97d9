// Fd and EventFd: descriptors are closed once, by their owner.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>

#include "base/event_fd.hpp"
#include "base/fd.hpp"

namespace migrate {
namespace {

bool is_open(int fd) { return ::fcntl(fd, F_GETFD) >= 0; }
bool is_readable(int fd) {
  pollfd waiting{fd, POLLIN, 0};
  return ::poll(&waiting, 1, 0) == 1;
}

TEST(Fd, ClosesWhatItOwns) {
  int number = -1;
  {
    const Fd fd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    number = fd.get();
    ASSERT_TRUE(fd);
    EXPECT_TRUE(is_open(number));
  }
  EXPECT_FALSE(is_open(number));
}

TEST(Fd, MovesInsteadOfClosingTwice) {
  Fd first(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int number = first.get();
  Fd second(std::move(first));
  EXPECT_EQ(second.get(), number);
  Fd third(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const int replaced = third.get();
  third = std::move(second);
  EXPECT_FALSE(is_open(replaced));
  EXPECT_EQ(third.get(), number);
  const int given_away = third.release();
  third.reset();
  EXPECT_TRUE(is_open(given_away));
  ::close(given_away);
}

TEST(EventFd, StaysUpUntilCleared) {
  auto event = EventFd::create();
  ASSERT_TRUE(event);
  EXPECT_FALSE(is_readable(event->fd()));
  event->set();
  event->set();
  EXPECT_TRUE(is_readable(event->fd()));
  EXPECT_TRUE(is_readable(event->fd()));
  event->clear();
  EXPECT_FALSE(is_readable(event->fd()));
  event->clear();
  EXPECT_FALSE(is_readable(event->fd()));
  EXPECT_EQ(::fcntl(event->fd(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

}  // namespace
}  // namespace migrate
