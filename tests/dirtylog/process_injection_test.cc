// System calls made inside another process: it must not be able to tell.
#include <gtest/gtest.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <sstream>
#include <string_view>
#include <thread>

#include "memory/process_status.hpp"
#include "memory/remote_call.hpp"
#include "tests/dirtylog/writer_client.hpp"

namespace migrate::testing {
namespace {

/// What a call that waits came to.
struct Waited {
  long result = -99;
  int error = -99;
  std::uint64_t took_us = 0;
  std::string rest;
};

Waited parse(const std::string& text) {
  Waited waited;
  std::istringstream(text) >> waited.result >> waited.error >> waited.took_us >> waited.rest;
  return waited;
}

::testing::AssertionResult injected(const Writer& writer) {
  const auto fd = userfaultfd_of(writer.pid());
  if (!fd) return ::testing::AssertionFailure() << fd.error().to_text();
  return fd->valid() ? ::testing::AssertionSuccess() : ::testing::AssertionFailure();
}

/// Calls that wait for a given time, by the writer's names for them.
struct TimedCall {
  const char* name;
  long number;
  int error;
};
class InjectionIntoTimedCall : public ::testing::TestWithParam<TimedCall> {};

TEST_P(InjectionIntoTimedCall, LetsItWaitItsTimeAndNoEintrComes) {
  constexpr std::uint64_t kTimeMs = 400;
  Writer writer;
  writer.tell(std::string(GetParam().name) + " " + std::to_string(kTimeMs));
  ASSERT_TRUE(writer.waits_in(GetParam().number));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(injected(writer));
  const Waited waited = parse(writer.answer());
  EXPECT_EQ(waited.error, GetParam().error);
  EXPECT_EQ(waited.result, GetParam().error == 0 ? 0 : -1);
  EXPECT_GE(waited.took_us, kTimeMs * 1000);
}

INSTANTIATE_TEST_SUITE_P(Calls, InjectionIntoTimedCall,
                         ::testing::Values(TimedCall{"nanosleep", SYS_clock_nanosleep, 0},
                                           TimedCall{"clock_nanosleep", SYS_clock_nanosleep, 0},
                                           TimedCall{"futex", SYS_futex, ETIMEDOUT},
                                           TimedCall{"poll", SYS_poll, 0},
                                           TimedCall{"ppoll", SYS_ppoll, 0},
                                           TimedCall{"limited_read", SYS_read, EAGAIN},
                                           TimedCall{"semaphore", SYS_semtimedop, EAGAIN}),
                         [](const auto& param) { return std::string(param.param.name); });

TEST(Injection, ReadGoesOnAndGetsItsData) {
  Writer writer;
  writer.tell("read");
  ASSERT_TRUE(writer.waits_in(SYS_read));
  ASSERT_TRUE(injected(writer));
  writer.send_data('x');
  const Waited waited = parse(writer.answer());
  EXPECT_EQ(waited.result, 'x');
  EXPECT_EQ(waited.error, 0);
}

TEST(Injection, EpollWaitGoesOnAndGetsItsEvent) {
  Writer writer;
  writer.tell("epoll");
  ASSERT_TRUE(writer.waits_in(SYS_epoll_wait));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(injected(writer));
  ASSERT_TRUE(writer.waits_in(SYS_epoll_wait));
  writer.send_data('x');
  const Waited waited = parse(writer.answer());
  EXPECT_EQ(waited.result, 1);
  EXPECT_EQ(waited.error, 0);
}

TEST(Injection, SigsuspendEndsByItsSignalOnlyAndPutsTheMaskBack) {
  Writer writer;
  ASSERT_EQ(writer.ask("handle_signals"), "ok");
  writer.tell("suspend");
  ASSERT_TRUE(writer.waits_in(SYS_rt_sigsuspend));
  ASSERT_TRUE(injected(writer));
  ASSERT_TRUE(writer.waits_in(SYS_rt_sigsuspend));
  writer.signal(SIGUSR1);
  const Waited waited = parse(writer.answer());
  EXPECT_EQ(waited.error, EINTR);
  EXPECT_EQ(waited.rest, "put-back") << "the signal mask of before the call";
  EXPECT_EQ(writer.ask("signals"), "1 0 0 0");
}

TEST(Injection, LeavesRegistersAlone) {
  Writer writer;
  ASSERT_EQ(writer.ask("start_spinning"), "ok");
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(injected(writer));
  EXPECT_EQ(writer.ask("stop_spinning"), "ok");
}

TEST(Injection, LeavesNoDescriptorAndNoMappingBehind) {
  Writer writer;
  ASSERT_TRUE(injected(writer));
  const std::string maps = writer.maps();
  const std::size_t descriptors = writer.descriptors();
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(injected(writer));
  EXPECT_EQ(writer.maps(), maps);
  EXPECT_EQ(writer.descriptors(), descriptors);
  const auto status = thread_status(writer.pid(), writer.pid());
  ASSERT_TRUE(status);
  EXPECT_EQ(status->tracer, 0);
}

TEST(Injection, LosesNoSignalAndDoublesNone) {
  constexpr int kSignals = 4000;
  Writer writer;
  ASSERT_EQ(writer.ask("handle_signals"), "ok");
  ASSERT_EQ(writer.ask("start_spinning"), "ok");
  ASSERT_EQ(writer.ask("set_alarm 300"), "ok");
  std::jthread sender([&] {
    for (int i = 0; i < kSignals; ++i) {
      sigval value{};
      value.sival_int = i;
      while (::sigqueue(writer.pid(), SIGRTMIN, value) != 0 && errno == EAGAIN) {
        std::this_thread::yield();
      }
    }
  });
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(injected(writer));
  sender.join();
  ASSERT_EQ(writer.ask("set_alarm 0"), "ok");
  std::string counts;
  EXPECT_TRUE(wait_for([&] {
    counts = writer.ask("signals");
    return counts.starts_with("0 " + std::to_string(kSignals) + " ");
  })) << counts;
  EXPECT_EQ(writer.ask("stop_spinning"), "ok");
}

TEST(Injection, ASignalSentToAStandingThreadIsDeliveredOnce) {
  Writer writer;
  ASSERT_EQ(writer.ask("handle_signals"), "ok");
  const Status made = with_remote_calls(writer.pid(), [&](RemoteCalls& calls, pid_t) -> Status {
    writer.signal(SIGUSR1);
    writer.signal(SIGTRAP);
    for (int i = 0; i < 3; ++i) {
      MIGRATE_ASSIGN(const long answer, calls.call(SYS_getpid, {0, 0, 0}));
      EXPECT_EQ(answer, writer.pid());
    }
    return {};
  });
  ASSERT_TRUE(made) << made.error().to_text();
  EXPECT_TRUE(wait_for([&] { return writer.ask("signals") == "2 0 0 0"; }));
}

TEST(Injection, AStoppedProcessStaysStoppedAndGoesOnBySigcont) {
  Writer writer;
  writer.signal(SIGSTOP);
  int status = 0;
  ASSERT_EQ(::waitpid(writer.pid(), &status, WUNTRACED), writer.pid());
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(injected(writer));
  EXPECT_TRUE(wait_for([&] { return writer.state() == 'T'; }));
  // Its parent is not told of a stop a second time.
  EXPECT_EQ(::waitpid(writer.pid(), &status, WUNTRACED | WNOHANG), 0);
  writer.tell("map 1");
  EXPECT_EQ(writer.state(), 'T');
  writer.signal(SIGCONT);
  EXPECT_FALSE(writer.answer().empty());
}

TEST(Injection, SigstopWithinStopsItAfterwards) {
  Writer writer;
  const Status made = with_remote_calls(writer.pid(), [&](RemoteCalls& calls, pid_t) -> Status {
    writer.signal(SIGSTOP);
    MIGRATE_ASSIGN(const long answer, calls.call(SYS_getpid, {0, 0, 0}));
    EXPECT_EQ(answer, writer.pid());
    return {};
  });
  ASSERT_TRUE(made) << made.error().to_text();
  EXPECT_TRUE(wait_for([&] { return writer.state() == 'T'; }));
  writer.signal(SIGCONT);
  EXPECT_NE(writer.number("map 1"), 0U);
}

TEST(Injection, WorksAmongManyThreadsAndThoseThatEnd) {
  Writer writer;
  ASSERT_EQ(writer.ask("start_sleepers 20"), "ok");
  ASSERT_EQ(writer.ask("start_mayflies"), "ok");
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(injected(writer));
  EXPECT_NE(writer.number("stop_writers"), 0U);
}

TEST(Injection, PassesASeccompFilterThatWouldKill) {
  Writer writer;
  ASSERT_EQ(writer.ask("filter_calls"), "ok");
  const auto fd = userfaultfd_of(writer.pid());
  // Suspending a filter takes CAP_SYS_ADMIN; without it the process must be left in peace.
  EXPECT_TRUE(fd || fd.error().code == ErrorCode::kPermission);
  EXPECT_NE(writer.number("map 1"), 0U);
}

TEST(Injection, WorksInAProcessWithoutRights) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can make such a process";
  Writer writer;
  ASSERT_EQ(writer.ask("drop_rights 65534"), "ok");
  ASSERT_TRUE(injected(writer));
}

TEST(Injection, IsRefusedWhereADebuggerIsAttached) {
  Writer writer;
  ASSERT_EQ(::ptrace(PTRACE_SEIZE, writer.pid(), nullptr, nullptr), 0);
  const auto fd = userfaultfd_of(writer.pid());
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error().code, ErrorCode::kBusy) << fd.error().to_text();
  EXPECT_FALSE(fd.error().remedy.empty());
}

TEST(Injection, SaysWhenTheProcessIsGone) {
  Writer writer;
  const pid_t pid = writer.pid();
  writer.signal(SIGKILL);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
  const auto zombie = userfaultfd_of(pid);
  ASSERT_FALSE(zombie);
  EXPECT_EQ(zombie.error().code, ErrorCode::kNotFound) << zombie.error().to_text();
  writer.end();
  const auto nobody = userfaultfd_of(pid);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, ErrorCode::kNotFound) << nobody.error().to_text();
}

TEST(Injection, SurvivesADeathWithin) {
  Writer writer;
  const Status made = with_remote_calls(writer.pid(), [&](RemoteCalls& calls, pid_t) -> Status {
    writer.signal(SIGKILL);
    MIGRATE_ASSIGN([[maybe_unused]] const long answer, calls.call(SYS_getpid, {0, 0, 0}));
    return {};
  });
  ASSERT_FALSE(made);
  EXPECT_EQ(made.error().code, ErrorCode::kNotFound) << made.error().to_text();
  // Its end is left for its parent to see.
  int status = 0;
  EXPECT_EQ(::waitpid(writer.pid(), &status, 0), writer.pid());
  EXPECT_TRUE(WIFSIGNALED(status));
}

TEST(Injection, EarlyReturnPutsTheThreadBack) {
  Writer writer;
  writer.tell("read");
  ASSERT_TRUE(writer.waits_in(SYS_read));
  const Status made = with_remote_calls(writer.pid(), [&](RemoteCalls& calls, pid_t) -> Status {
    MIGRATE_ASSIGN([[maybe_unused]] const long answer, calls.call(SYS_getpid, {0, 0, 0}));
    return make_error(ErrorCode::kInternal, "given up");
  });
  EXPECT_FALSE(made);
  writer.send_data('y');
  EXPECT_EQ(parse(writer.answer()).result, 'y');
}

TEST(ProcessStop, HoldsEveryThreadAndLetsAllGo) {
  Writer writer;
  ASSERT_EQ(writer.ask("start_sleepers 10"), "ok");
  ASSERT_EQ(writer.ask("start_mayflies"), "ok");
  const std::uint64_t area = writer.map(64);
  ASSERT_EQ(writer.ask("start_writers " + std::to_string(area) + " 64 2"), "ok");
  ASSERT_TRUE(wait_for([&] { return writer.number("writes") > 1000; }));
  for (int i = 0; i < 20; ++i) {
    const Status stopped = with_process_stopped(writer.pid(), [&]() -> Status {
      const auto before = writer.memory(area, 64);
      for (int looks = 0; looks < 20; ++looks) EXPECT_EQ(writer.memory(area, 64), before);
      MIGRATE_ASSIGN(const std::vector<pid_t> threads, threads_of(writer.pid()));
      for (const pid_t tid : threads) {
        const auto status = thread_status(writer.pid(), tid);
        // One that ended just before is a zombie for a moment, then dead, then gone.
        if (!status) continue;
        EXPECT_NE(std::string_view("tZX").find(status->state), std::string_view::npos);
      }
      return {};
    });
    ASSERT_TRUE(stopped) << stopped.error().to_text();
    const std::uint64_t writes = writer.number("writes");
    ASSERT_TRUE(wait_for([&] { return writer.number("writes") > writes; }));
  }
}

TEST(ThreadStatus, IsReadFromTheKernelsText) {
  const ThreadStatus status = parse_thread_status(
      "Name:\ta) R (b\nUmask:\t0022\nState:\tt (tracing stop)\nTgid:\t7\nPid:\t8\nPPid:\t1\n"
      "TracerPid:\t4321\nUid:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n");
  EXPECT_EQ(status.state, 't');
  EXPECT_EQ(status.tracer, 4321);
  EXPECT_EQ(status.seccomp_mode, 2);
}

}  // namespace
}  // namespace migrate::testing
