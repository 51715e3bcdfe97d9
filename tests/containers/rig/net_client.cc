// Clients of a server that moves: each byte of the answers is checked, each wait measured.
//   net_client ping ADDRESS PORT --out FILE            one message a millisecond, echoed
//   net_client fetch ADDRESS PORT PATH --expect FILE --out FILE [--clients 100] [--pause-ms 0]
//   [--each-anew 1]
// A client keeps its connection, or with --each-anew makes one for each request.
// Forgets on SIGUSR1 how long was waited so far. Ends on SIGTERM and then writes one object of
// JSON; --out holds "started" before.

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr uint64_t kMillisecond = 1'000'000;
constexpr uint64_t kWindow = 100 * kMillisecond;
constexpr size_t kMessageWords = 8;

volatile sig_atomic_t g_ended = 0;
volatile sig_atomic_t g_forget = 0;

uint64_t Now(clockid_t clock = CLOCK_MONOTONIC) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000u + static_cast<uint64_t>(now.tv_nsec);
}

void WriteFile(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::trunc) << text;
}

int Connect(const std::string& address, uint16_t port, int flags) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  inet_pton(AF_INET, address.c_str(), &to.sin_addr);
  const int one = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) != 0 && errno != EINPROGRESS) {
    close(fd);
    return -1;
  }
  return fd;
}

// A minute is far beyond what a server or a bridge takes to be there.
int ConnectOnceItListens(const std::string& address, uint16_t port) {
  const uint64_t end = Now() + 60'000 * kMillisecond;
  int fd = Connect(address, port, 0);
  while (fd < 0 && g_ended == 0 && Now() < end) {
    const timespec pause{0, 10 * kMillisecond};
    nanosleep(&pause, nullptr);
    fd = Connect(address, port, 0);
  }
  return fd;
}

struct Longest {
  uint64_t ns = 0;
  uint64_t at_ns = 0;
  void See(uint64_t from, uint64_t to) {
    if (to - from <= ns) return;
    ns = to - from;
    at_ns = Now(CLOCK_REALTIME);
  }
};

int Ping(const std::string& address, uint16_t port, const std::string& out) {
  const int fd = ConnectOnceItListens(address, port);
  if (fd < 0) return 1;
  WriteFile(out, "started\n");
  Longest stall;
  uint64_t messages = 0;
  uint64_t errors = 0;
  std::string fault;
  while (g_ended == 0 && fault.empty()) {
    uint64_t sent[kMessageWords];
    uint64_t got[kMessageWords];
    for (size_t i = 0; i < kMessageWords; ++i) sent[i] = messages * 0x9E3779B97F4A7C15u + i;
    const uint64_t start = Now();
    if (send(fd, sent, sizeof sent, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof sent)) {
      fault = std::strerror(errno);
      break;
    }
    const ssize_t bytes = recv(fd, got, sizeof got, MSG_WAITALL);
    if (bytes != static_cast<ssize_t>(sizeof got)) {
      if (bytes >= 0 || errno != EINTR) fault = bytes < 0 ? std::strerror(errno) : "end of stream";
      break;
    }
    if (std::memcmp(sent, got, sizeof got) != 0) ++errors;
    ++messages;
    const uint64_t end = Now();
    stall.See(start, end);
    if (end - start < kMillisecond) {
      const timespec rest{0, static_cast<long>(kMillisecond - (end - start))};
      nanosleep(&rest, nullptr);
    }
  }
  std::ostringstream text;
  text << "{\"messages\":" << messages << ",\"errors\":" << errors << ",\"fault\":\"" << fault
       << "\",\"longest_stall_us\":" << stall.ns / 1000 << ",\"stall_at_ns\":" << stall.at_ns
       << "}\n";
  WriteFile(out, text.str());
  return 0;
}

// One client, who asks again and again.
struct Fetcher {
  int fd = -1;
  std::string head;
  bool connecting = false;
  bool in_body = false;
  size_t body = 0;
  uint64_t last_ns = 0;
  uint64_t next_ns = 0;
  uint64_t requests = 0;
  uint64_t longest_ns = 0;
};

class Fetching {
 public:
  Fetching(std::string address, uint16_t port, const std::string& path, const std::string& expect,
           bool each_anew)
      : address_(std::move(address)), port_(port), each_anew_(each_anew) {
    request_ = "GET " + path + " HTTP/1.1\r\nHost: guest\r\n\r\n";
    std::ifstream file(expect, std::ios::binary);
    expected_.assign(std::istreambuf_iterator<char>(file), {});
    poll_ = epoll_create1(EPOLL_CLOEXEC);
  }

  int Run(size_t clients, uint64_t pause_ns, const std::string& out) {
    pause_ns_ = pause_ns;
    fetchers_.resize(clients);
    close(ConnectOnceItListens(address_, port_));
    start_ns_ = Now();
    for (size_t i = 0; i < clients; ++i) Open(i);
    bool started = false;
    while (g_ended == 0) {
      epoll_event events[64];
      const int count = epoll_wait(poll_, events, 64, 1);
      for (int i = 0; i < count; ++i) Read(events[i].data.u64);
      const uint64_t now = Now();
      if (g_forget != 0) {
        g_forget = 0;
        stall_ = {};
        for (Fetcher& fetcher : fetchers_) fetcher.longest_ns = 0;
      }
      for (size_t i = 0; i < clients; ++i) {
        if (fetchers_[i].next_ns != 0 && fetchers_[i].next_ns <= now) Ask(i);
      }
      // All have been served once: no connection is being made any more.
      const auto served = [](const Fetcher& fetcher) { return fetcher.requests > 0; };
      if (!started && std::all_of(fetchers_.begin(), fetchers_.end(), served)) {
        started = true;
        WriteFile(out, "started\n");
      }
    }
    // Who still waits, waits.
    for (const Fetcher& fetcher : fetchers_) {
      if (fetcher.next_ns == 0) stall_.See(fetcher.last_ns, Now());
    }
    Report(out);
    return 0;
  }

 private:
  // The others are read meanwhile: what waits for its connection is one client.
  void Open(size_t index) {
    Fetcher& fetcher = fetchers_[index];
    fetcher.last_ns = Now();
    fetcher.next_ns = 0;
    fetcher.fd = Connect(address_, port_, SOCK_NONBLOCK);
    if (fetcher.fd < 0) {
      Fail("connect", index);
      return;
    }
    fetcher.connecting = true;
    epoll_event event{EPOLLOUT, {.u64 = index}};
    epoll_ctl(poll_, EPOLL_CTL_ADD, fetcher.fd, &event);
  }

  void Connected(size_t index) {
    Fetcher& fetcher = fetchers_[index];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(fetcher.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error != 0) {
      errno = error;
      Fail("connect", index);
      return;
    }
    fetcher.connecting = false;
    epoll_event event{EPOLLIN, {.u64 = index}};
    epoll_ctl(poll_, EPOLL_CTL_MOD, fetcher.fd, &event);
    Send(index);
  }

  void Ask(size_t index) {
    Fetcher& fetcher = fetchers_[index];
    fetcher.next_ns = 0;
    if (fetcher.fd < 0) {
      Open(index);
      return;
    }
    fetcher.last_ns = Now();
    Send(index);
  }

  void Send(size_t index) {
    Fetcher& fetcher = fetchers_[index];
    fetcher.head.clear();
    fetcher.in_body = false;
    fetcher.body = 0;
    if (send(fetcher.fd, request_.data(), request_.size(), MSG_NOSIGNAL) !=
        static_cast<ssize_t>(request_.size())) {
      Fail("send", index);
    }
  }

  // Counted, and tried again a while later.
  void Fail(const std::string& what, size_t index) {
    Fetcher& fetcher = fetchers_[index];
    ++failures_;
    if (first_fault_.empty()) first_fault_ = what + ": " + std::strerror(errno);
    if (fetcher.fd >= 0) close(fetcher.fd);
    fetcher.fd = -1;
    fetcher.connecting = false;
    fetcher.next_ns = Now() + kWindow;
  }

  void Read(size_t index) {
    Fetcher& fetcher = fetchers_[index];
    if (fetcher.connecting) {
      Connected(index);
      return;
    }
    static char bytes[1 << 18];
    const ssize_t got = recv(fetcher.fd, bytes, sizeof bytes, 0);
    if (got <= 0) {
      if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
      if (got == 0) errno = 0;
      Fail(got == 0 ? "end of stream" : "recv", index);
      return;
    }
    const uint64_t now = Now();
    stall_.See(fetcher.last_ns, now);
    fetcher.longest_ns = std::max(fetcher.longest_ns, now - fetcher.last_ns);
    fetcher.last_ns = now;
    const size_t window = (now - start_ns_) / kWindow;
    if (windows_.size() <= window) windows_.resize(window + 1);
    windows_[window] += static_cast<uint64_t>(got);
    Take(index, bytes, static_cast<size_t>(got));
  }

  void Take(size_t index, const char* bytes, size_t count) {
    Fetcher& fetcher = fetchers_[index];
    if (!fetcher.in_body) {
      fetcher.head.append(bytes, count);
      const size_t end = fetcher.head.find("\r\n\r\n");
      if (end == std::string::npos) return;
      if (fetcher.head.compare(0, 12, "HTTP/1.1 200") != 0) {
        Fail("not 200", index);
        return;
      }
      fetcher.in_body = true;
      const std::string rest = fetcher.head.substr(end + 4);
      Take(index, rest.data(), rest.size());
      return;
    }
    if (fetcher.body + count > expected_.size() ||
        std::memcmp(expected_.data() + fetcher.body, bytes, count) != 0) {
      ++wrong_;
      Fail("wrong bytes", index);
      return;
    }
    fetcher.body += count;
    if (fetcher.body < expected_.size()) return;
    ++requests_;
    ++fetcher.requests;
    fetcher.next_ns = Now() + pause_ns_;
    if (!each_anew_) return;
    close(fetcher.fd);
    fetcher.fd = -1;
  }

  void Report(const std::string& out) const {
    std::ostringstream text;
    text << "{\"requests\":" << requests_ << ",\"failures\":" << failures_
         << ",\"wrong\":" << wrong_ << ",\"fault\":\"" << first_fault_
         << "\",\"longest_stall_us\":" << stall_.ns / 1000 << ",\"stall_at_ns\":" << stall_.at_ns
         << ",\"windows_bytes\":[";
    for (size_t i = 0; i < windows_.size(); ++i) text << (i != 0 ? "," : "") << windows_[i];
    text << "],\"client_stalls_us\":[";
    for (size_t i = 0; i < fetchers_.size(); ++i) {
      text << (i != 0 ? "," : "") << fetchers_[i].longest_ns / 1000;
    }
    text << "]}\n";
    WriteFile(out, text.str());
  }

  std::string address_;
  uint16_t port_;
  const bool each_anew_;
  std::string request_;
  std::string expected_;
  int poll_ = -1;
  uint64_t pause_ns_ = 0;
  uint64_t start_ns_ = 0;
  std::vector<Fetcher> fetchers_;
  std::vector<uint64_t> windows_;
  Longest stall_;
  uint64_t requests_ = 0;
  uint64_t failures_ = 0;
  uint64_t wrong_ = 0;
  std::string first_fault_;
};

int Usage() {
  std::fputs(
      "net_client ping ADDRESS PORT --out FILE\n"
      "net_client fetch ADDRESS PORT PATH --expect FILE --out FILE [--clients N] [--pause-ms N] "
      "[--each-anew 1]\n",
      stderr);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) return Usage();
  const std::string mode = argv[1];
  const auto port = static_cast<uint16_t>(std::atoi(argv[3]));
  std::string out;
  std::string expect;
  size_t clients = 100;
  uint64_t pause_ns = 0;
  bool each_anew = false;
  for (int i = mode == "fetch" ? 5 : 4; i + 1 < argc; i += 2) {
    const std::string word = argv[i];
    const auto number = static_cast<size_t>(std::strtoull(argv[i + 1], nullptr, 10));
    if (word == "--out") out = argv[i + 1];
    if (word == "--expect") expect = argv[i + 1];
    if (word == "--clients") clients = number;
    if (word == "--pause-ms") pause_ns = number * kMillisecond;
    if (word == "--each-anew") each_anew = number != 0;
  }
  if (out.empty() || (mode == "fetch") != !expect.empty()) return Usage();
  struct sigaction action {};
  action.sa_handler = [](int) { g_ended = 1; };
  sigaction(SIGTERM, &action, nullptr);
  action.sa_handler = [](int) { g_forget = 1; };
  sigaction(SIGUSR1, &action, nullptr);
  if (mode == "ping") return Ping(argv[2], port, out);
  if (mode == "fetch") {
    return Fetching(argv[2], port, argv[4], expect, each_anew).Run(clients, pause_ns, out);
  }
  return Usage();
}
