#include "adapters/kvm/vmm/devices/tap.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

namespace migrate::vmm::test {
namespace {

constexpr int kNoNamespace = 77;

/// Runs `check` in a network namespace of its own, in a process of its own; true when it returned
/// an empty text. Skips where namespaces are not to be had.
void in_namespace(const std::function<std::string()>& check) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0 && ::unshare(CLONE_NEWNET) != 0) {
      ::_exit(kNoNamespace);
    }
    const std::string wrong = check();
    if (!wrong.empty()) std::fprintf(stderr, "%s\n", wrong.c_str());
    ::_exit(wrong.empty() ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == kNoNamespace) GTEST_SKIP() << "no network namespaces here";
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

/// Makes an interface that stays, and sets it up.
std::string make_interface(const char* name, int flags) {
  const Fd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC));
  ifreq request{};
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  request.ifr_flags = static_cast<short>(flags);
  if (!fd || ::ioctl(fd.get(), TUNSETIFF, &request) != 0 ||
      ::ioctl(fd.get(), TUNSETPERSIST, 1) != 0) {
    return std::string("cannot make ") + name + ": " + std::strerror(errno);
  }
  const Fd socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  request.ifr_flags = IFF_UP;
  if (::ioctl(socket.get(), SIOCSIFFLAGS, &request) != 0) return "cannot set it up";
  return {};
}

std::string expect_error(const std::string& name, ErrorCode code) {
  const auto tap = Tap::open(name);
  if (tap) return "opened " + name;
  if (tap.error().code != code || tap.error().remedy.empty()) return tap.error().to_text();
  return {};
}

/// A frame of a protocol nobody speaks.
std::string frame() {
  std::string text(60, 't');
  text.replace(0, 6, 6, '\xff');
  text.replace(6, 6, std::string("\x52\x54\x00\x12\x34\x56", 6));
  text.replace(12, 2, "\x88\xb5");
  return text;
}

std::string exchange_packets() {
  if (auto wrong = make_interface("tap-test", IFF_TAP | IFF_NO_PI); !wrong.empty()) return wrong;
  const auto tap = Tap::open("tap-test");
  if (!tap) return tap.error().to_text();
  const Fd socket(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, htons(0x88b5)));
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(0x88b5);
  address.sll_ifindex = static_cast<int>(::if_nametoindex("tap-test"));
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return "cannot listen";
  }
  const std::string sent = std::string(kPacketHeaderBytes, '\0') + frame();
  if (::write(tap->fd(), sent.data(), sent.size()) != static_cast<ssize_t>(sent.size())) {
    return "the tap does not take a packet with a header of 12 bytes";
  }
  pollfd waits{socket.get(), POLLIN, 0};
  char bytes[2048];
  if (::poll(&waits, 1, 60'000) != 1) return "no packet came out of the interface";
  if (::recv(socket.get(), bytes, sizeof bytes, 0) != 60) return "the packet is not the one sent";
  if (std::string(bytes, 60) != frame()) return "the packet has changed";
  // The other way. The kernel may have sent some of its own (IPv6) before.
  if (::send(socket.get(), frame().data(), 60, 0) != 60) return "cannot send";
  waits.fd = tap->fd();
  while (::poll(&waits, 1, 60'000) == 1) {
    const ssize_t size = ::read(tap->fd(), bytes, sizeof bytes);
    if (size == 72 && std::string(bytes + kPacketHeaderBytes, 60) == frame()) return {};
  }
  return "no packet came into the tap";
}

TEST(Tap, PacketsGoThroughWithTheirHeader) { in_namespace(exchange_packets); }

TEST(Tap, AMissingInterfaceIsNotMadeAndTheRemedyIsNamed) {
  in_namespace([] {
    if (auto wrong = expect_error("tap-none", ErrorCode::kNotFound); !wrong.empty()) return wrong;
    return std::string(::if_nametoindex("tap-none") == 0 ? "" : "it was made");
  });
  const auto bad = Tap::open("a-name-that-is-too-long");
  ASSERT_FALSE(bad);
  EXPECT_EQ(bad.error().code, ErrorCode::kInvalidArgument);
}

TEST(Tap, AnInterfaceInUseIsBusy) {
  in_namespace([] {
    if (auto wrong = make_interface("tap-test", IFF_TAP | IFF_NO_PI); !wrong.empty()) return wrong;
    const auto first = Tap::open("tap-test");
    if (!first) return first.error().to_text();
    return expect_error("tap-test", ErrorCode::kBusy);
  });
}

// And whoever has its descriptor comes upon nothing else.
TEST(Tap, AClosedOneLeavesTheInterfaceToOthers) {
  in_namespace([]() -> std::string {
    if (auto wrong = make_interface("tap-test", IFF_TAP | IFF_NO_PI); !wrong.empty()) return wrong;
    auto first = Tap::open("tap-test");
    if (!first) return first.error().to_text();
    const int fd = first->fd();
    first->close();
    char bytes[100];
    if (first->fd() != fd || ::read(fd, bytes, sizeof bytes) != 0) return "it still reads";
    const auto second = Tap::open("tap-test");
    return second ? "" : second.error().to_text();
  });
}

TEST(Tap, WhatIsNoTapIsRefused) {
  in_namespace([] {
    if (auto wrong = make_interface("tun-test", IFF_TUN | IFF_NO_PI); !wrong.empty()) return wrong;
    if (auto wrong = expect_error("tun-test", ErrorCode::kInvalidArgument); !wrong.empty()) {
      return wrong;
    }
    return expect_error("lo", ErrorCode::kInvalidArgument);
  });
}

}  // namespace
}  // namespace migrate::vmm::test
