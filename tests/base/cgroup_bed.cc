#include "cgroup_bed.hpp"

#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <iterator>
#include <sstream>
#include <thread>

namespace migrate {
namespace {

using SteadyClock = std::chrono::steady_clock;

std::string content_of(const std::string& path) {
  std::ifstream file(path);
  if (!file) return "(none)";
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

bool contains_word(const std::string& list, const std::string& word, char separator) {
  std::istringstream words(list);
  for (std::string one; std::getline(words, one, separator);) {
    if (one == word) return true;
  }
  return false;
}

std::chrono::nanoseconds cpu_time(pid_t pid) {
  clockid_t clock{};
  timespec now{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &now) != 0) return {};
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace

std::optional<std::string> find_cpu_hierarchy(int version) {
  std::ifstream mounts("/proc/mounts");
  std::string device;
  std::string path;
  std::string kind;
  std::string options;
  for (std::string rest;
       mounts >> device >> path >> kind >> options && std::getline(mounts, rest);) {
    if (::access(path.c_str(), W_OK) != 0) continue;
    if (version == 1 && kind == "cgroup" && contains_word(options, "cpu", ',')) return path;
    if (version == 2 && kind == "cgroup2" &&
        contains_word(content_of(path + "/cgroup.subtree_control"), "cpu", ' ')) {
      return path;
    }
  }
  return std::nullopt;
}

TestGroup::TestGroup(const std::string& above, const std::string& name) {
  static int number = 0;
  path_ = above + "/" + name + "-" + std::to_string(::getpid()) + "-" + std::to_string(++number);
  made_ = ::mkdir(path_.c_str(), 0755) == 0;
}

TestGroup::~TestGroup() { remove(); }

void TestGroup::remove() {
  for (const pid_t pid : busy_) ::kill(pid, SIGKILL);
  for (const pid_t pid : busy_) ::waitpid(pid, nullptr, 0);
  busy_.clear();
  if (!made_) return;
  // What has ended may be in its group for a moment yet.
  const auto patience = SteadyClock::now() + std::chrono::seconds(30);
  while (::rmdir(path_.c_str()) != 0 && errno == EBUSY && SteadyClock::now() < patience) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  made_ = false;
}

std::string TestGroup::read(const std::string& file) const {
  return content_of(path_ + "/" + file);
}

bool TestGroup::write(const std::string& file, const std::string& text) const {
  std::ofstream out(path_ + "/" + file);
  return static_cast<bool>(out << text << std::flush);
}

pid_t TestGroup::start_busy() {
  const pid_t test = ::getpid();
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != test) ::_exit(1);
    for (std::atomic<unsigned> work{0};;) work.fetch_add(1, std::memory_order_relaxed);
  }
  if (pid < 0) return -1;
  busy_.push_back(pid);
  return write("cgroup.procs", std::to_string(pid)) ? pid : -1;
}

double cpu_share(pid_t pid, std::chrono::milliseconds wall) {
  const auto began = SteadyClock::now();
  const auto before = cpu_time(pid);
  std::this_thread::sleep_for(wall);
  const std::chrono::duration<double> got = cpu_time(pid) - before;
  const std::chrono::duration<double> passed = SteadyClock::now() - began;
  return got / passed;
}

}  // namespace migrate
