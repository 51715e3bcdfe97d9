// A host that has no thread left to give: what arrives is turned away, and nothing ends that runs.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <csignal>
#include <thread>

#include "base/start_thread.hpp"
#include "tests/support/no_threads.hpp"
#include "tests/tools/scratch_folder.hpp"
#include "tests/transport/tls_files.hpp"
#include "tools/migrate/ask_responder.hpp"
#include "tools/migrate/receive_session.hpp"
#include "tools/migrate/tls_answers.hpp"

namespace migrate::tool {
namespace {

using test::NoThreads;
using testing::ScratchFolder;

TEST(NoThreadsLeft, AListenerDropsAConnectionThatItCannotAnswer) {
  test::TlsFiles files;
  auto context = make_tls_context(TlsRole::kAccept, files.psk("key"));
  ASSERT_TRUE(context) << context.error().to_text();
  TlsAnswers answers(*std::move(context), std::chrono::seconds(20));
  std::array<int, 2> ends{};
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
  const Fd peer(ends[0]);
  {
    const NoThreads none;
    answers.give(Fd(ends[1]), make_error(ErrorCode::kNotFound, "nobody is here"), std::nullopt);
  }
  // Closed, not forgotten.
  char byte = 0;
  EXPECT_EQ(::recv(peer.get(), &byte, 1, 0), 0);
}

TEST(NoThreadsLeft, AGuestThatArrivedRunsOnThoughLateQuestionsGoUnanswered) {
  auto acceptor = make_tcp_acceptor("127.0.0.1", "0");
  ASSERT_TRUE(acceptor);
  const NoThreads none;
  std::thread thread;
  const Status started = start_thread(thread, "mig-test", [] {});
  if (thread.joinable()) thread.join();
  ASSERT_FALSE(started) << "this test's host has threads left";
  const AskResponder responder(*std::move(acceptor), wire::SessionId{}, 1);
}

TEST(NoThreadsLeft, ASessionThatCannotBeginEndsAndSaysSo) {
  if (!Fd(::open("/dev/kvm", O_RDWR | O_CLOEXEC))) GTEST_SKIP() << "needs /dev/kvm";
  const ScratchFolder scratch;
  auto folder = RuntimeDir::open(scratch.path());
  ASSERT_TRUE(folder);
  ReceiveOptions options;
  options.incoming.runtime_dir = scratch.path().string();
  const GlobalOptions global;
  const auto session = ReceiveSession::create(*std::move(folder), options, global);
  ASSERT_TRUE(session) << session.error().to_text();
  auto acceptor = make_tcp_acceptor("127.0.0.1", "0");
  ASSERT_TRUE(acceptor);
  const auto signals = SignalFd::open({SIGUSR2});
  ASSERT_TRUE(signals);
  const auto reopen = []() -> Result<std::unique_ptr<Acceptor>> {
    return make_error(ErrorCode::kInternal, "nobody asks for this");
  };
  int over = 0;
  const NoThreads none;
  EXPECT_EQ((*session)->run(*std::move(acceptor), reopen, *signals, [&] { ++over; }), 1);
  EXPECT_EQ(over, 1);
}

}  // namespace
}  // namespace migrate::tool
