#include "bench/link.hpp"

#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdlib.h>  // NOLINT: mkstemp
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "bench/measuring.hpp"
#include "migrate/tls.hpp"

namespace migrate::bench {
namespace {

constexpr std::chrono::seconds kIdleMax{30};

Ends ends_at(const std::string& host) {
  Ends ends;
  ends.acceptor = must(make_tcp_acceptor(host, "0"));
  const std::string address = ends.acceptor->address();
  ends.connector = make_tcp_connector(host, address.substr(address.rfind(':') + 1));
  return ends;
}

class LoopbackLink final : public Link {
 public:
  [[nodiscard]] Ends open() const override { return ends_at("127.0.0.1"); }
  [[nodiscard]] std::string name() const override { return "loopback"; }
  [[nodiscard]] double bytes_per_s() const override { return 0; }
};

Fd namespace_of_thread() {
  Fd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!fd) give_up(std::string("cannot open a network namespace: ") + std::strerror(errno));
  return fd;
}

/// This thread is in another network namespace for as long as this lives.
class Visit {
 public:
  explicit Visit(const Fd& to) : home_(namespace_of_thread()) { enter(to); }
  ~Visit() { enter(home_); }
  Visit(const Visit&) = delete;
  Visit& operator=(const Visit&) = delete;

 private:
  static void enter(const Fd& to) {
    if (::setns(to.get(), CLONE_NEWNET) == 0) return;
    give_up(std::string("cannot enter a network namespace: ") + std::strerror(errno));
  }
  const Fd home_;
};

/// A new network namespace; it lives as long as its descriptor.
Fd make_namespace() {
  Fd made;
  std::thread([&] {
    if (::unshare(CLONE_NEWNET) != 0) {
      give_up(std::string("cannot make a network namespace: ") + std::strerror(errno) +
              "; a shaped link needs root");
    }
    made = namespace_of_thread();
  }).join();
  return made;
}

/// Runs a command in this thread's namespaces.
void run(std::vector<std::string> words) {
  std::string line;
  std::vector<char*> arguments;
  for (std::string& word : words) {
    line.append(line.empty() ? "" : " ").append(word);
    arguments.push_back(word.data());
  }
  arguments.push_back(nullptr);
  pid_t child = -1;
  int state = 0;
  const int failure =
      ::posix_spawnp(&child, arguments[0], nullptr, nullptr, arguments.data(), environ);
  if (failure != 0) give_up("cannot run " + line + ": " + std::strerror(failure));
  while (::waitpid(child, &state, 0) < 0 && errno == EINTR) {
  }
  if (state != 0) give_up("this failed: " + line);
}

/// Connects from another namespace: a socket stays in the one it was made in.
class VisitingConnector final : public Connector {
 public:
  VisitingConnector(const Fd& from, std::unique_ptr<Connector> inner)
      : from_(from), inner_(std::move(inner)) {}
  Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) override {
    const Visit visit(from_);
    return inner_->connect(timeout);
  }
  void set_session(std::string_view session) override { inner_->set_session(session); }
  void interrupt() noexcept override { inner_->interrupt(); }
  void resume_after_interrupt() noexcept override { inner_->resume_after_interrupt(); }
  [[nodiscard]] std::string peer() const override { return inner_->peer(); }

 private:
  const Fd& from_;
  const std::unique_ptr<Connector> inner_;
};

class ShapedLink final : public Link {
 public:
  explicit ShapedLink(double bytes_per_s)
      : bytes_per_s_(bytes_per_s), source_(make_namespace()), target_(make_namespace()) {
    {
      const Visit visit(source_);
      const std::string other =
          "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(target_.get());
      run({"ip", "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", other});
      set_up("10.78.0.1/30");
    }
    const Visit visit(target_);
    set_up("10.78.0.2/30");
  }

  [[nodiscard]] Ends open() const override {
    const Visit visit(target_);
    Ends ends = ends_at("10.78.0.2");
    ends.connector = std::make_unique<VisitingConnector>(source_, std::move(ends.connector));
    return ends;
  }
  [[nodiscard]] std::string name() const override {
    char text[32];
    std::snprintf(text, sizeof text, "%g Gbit/s", bytes_per_s_ * 8e-9);
    return text;
  }
  [[nodiscard]] double bytes_per_s() const override { return bytes_per_s_; }

 private:
  void set_up(const char* address) const {
    // What passes in 2 ms, and not less than some segments: the more, the more goes unshaped.
    const double burst = std::max(256e3, bytes_per_s_ * 2e-3);
    run({"ip", "address", "add", address, "dev", "v0"});
    run({"ip", "link", "set", "v0", "up"});
    run({"tc", "qdisc", "add", "dev", "v0", "root", "tbf", "rate",
         std::to_string(static_cast<std::uint64_t>(bytes_per_s_ * 8)) + "bit", "burst",
         std::to_string(static_cast<std::uint64_t>(burst)), "latency", "50ms"});
  }

  const double bytes_per_s_;
  const Fd source_;
  const Fd target_;
};

class TlsLink final : public Link {
 public:
  explicit TlsLink(const Link& inner) : inner_(inner) {
    TlsOptions options;
    options.psk_file = write_key();
    source_ = make_tls_context(TlsRole::kConnect, options);
    target_ = make_tls_context(TlsRole::kAccept, options);
    ::unlink(options.psk_file.c_str());
    must(source_);
    must(target_);
  }

  [[nodiscard]] Ends open() const override {
    Ends ends = inner_.open();
    return {make_tls_acceptor(std::move(ends.acceptor), *target_),
            make_tls_connector(std::move(ends.connector), *source_)};
  }
  [[nodiscard]] std::string name() const override { return inner_.name() + ", TLS"; }
  [[nodiscard]] double bytes_per_s() const override { return inner_.bytes_per_s(); }

 private:
  static std::string write_key() {
    std::string path = "/tmp/migrate-bench-psk.XXXXXX";
    const Fd file(::mkstemp(path.data()));
    std::random_device random;
    std::string key;
    char digits[9];
    for (int i = 0; i < 8; ++i) {
      std::snprintf(digits, sizeof digits, "%08x", random());
      key += digits;
    }
    if (!file || ::write(file.get(), key.data(), key.size()) != static_cast<ssize_t>(key.size())) {
      give_up("cannot write a key to " + path);
    }
    return path;
  }

  const Link& inner_;
  Result<std::shared_ptr<TlsContext>> source_ = std::shared_ptr<TlsContext>();
  Result<std::shared_ptr<TlsContext>> target_ = std::shared_ptr<TlsContext>();
};

}  // namespace

std::unique_ptr<Link> make_loopback_link() { return std::make_unique<LoopbackLink>(); }

std::unique_ptr<Link> make_shaped_link(double bytes_per_s) {
  return std::make_unique<ShapedLink>(bytes_per_s);
}

std::unique_ptr<Link> make_tls_link(const Link& inner) { return std::make_unique<TlsLink>(inner); }

void receive_whole(Channel& channel, std::span<iovec> parts) {
  while (!parts.empty()) {
    std::size_t count = must(channel.receive(parts, kIdleMax));
    if (count == 0) give_up("a connection to this very process was closed");
    while (!parts.empty() && count >= parts.front().iov_len) {
      count -= parts.front().iov_len;
      parts = parts.subspan(1);
    }
    if (count > 0) {
      parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + count;
      parts.front().iov_len -= count;
    }
  }
}

}  // namespace migrate::bench
