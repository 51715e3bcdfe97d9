// How bytes are moved where io_uring is forbidden or short of something, and sends without a copy.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <thread>

#include "base/log.hpp"
#include "base/mutex.hpp"
#include "tests/transport/channel_io.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;

SocketOptions by(SocketIo io) {
  SocketOptions options;
  options.io = io;
  return options;
}

ChannelPair pair_by(SocketIo io) {
  auto pair = make_channel_pair(by(io));
  EXPECT_TRUE(pair);
  return {std::move(pair->first), std::move(pair->second)};
}

/// What the library logs while this lives.
class Logged {
 public:
  Logged() {
    set_log_sink(LogLevel::kInfo, [this](LogLevel, std::string_view line) {
      MutexLock lock(mutex_);
      text_.append(line).append("\n");
    });
  }
  ~Logged() { set_log_sink(LogLevel::kOff, {}); }
  Logged(const Logged&) = delete;
  Logged& operator=(const Logged&) = delete;
  std::string text() {
    MutexLock lock(mutex_);
    return text_;
  }

 private:
  Mutex mutex_;
  std::string text_ MIGRATE_GUARDED_BY(mutex_);
};

/// From now on this process gets `sys_errno` for io_uring_setup(), as in a container's sandbox.
void forbid_io_uring(unsigned sys_errno) {
  std::array<sock_filter, 4> program = {
      sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, __NR_io_uring_setup},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | sys_errno},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog filter{program.size(), program.data()};
  ASSERT_EQ(::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  ASSERT_EQ(::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter), 0);
}

void expect_transfer(const ChannelPair& pair) {
  const auto bytes = random_bytes(4'000'000);
  std::vector<std::byte> received(bytes.size());
  std::jthread sender([&] { EXPECT_TRUE(send_bytes(*pair.near, bytes)); });
  EXPECT_TRUE(receive_all(*pair.far, one_part(received)));
  EXPECT_TRUE(received == bytes);
}

/// Runs `work` in a child, whose failures fail the test.
template <typename Work>
void in_child(const Work& work) {
  EXPECT_EXIT(
      {
        work();
        std::fflush(nullptr);
        ::_exit(testing::Test::HasFailure() ? 1 : 0);
      },
      testing::ExitedWithCode(0), "");
}

TEST(SocketIoDeathTest, WhereASandboxForbidsIoUringAskingForItFailsAndTheRestWorks) {
  for (const unsigned sys_errno : {unsigned{EPERM}, unsigned{ENOSYS}}) {
    in_child([sys_errno] {
      forbid_io_uring(sys_errno);
      const auto pair = make_channel_pair(by(SocketIo::kUring));
      ASSERT_FALSE(pair);
      EXPECT_EQ(pair.error().code, ErrorCode::kUnsupported);
      EXPECT_THAT(pair.error().remedy, HasSubstr("poll"));
      const auto acceptor = make_tcp_acceptor("127.0.0.1", "0", by(SocketIo::kUring));
      ASSERT_FALSE(acceptor);
      EXPECT_EQ(acceptor.error().code, ErrorCode::kUnsupported);
      const auto channel =
          make_tcp_connector("127.0.0.1", "1", by(SocketIo::kUring))->connect(kLong);
      ASSERT_FALSE(channel);
      EXPECT_EQ(channel.error().code, ErrorCode::kUnsupported);
      expect_transfer(pair_by(SocketIo::kAuto));
      expect_transfer(pair_by(SocketIo::kPoll));
    });
  }
}

TEST(SocketIoDeathTest, AChannelGoesOnByPollWhereIoUringIsForbiddenLater) {
  if (!uring_works()) GTEST_SKIP() << kNoUring;
  in_child([] {
    Logged logged;
    const ChannelPair pair = pair_by(SocketIo::kUring);
    forbid_io_uring(EPERM);
    expect_transfer(pair);
    EXPECT_THAT(logged.text(), HasSubstr("goes on without io_uring"));
  });
}

TEST(SocketIoDeathTest, AChannelGoesOnByPollWhereNoDescriptorIsLeft) {
  if (!uring_works()) GTEST_SKIP() << kNoUring;
  in_child([] {
    Logged logged;
    const ChannelPair pair = pair_by(SocketIo::kUring);
    const int next = ::dup(0);
    const rlimit limit{static_cast<rlim_t>(next), static_cast<rlim_t>(next)};
    ::close(next);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
    expect_transfer(pair);
    EXPECT_THAT(logged.text(), HasSubstr("ulimit -n"));
  });
}

// One end each of a TCP connection, the near one sending without a copy.
ChannelPair zero_copy_pair(int receive_buffer_bytes = 0) {
  SocketOptions options;
  options.receive_buffer_bytes = receive_buffer_bytes;
  auto acceptor = make_tcp_acceptor("127.0.0.1", "0", options);
  EXPECT_TRUE(acceptor);
  options.zero_copy = true;
  const std::string address = (*acceptor)->address();
  auto near = make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1), options)
                  ->connect(kLong);
  auto far = (*acceptor)->accept(kLong);
  EXPECT_TRUE(near);
  EXPECT_TRUE(far);
  return {*std::move(near), *std::move(far)};
}

TEST(ZeroCopy, IsSwitchedOffWhereTheKernelCopiesAndSaysSoOnce) {
  Logged logged;
  const ChannelPair pair = zero_copy_pair();
  expect_transfer(pair);
  expect_transfer(pair);
  const std::string text = logged.text();
  const auto first = text.find("switched off");
  ASSERT_NE(first, std::string::npos) << text;
  EXPECT_EQ(text.find("switched off", first + 1), std::string::npos) << text;
}

TEST(ZeroCopy, WhatHasNoneSendsCopies) {
  Logged logged;
  SocketOptions options;
  options.zero_copy = true;
  auto pair = make_channel_pair(options);
  ASSERT_TRUE(pair);
  expect_transfer({std::move(pair->first), std::move(pair->second)});
  EXPECT_THAT(logged.text(), HasSubstr("has no zero-copy sends"));
}

/// Small enough for the send's own queue, too large for the peer's: all of it is given to the
/// kernel, which keeps the memory until the peer reads.
constexpr std::size_t kHeldBytes = 512 << 10;
constexpr int kSmallBuffer = 16 << 10;

TEST(ZeroCopy, ASendEndsOnlyWhenThePeerHasIt) {
  const ChannelPair pair = zero_copy_pair(kSmallBuffer);
  const auto bytes = random_bytes(kHeldBytes);
  std::atomic<bool> ended{false};
  std::jthread sender([&] {
    EXPECT_TRUE(send_bytes(*pair.near, bytes));
    ended = true;
  });
  std::vector<std::byte> buffer(4096);
  for (std::size_t left = kHeldBytes; left > 0;) {
    // The peer's buffers hold a fraction of this.
    EXPECT_FALSE(ended && left > kHeldBytes / 2);
    const auto count = pair.far->receive(one_part(buffer), kLong);
    ASSERT_TRUE(count);
    left -= *count;
  }
}

TEST(ZeroCopy, NothingWrittenAfterASendThatFailedGetsOut) {
  for (const ErrorCode code : {ErrorCode::kCancelled, ErrorCode::kTimeout, ErrorCode::kLinkLost}) {
    SCOPED_TRACE(to_string(code));
    const ChannelPair pair = zero_copy_pair(kSmallBuffer);
    std::vector<std::byte> bytes(kHeldBytes, std::byte{1});
    std::jthread sender([&] {
      const Status sent =
          send_bytes(*pair.near, bytes,
                     code == ErrorCode::kTimeout ? std::chrono::nanoseconds(kShort) : kLong);
      std::fill(bytes.begin(), bytes.end(), std::byte{2});
      ASSERT_FALSE(sent);
      EXPECT_EQ(sent.error().code, code);
    });
    std::byte first{};
    ASSERT_TRUE(receive_all(*pair.far, one_part({&first, 1})));
    if (code == ErrorCode::kCancelled) pair.near->interrupt();
    if (code == ErrorCode::kLinkLost) pair.near->shutdown();
    sender.join();
    std::vector<std::byte> buffer(1 << 16);
    std::size_t total = 1;
    Result<std::size_t> count = std::size_t{0};
    while ((count = pair.far->receive(one_part(buffer), kLong)) && *count > 0) {
      total += *count;
      EXPECT_EQ(std::count(buffer.begin(), buffer.begin() + std::ptrdiff_t(*count), std::byte{2}),
                0);
    }
    // Not the end of a whole stream.
    ASSERT_FALSE(count);
    EXPECT_EQ(count.error().code, ErrorCode::kLinkLost);
    EXPECT_LT(total, kHeldBytes);
  }
}

TEST(ZeroCopy, AReceiverBesideItIsNotDisturbed) {
  const ChannelPair pair = zero_copy_pair(kSmallBuffer);
  const auto bytes = random_bytes(2'000'000);
  std::jthread sender([&] { EXPECT_TRUE(send_bytes(*pair.near, bytes)); });
  std::jthread answers([&] {
    std::vector<std::byte> received(1000);
    EXPECT_TRUE(receive_all(*pair.near, one_part(received)));
  });
  std::vector<std::byte> received(bytes.size());
  EXPECT_TRUE(receive_all(*pair.far, one_part(received)));
  EXPECT_TRUE(received == bytes);
  EXPECT_TRUE(send_bytes(*pair.far, std::span(bytes).first(1000)));
}

TEST(ZeroCopyDeathTest, WithoutLockedMemoryACallIsCopied) {
  in_child([] {
    const ChannelPair pair = zero_copy_pair(kSmallBuffer);
    // Root may lock without a limit unless it gives that up.
    const rlimit none{0, 0};
    ASSERT_EQ(::setrlimit(RLIMIT_MEMLOCK, &none), 0);
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    std::array<__user_cap_data_struct, 2> nothing{};
    ASSERT_EQ(::syscall(SYS_capset, &header, nothing.data()), 0);
    expect_transfer(pair);
  });
}

}  // namespace
}  // namespace migrate::test
