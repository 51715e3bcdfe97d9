#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <functional>
#include <thread>

#include "checkpoint/image_output.hpp"
#include "tests/checkpoint/writer_bed.hpp"

namespace migrate::checkpoint {
namespace {

struct Ends {
  Fd read, write;
};
Ends make_pipe(int flags) {
  int fds[2] = {-1, -1};
  EXPECT_EQ(::pipe2(fds, O_CLOEXEC | flags), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}
Ends make_sockets(int flags) {
  int fds[2] = {-1, -1};
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, fds), 0);
  return {Fd(fds[0]), Fd(fds[1])};
}

struct Case {
  const char* name;
  std::function<Ends()> make;
};
class AnyStream : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(
    All, AnyStream,
    testing::Values(Case{"Pipe", [] { return make_pipe(0); }},
                    Case{"NonBlockingPipe", [] { return make_pipe(O_NONBLOCK); }},
                    Case{"Socket", [] { return make_sockets(0); }},
                    Case{"NonBlockingSocket", [] { return make_sockets(SOCK_NONBLOCK); }}),
    [](const auto& one) { return one.param.name; });

/// The reading end's other half of O_NONBLOCK is of no interest.
void make_blocking(const Fd& fd) { ::fcntl(fd.get(), F_SETFL, 0); }

void wait_until_full(const Fd& read) {
  int before = -1;
  for (int now = 0; now == 0 || now != before; ::ioctl(read.get(), FIONREAD, &now)) {
    before = now;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

TEST_P(AnyStream, CarriesAnImageOfSeveralLanes) {
  Ends ends = GetParam().make();
  make_blocking(ends.read);
  const Memory memory = mixed_memory({5000, 300}, 9);
  Memory got = {std::vector<std::byte>(memory[0].size()), std::vector<std::byte>(memory[1].size())};
  std::thread reader([&] {
    auto stream = ImageStreamReader::create(ends.read.get());
    ASSERT_TRUE(stream) << stream.error().to_text();
    const auto place = [&](std::uint16_t region, std::uint64_t page) {
      return got[region].data() + page * kPageSize;
    };
    const auto end = (*stream)->read_all(
        {.write =
             [&](std::uint16_t region, std::uint64_t page, const std::byte* content) {
               std::memcpy(place(region, page), content, kPageSize);
               return Status();
             },
         .read =
             [&](std::uint16_t region, std::uint64_t page, std::byte* into) {
               std::memcpy(into, place(region, page), kPageSize);
               return Status();
             },
         .zero =
             [&](std::uint16_t region, std::uint64_t page) {
               std::memset(place(region, page), 0, kPageSize);
               return Status();
             }});
    ASSERT_TRUE(end) << end.error().to_text();
  });
  auto output = make_stream_output(ends.write.get());
  ASSERT_TRUE(output) << output.error().to_text();
  const auto writer = writer_of(std::move(*output), memory, {kZstd, nullptr});
  ASSERT_TRUE(writer);
  add_all(*writer, memory, 3);
  finish(*writer);
  ends.write.reset();
  reader.join();
  EXPECT_EQ(got, memory);
}

TEST_P(AnyStream, AReaderThatHasGoneIsAnErrorAndNoSignal) {
  Ends ends = GetParam().make();
  auto output = make_stream_output(ends.write.get());
  ASSERT_TRUE(output);
  auto lane = (*output)->make_lane();
  ASSERT_TRUE(lane);
  ASSERT_TRUE((*lane)->buffer(kBlockAlign));
  ends.read.reset();
  const Status written = (*lane)->write((*output)->reserve(kBlockAlign), kBlockAlign);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::kIo);
  EXPECT_EQ(written.error().sys_errno, EPIPE);
  EXPECT_FALSE((*output)->publish());
  sigset_t pending;
  ASSERT_EQ(::sigpending(&pending), 0);
  EXPECT_EQ(::sigismember(&pending, SIGPIPE), 0);
}

TEST_P(AnyStream, AnInterruptEndsAWaitForTheReader) {
  const Ends ends = GetParam().make();
  auto output = make_stream_output(ends.write.get());
  ASSERT_TRUE(output);
  std::thread writer([&] {
    auto lane = (*output)->make_lane();
    ASSERT_TRUE(lane);
    Status written;
    while (written) {
      ASSERT_TRUE((*lane)->buffer(1 << 20));
      written = (*lane)->write((*output)->reserve(1 << 20), 1 << 20);
    }
    EXPECT_EQ(written.error().code, ErrorCode::kCancelled);
  });
  wait_until_full(ends.read);
  (*output)->interrupt();
  writer.join();
}

TEST(StreamOutput, AnInterruptEndsAWaitForAnEarlierBlock) {
  const Ends ends = make_pipe(0);
  auto output = make_stream_output(ends.write.get());
  ASSERT_TRUE(output);
  static_cast<void>((*output)->reserve(kBlockAlign));
  std::thread later([&] {
    auto lane = (*output)->make_lane();
    ASSERT_TRUE(lane);
    ASSERT_TRUE((*lane)->buffer(kBlockAlign));
    const Status written = (*lane)->write((*output)->reserve(kBlockAlign), kBlockAlign);
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().code, ErrorCode::kCancelled);
  });
  (*output)->interrupt();
  later.join();
}

TEST(StreamOutput, ASignalThatWaitedAlreadyWaitsOn) {
  Ends ends = make_pipe(0);
  auto output = make_stream_output(ends.write.get());
  ASSERT_TRUE(output);
  std::thread([&] {
    sigset_t pipe;
    ::sigemptyset(&pipe);
    ::sigaddset(&pipe, SIGPIPE);
    ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &pipe, nullptr), 0);
    ASSERT_EQ(::pthread_kill(::pthread_self(), SIGPIPE), 0);
    auto lane = (*output)->make_lane();
    ASSERT_TRUE(lane);
    ASSERT_TRUE((*lane)->buffer(kBlockAlign));
    ends.read.reset();
    EXPECT_FALSE((*lane)->write((*output)->reserve(kBlockAlign), kBlockAlign));
    const timespec now{};
    EXPECT_EQ(::sigtimedwait(&pipe, nullptr, &now), SIGPIPE);
  }).join();
}

TEST(StreamOutput, ADescriptorToReadFromIsRefused) {
  const Ends ends = make_pipe(0);
  const auto output = make_stream_output(ends.read.get());
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().code, ErrorCode::kInvalidArgument);
}

}  // namespace
}  // namespace migrate::checkpoint
