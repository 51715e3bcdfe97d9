// What a demand of post-copy is made of, each part bare: a userfaultfd fault that a thread answers
// from memory it has, and a round trip of a request and a page. See bench/postcopy.
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "bench/measuring.hpp"
#include "migrate/channel.hpp"
#include "migrate/memory.hpp"

namespace migrate::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr const char* kUsage =
    "usage: fault_floor [--count N] [--json]\n"
    "       fault_floor --serve HOST\n"
    "       fault_floor --ask HOST:PORT [--count N] [--json]\n"
    "Latency of a bare userfaultfd fault here; or, with another that serves, of a bare round trip\n"
    "of a request and a page over TCP, one after the other on a link that has nothing else to do.\n"
    "  --serve  answers one peer until that is through; says where it listens\n"
    "  --count  of faults or round trips, 1 to 10000 [5000]\n";

constexpr std::chrono::seconds kIdleMax{30};
constexpr unsigned kWarmUp = 100;
// A record's header with one range, as DEMAND is; and with a page, as its answer.
constexpr std::size_t kRequestBytes = 64;
constexpr std::size_t kAnswerBytes = 64 + kPageSize;

struct Settings {
  std::string serve, ask;
  unsigned count = 5000;
  bool json = false;
};

[[noreturn]] void give_up_errno(const std::string& what) {
  give_up(what + ": " + std::strerror(errno));
}

double us_since(SteadyClock::time_point begin) {
  return std::chrono::duration<double, std::micro>(SteadyClock::now() - begin).count();
}

/// Anonymous memory of 4 KiB pages, none of which is there.
class MissingMemory {
 public:
  explicit MissingMemory(std::size_t pages) : bytes_(pages * kPageSize) {
    void* const at =
        ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) give_up_errno("mmap");
    memory_ = static_cast<std::byte*>(at);
    (void)::madvise(memory_, bytes_, MADV_NOHUGEPAGE);
    fault_fd_.reset(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC)));
    if (!fault_fd_) give_up_errno("userfaultfd");
    uffdio_api api{.api = UFFD_API, .features = 0, .ioctls = 0};
    if (::ioctl(fault_fd_.get(), UFFDIO_API, &api) != 0) give_up_errno("UFFDIO_API");
    uffdio_register wanted{};
    wanted.range = {reinterpret_cast<std::uintptr_t>(memory_), bytes_};
    wanted.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(fault_fd_.get(), UFFDIO_REGISTER, &wanted) != 0) give_up_errno("UFFDIO_REGISTER");
  }
  ~MissingMemory() { ::munmap(memory_, bytes_); }
  MissingMemory(const MissingMemory&) = delete;
  MissingMemory& operator=(const MissingMemory&) = delete;

  void touch(std::size_t page) const {
    *static_cast<volatile std::byte*>(memory_ + page * kPageSize) = std::byte{1};
  }
  /// Waits for the next fault, and ends it.
  void answer(const std::byte* page) const {
    uffd_msg message{};
    ssize_t got = 0;
    do {
      got = ::read(fault_fd_.get(), &message, sizeof message);
    } while (got < 0 && errno == EINTR);
    if (got != sizeof message || message.event != UFFD_EVENT_PAGEFAULT) give_up_errno("a fault");
    uffdio_copy copy{};
    copy.dst = message.arg.pagefault.address & ~std::uint64_t{kPageSize - 1};
    copy.src = reinterpret_cast<std::uintptr_t>(page);
    copy.len = kPageSize;
    if (::ioctl(fault_fd_.get(), UFFDIO_COPY, &copy) != 0) give_up_errno("UFFDIO_COPY");
  }

 private:
  const std::size_t bytes_;
  std::byte* memory_ = nullptr;
  Fd fault_fd_;
};

Samples measure_faults(unsigned count) {
  const MissingMemory memory(count + kWarmUp);
  const std::vector<std::byte> page(kPageSize, std::byte{7});
  std::jthread answering([&] {
    for (unsigned i = 0; i < count + kWarmUp; ++i) memory.answer(page.data());
  });
  Samples samples;
  for (unsigned i = 0; i < count + kWarmUp; ++i) {
    const auto begin = SteadyClock::now();
    memory.touch(i);
    if (i >= kWarmUp) samples.add(us_since(begin));
  }
  return samples;
}

void send_whole(Channel& channel, std::span<std::byte> bytes) {
  const iovec part = {bytes.data(), bytes.size()};
  must(channel.send({&part, 1}, kIdleMax));
}

/// False when the peer has closed.
bool take_whole(Channel& channel, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const iovec part = {bytes.data(), bytes.size()};
    const std::size_t got = must(channel.receive({&part, 1}, kIdleMax));
    if (got == 0) return false;
    bytes = bytes.subspan(got);
  }
  return true;
}

void serve(const std::string& host) {
  const auto acceptor = must(make_tcp_acceptor(host, "0"));
  std::printf("listening on %s\n", acceptor->address().c_str());
  std::fflush(stdout);
  const auto channel = must(acceptor->accept(kIdleMax));
  std::array<std::byte, kRequestBytes> request{};
  std::vector<std::byte> answer(kAnswerBytes);
  while (take_whole(*channel, request)) send_whole(*channel, answer);
}

Samples measure_round_trips(const std::string& address, unsigned count) {
  const std::size_t colon = address.rfind(':');
  if (colon == std::string::npos) give_up(address + " is not HOST:PORT");
  const auto connector = make_tcp_connector(address.substr(0, colon), address.substr(colon + 1));
  const auto channel = must(connector->connect(kIdleMax));
  std::array<std::byte, kRequestBytes> request{};
  std::vector<std::byte> answer(kAnswerBytes);
  Samples samples;
  for (unsigned i = 0; i < count + kWarmUp; ++i) {
    const auto begin = SteadyClock::now();
    send_whole(*channel, request);
    if (!take_whole(*channel, answer)) give_up(address + " has closed the connection");
    if (i >= kWarmUp) samples.add(us_since(begin));
  }
  return samples;
}

void print(const Settings& settings, const char* what, const Samples& samples) {
  if (settings.json) {
    std::printf(
        "{\"schema\":\"migrate-bench-fault-floor\",\"version\":1,\"host\":%s,"
        "\"what\":%s,\"count\":%zu,\"p50_us\":%f,\"p99_us\":%f}\n",
        host_json().c_str(), quoted(what).c_str(), samples.count(), samples.median(),
        samples.percentile(99));
  } else {
    std::printf("%s, %zu: p50 %.1f us, p99 %.1f us\n", what, samples.count(), samples.median(),
                samples.percentile(99));
  }
}

Settings parse(Arguments arguments) {
  Settings settings;
  while (arguments.next()) {
    if (arguments.name() == "--json") {
      settings.json = true;
    } else if (arguments.name() == "--serve") {
      settings.serve = arguments.value();
    } else if (arguments.name() == "--ask") {
      settings.ask = arguments.value();
    } else if (arguments.name() == "--count") {
      settings.count = arguments.count();
    } else {
      arguments.misunderstood();
    }
  }
  if (!settings.serve.empty() && !settings.ask.empty()) arguments.misunderstood();
  return settings;
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  const Settings settings = parse(Arguments(argc, argv, kUsage));
  if (!settings.serve.empty()) {
    serve(settings.serve);
  } else if (!settings.ask.empty()) {
    print(settings, "round trip", measure_round_trips(settings.ask, settings.count));
  } else {
    print(settings, "fault", measure_faults(settings.count));
  }
  return 0;
}
