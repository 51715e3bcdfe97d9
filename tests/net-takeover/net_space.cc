#include "tests/net-takeover/net_space.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

namespace migrate::testing {

NetSpace::NetSpace() {
  std::thread maker([this] {
    if (::unshare(CLONE_NEWNET) != 0) {
      why_not_ = std::string("no network namespaces here: ") + std::strerror(errno);
      return;
    }
    fd_.reset(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  });
  maker.join();
  if (!fd_) return;
  // Routers are no part of any test, and what they and addresses send would be taken for answers.
  sh("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6; ip link set lo up");
  if (const std::string text = sh("ip link add name try type bridge && ip link del dev try");
      !text.empty()) {
    why_not_ = "no bridges here: " + text;
  }
}

void NetSpace::run(const std::function<void()>& body) const {
  std::thread inside([&] {
    ASSERT_EQ(::setns(fd_.get(), CLONE_NEWNET), 0) << std::strerror(errno);
    body();
  });
  inside.join();
}

std::string NetSpace::sh(const std::string& command) const {
  std::string text;
  run([&] {
    FILE* const pipe = ::popen(("{ " + command + "; } 2>&1").c_str(), "re");
    ASSERT_NE(pipe, nullptr);
    char chunk[512];
    while (const auto got = std::fread(chunk, 1, sizeof chunk, pipe)) text.append(chunk, got);
    if (const int status = ::pclose(pipe); status != 0 && text.empty()) {
      text = command + ": exit status " + std::to_string(WEXITSTATUS(status));
    }
  });
  return text;
}

void NetSpace::must(const std::string& command) const {
  const std::string text = sh(command);
  ASSERT_EQ(text, "") << command;
}

std::string NetSpace::path() const {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(fd_.get());
}

void drop_capabilities(std::initializer_list<int> capabilities) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  ASSERT_EQ(::syscall(SYS_capget, &header, data), 0) << std::strerror(errno);
  for (const int one : capabilities) {
    auto& word = data[CAP_TO_INDEX(one)];
    for (auto* const set : {&word.effective, &word.permitted, &word.inheritable}) {
      *set &= ~CAP_TO_MASK(one);
    }
    // Or root's programs have it again.
    ASSERT_EQ(::prctl(PR_CAPBSET_DROP, one, 0, 0, 0), 0) << std::strerror(errno);
  }
  ASSERT_EQ(::syscall(SYS_capset, &header, data), 0) << std::strerror(errno);
}

void connect(const NetSpace& a, const std::string& name_a, const NetSpace& b,
             const std::string& name_b) {
  a.must("ip link add name " + name_a + " type veth peer name " + name_b + " netns " + b.path());
  a.must("ip link set dev " + name_a + " up");
  b.must("ip link set dev " + name_b + " up");
}

}  // namespace migrate::testing
