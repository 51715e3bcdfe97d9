#include "tests/containers/network/pair_bed.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <chrono>
#include <cstring>
#include <thread>

namespace migrate::containers {
namespace {

constexpr std::chrono::seconds kPatience{60};

sockaddr_in address_of(const char* text) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  ::inet_pton(AF_INET, text, &address.sin_addr);
  return address;
}

}  // namespace

void PairTest::SetUp() {
  for (const testing::NetSpace* one : {&host_, &guest_}) {
    if (!one->why_not().empty()) GTEST_SKIP() << one->why_not();
  }
  testing::connect(host_, "port", guest_, "eth0");
  host_.must("ip address add 10.79.0.1/24 dev port");
  guest_.must("ip address add 10.79.0.2/24 dev eth0");
  // Or the first packets wait for an answer to ARP, which is held as well.
  host_.must("ip neighbour add 10.79.0.2 dev port lladdr 02:00:00:00:00:02");
  guest_.must("ip link set eth0 address 02:00:00:00:00:02");
}

Fd PairTest::space(const testing::NetSpace& of) {
  return Fd(::open(of.path().c_str(), O_RDONLY | O_CLOEXEC));
}

LinkPeer PairTest::peer() const {
  LinkPeer found;
  host_.run([&] {
    const Fd there = space(guest_);
    auto peer = find_link_peer("port", there.get());
    ASSERT_TRUE(peer) << peer.error().to_text();
    found = *peer;
  });
  return found;
}

void PairTest::send_numbers(int first, int count, std::size_t bytes) const {
  host_.run([&] {
    const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    const sockaddr_in to = address_of(kGuestIp);
    std::vector<char> text(bytes);
    for (int number = first; number < first + count; ++number) {
      std::memcpy(text.data(), &number, sizeof(number));
      ASSERT_EQ(::sendto(fd.get(), text.data(), text.size(), 0,
                         reinterpret_cast<const sockaddr*>(&to), sizeof(to)),
                static_cast<ssize_t>(bytes));
    }
  });
}

Fd PairTest::open_receiver() const {
  Fd fd;
  guest_.run([&] {
    fd.reset(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    const int bytes = 8 << 20;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes));
    const sockaddr_in at = address_of(kGuestIp);
    ASSERT_EQ(::bind(fd.get(), reinterpret_cast<const sockaddr*>(&at), sizeof(at)), 0);
  });
  return fd;
}

std::vector<int> PairTest::numbers_at(const Fd& receiver, std::size_t count) {
  std::vector<int> all;
  for (;;) {
    pollfd ready{receiver.get(), POLLIN, 0};
    // Beyond what is awaited nothing should come: that is looked at, and not waited for.
    const bool enough = all.size() >= count;
    const auto patience = std::chrono::duration_cast<std::chrono::milliseconds>(kPatience);
    if (::poll(&ready, 1, enough ? 0 : static_cast<int>(patience.count())) <= 0) return all;
    int number = 0;
    if (::recv(receiver.get(), &number, sizeof(number), 0) > 0) all.push_back(number);
  }
}

std::string PairTest::filters(const testing::NetSpace& at, const std::string& name) {
  return at.sh("{ tc qdisc show dev " + name + " clsact; tc filter show dev " + name +
               " ingress; true; } 2>/dev/null; echo -n");
}

void expect_soon(const std::function<bool()>& holds, const std::string& what) {
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (!holds()) {
    ASSERT_LT(std::chrono::steady_clock::now(), until) << what;
    std::this_thread::yield();
  }
}

std::vector<int> numbers(int first, int count) {
  std::vector<int> all;
  for (int i = 0; i < count; ++i) all.push_back(first + i);
  return all;
}

}  // namespace migrate::containers
