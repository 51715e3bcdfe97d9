#include "tests/dirtylog/writer_client.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "memory/process_status.hpp"

namespace migrate::testing {
namespace {

std::string path_of(pid_t pid, const char* file) {
  return "/proc/" + std::to_string(pid) + "/" + file;
}

}  // namespace

bool wait_for(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
  return true;
}

Writer::Writer() {
  std::array<int, 2> commands{};
  std::array<int, 2> data{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, commands.data()) != 0 ||
      ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, data.data()) != 0) {
    std::abort();
  }
  socket_.reset(commands[0]);
  data_.reset(data[0]);
  const Fd its_commands(::fcntl(commands[1], F_DUPFD_CLOEXEC, 16));
  const Fd its_data(::fcntl(data[1], F_DUPFD_CLOEXEC, 16));
  ::close(commands[1]);
  ::close(data[1]);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(its_commands.get(), 3);
    ::dup2(its_data.get(), 4);
    ::execl(MIGRATE_WRITER_PROCESS, "writer", nullptr);
    ::_exit(127);
  }
  if (answer() != "ready") std::abort();
  memory_.reset(::open(path_of(pid_, "mem").c_str(), O_RDWR | O_CLOEXEC));
}

Writer::~Writer() { end(); }

void Writer::end() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
  pid_ = -1;
}

void Writer::tell(const std::string& command) {
  (void)::send(socket_.get(), command.data(), command.size(), MSG_NOSIGNAL);
}

std::string Writer::answer() {
  pollfd ready{socket_.get(), POLLIN, 0};
  const auto patience = std::chrono::milliseconds(kPatience);
  if (::poll(&ready, 1, static_cast<int>(patience.count())) <= 0) return {};
  std::array<char, 256> message{};
  const ssize_t got = ::recv(socket_.get(), message.data(), message.size(), 0);
  return got <= 0 ? std::string() : std::string(message.data(), static_cast<std::size_t>(got));
}

std::string Writer::ask(const std::string& command) {
  tell(command);
  return answer();
}

std::uint64_t Writer::number(const std::string& command) {
  const std::string text = ask(command);
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

void Writer::write(std::uint64_t address, std::uint64_t pages, std::uint64_t value) {
  if (ask("write " + std::to_string(address) + " " + std::to_string(pages) + " " +
          std::to_string(value)) != "ok") {
    std::abort();
  }
}

void Writer::send_data(char byte) const { (void)!::write(data_.get(), &byte, 1); }
void Writer::signal(int number) const { ::kill(pid_, number); }

bool Writer::waits_in(long number) const {
  const std::string begin = std::to_string(number) + " ";
  return wait_for([&] {
    const auto call = read_proc_file(path_of(pid_, "syscall"));
    return call && call->starts_with(begin) && state() == 'S';
  });
}

char Writer::state() const {
  const auto status = thread_status(pid_, pid_);
  return status ? status->state : '?';
}

bool Writer::hold() const {
  signal(SIGSTOP);
  // One thread stops before another, which may be in the middle of a call.
  return wait_for([&] {
    const auto threads = threads_of(pid_);
    return threads && std::all_of(threads->begin(), threads->end(), [&](pid_t thread) {
             const auto status = thread_status(pid_, thread);
             return !status || status->state == 'T';
           });
  });
}

void Writer::let_go() const { signal(SIGCONT); }

std::vector<std::byte> Writer::memory(std::uint64_t address, std::uint64_t pages) const {
  std::vector<std::byte> bytes(pages * kPageSize);
  const ssize_t got =
      ::pread(memory_.get(), bytes.data(), bytes.size(), static_cast<off_t>(address));
  bytes.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  return bytes;
}

std::size_t Writer::descriptors() const {
  std::size_t count = 0;
  DIR* folder = ::opendir(path_of(pid_, "fd").c_str());
  if (folder == nullptr) return 0;
  while (const dirent* entry = ::readdir(folder)) count += entry->d_name[0] != '.' ? 1 : 0;
  ::closedir(folder);
  return count;
}

std::string Writer::maps() const {
  const auto text = read_proc_file(path_of(pid_, "maps"));
  return text ? *text : std::string();
}

}  // namespace migrate::testing
