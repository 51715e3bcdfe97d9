// UNIX sockets: the file comes and goes with its listener, and a stale one is no obstacle.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <thread>

#include "base/fd.hpp"
#include "tests/transport/channel_io.hpp"
#include "transport/socket_address.hpp"

namespace migrate::test {
namespace {

using testing::HasSubstr;

/// A folder of its own for each test.
class UnixSocket : public testing::Test {
 protected:
  UnixSocket() {
    std::string pattern = testing::TempDir() + "/unix-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    path_ = folder_ + "/a.sock";
  }
  ~UnixSocket() override { std::filesystem::remove_all(folder_); }

  /// A socket file whose listener has died without removing it.
  void leave_stale_socket() {
    const auto address = unix_address(path_);
    ASSERT_TRUE(address);
    const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ASSERT_EQ(::bind(socket.get(), address->get(), address->length), 0);
    ASSERT_EQ(::listen(socket.get(), 1), 0);
  }
  [[nodiscard]] bool there() const { return std::filesystem::exists(path_); }

  std::string folder_;
  std::string path_;
};

TEST_F(UnixSocket, ConnectsAndLeavesNoFile) {
  {
    auto acceptor = make_unix_acceptor(path_);
    ASSERT_TRUE(acceptor) << acceptor.error().to_text();
    EXPECT_EQ((*acceptor)->address(), "unix:" + path_);
    auto near = make_unix_connector(path_)->connect(kLong);
    auto far = (*acceptor)->accept(kLong);
    ASSERT_TRUE(near);
    ASSERT_TRUE(far);
    EXPECT_EQ((*near)->peer(), "unix:" + path_);
    EXPECT_THAT((*far)->peer(), HasSubstr(path_));
  }
  EXPECT_FALSE(there());
}

TEST_F(UnixSocket, OnlyItsOwnerMayConnect) {
  auto acceptor = make_unix_acceptor(path_);
  ASSERT_TRUE(acceptor);
  struct stat status {};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(UnixSocket, AStaleFileIsReplaced) {
  leave_stale_socket();
  ASSERT_TRUE(there());
  auto acceptor = make_unix_acceptor(path_);
  ASSERT_TRUE(acceptor) << acceptor.error().to_text();
  EXPECT_TRUE(make_unix_connector(path_)->connect(kLong));
}

TEST_F(UnixSocket, ALiveListenerIsLeftAlone) {
  auto first = make_unix_acceptor(path_);
  ASSERT_TRUE(first);
  const auto second = make_unix_acceptor(path_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kAddressInUse);
  EXPECT_TRUE(make_unix_connector(path_)->connect(kLong));
}

TEST_F(UnixSocket, OfManyThatReplaceAStaleFileExactlyOneListens) {
  leave_stale_socket();
  std::array<std::unique_ptr<Acceptor>, 8> made;
  {
    std::vector<std::jthread> threads;
    for (auto& acceptor : made) {
      threads.emplace_back([this, &acceptor] {
        auto result = make_unix_acceptor(path_);
        if (result) {
          acceptor = *std::move(result);
        } else {
          EXPECT_EQ(result.error().code, ErrorCode::kAddressInUse) << result.error().to_text();
        }
      });
    }
  }
  EXPECT_EQ(std::count(made.begin(), made.end(), nullptr), 7);
  EXPECT_TRUE(make_unix_connector(path_)->connect(kLong));
}

TEST_F(UnixSocket, AFileThatIsNoSocketIsKept) {
  std::ofstream(path_) << "precious";
  const auto acceptor = make_unix_acceptor(path_);
  ASSERT_FALSE(acceptor);
  EXPECT_EQ(acceptor.error().code, ErrorCode::kAddressInUse);
  EXPECT_EQ(std::filesystem::file_size(path_), 8u);
}

TEST_F(UnixSocket, AFilePutInItsPlaceIsKept) {
  auto acceptor = make_unix_acceptor(path_);
  ASSERT_TRUE(acceptor);
  std::filesystem::remove(path_);
  std::ofstream(path_) << "another's";
  acceptor->reset();
  EXPECT_TRUE(there());
}

TEST_F(UnixSocket, ErrorsSayWhatIsWrongWithThePath) {
  const auto nobody = make_unix_connector(path_)->connect(kLong);
  ASSERT_FALSE(nobody);
  EXPECT_EQ(nobody.error().code, ErrorCode::kConnectFailed);
  EXPECT_THAT(nobody.error().message, HasSubstr("there is no socket " + path_));

  leave_stale_socket();
  const auto dead = make_unix_connector(path_)->connect(kLong);
  ASSERT_FALSE(dead);
  EXPECT_THAT(dead.error().message, HasSubstr("nobody listens"));

  const auto no_folder = make_unix_acceptor(folder_ + "/missing/a.sock");
  ASSERT_FALSE(no_folder);
  EXPECT_EQ(no_folder.error().code, ErrorCode::kNotFound);

  for (const std::string& path : {std::string(), std::string(108, 'x'), std::string("a\0b", 3)}) {
    for (const Status& status :
         {make_unix_acceptor(path).has_value() ? Status() : make_unix_acceptor(path).error(),
          make_unix_connector(path)->connect(kShort).has_value()
              ? Status()
              : make_unix_connector(path)->connect(kShort).error()}) {
      ASSERT_FALSE(status);
      EXPECT_EQ(status.error().code, ErrorCode::kInvalidArgument);
    }
  }
}

TEST_F(UnixSocket, AFullQueueIsATimeoutAndCanBeInterrupted) {
  auto acceptor = make_unix_acceptor(path_);
  ASSERT_TRUE(acceptor);
  auto connector = make_unix_connector(path_);
  std::vector<std::unique_ptr<Channel>> waiting;
  Status last;
  // The queue takes 128 or so; far more than that would be a bug of this test.
  for (int i = 0; i < 1000 && last; ++i) {
    auto channel = connector->connect(kShort);
    if (channel) {
      waiting.push_back(*std::move(channel));
    } else {
      last = channel.error();
    }
  }
  ASSERT_FALSE(last);
  EXPECT_EQ(last.error().code, ErrorCode::kTimeout);
  std::jthread connecting(
      [&] { EXPECT_EQ(connector->connect(kLong).error().code, ErrorCode::kCancelled); });
  connector->interrupt();
}

TEST_F(UnixSocket, AcceptEndsByDeadlineOrInterrupt) {
  auto acceptor = make_unix_acceptor(path_);
  ASSERT_TRUE(acceptor);
  EXPECT_EQ((*acceptor)->accept(kShort).error().code, ErrorCode::kTimeout);
  std::jthread waiter(
      [&] { EXPECT_EQ((*acceptor)->accept(kLong).error().code, ErrorCode::kCancelled); });
  (*acceptor)->interrupt();
}

}  // namespace
}  // namespace migrate::test
