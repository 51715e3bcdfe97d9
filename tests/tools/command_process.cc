#include "tests/tools/command_process.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <thread>

namespace migrate::tool::testing {
namespace {

constexpr std::chrono::milliseconds kLook{5};

std::string content(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

std::filesystem::path output_path(const char* what) {
  static std::atomic<int> number{0};
  return std::filesystem::temp_directory_path() /
         ("mig-" + std::to_string(getpid()) + "-" + std::to_string(number++) + "." + what);
}

std::vector<std::string> environment(const std::filesystem::path& runtime) {
  // First: of two alike, the first counts.
  std::vector<std::string> variables = {"MIGRATE_RUNTIME_DIR=" + runtime.string()};
  for (char** entry = environ; *entry != nullptr; ++entry) variables.emplace_back(*entry);
  return variables;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

}  // namespace

CommandProcess::CommandProcess(const std::filesystem::path& runtime,
                               std::vector<std::string> arguments)
    : out_(output_path("out")), err_(output_path("err")) {
  arguments.insert(arguments.begin(), MIGRATE_COMMAND);
  std::vector<std::string> variables = environment(runtime);
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&files, 1, out_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  posix_spawn_file_actions_addopen(&files, 2, err_.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const int failure = posix_spawn(&pid_, MIGRATE_COMMAND, &files, nullptr,
                                  pointers(arguments).data(), pointers(variables).data());
  posix_spawn_file_actions_destroy(&files);
  EXPECT_EQ(failure, 0);
}

CommandProcess::~CommandProcess() {
  if (running()) {
    ::kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  std::filesystem::remove(out_);
  std::filesystem::remove(err_);
}

void CommandProcess::signal(int number) const { ::kill(pid_, number); }

bool CommandProcess::running() {
  if (ended_) return false;
  int status = 0;
  if (waitpid(pid_, &status, WNOHANG) != pid_) return true;
  ended_ = true;
  code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return false;
}

int CommandProcess::wait() {
  wait_for([this] { return !running(); });
  EXPECT_TRUE(ended_) << "still running; it wrote:\n" << out() << err();
  return code_;
}

std::string CommandProcess::out() const { return content(out_); }
std::string CommandProcess::err() const { return content(err_); }

Json CommandProcess::json() const {
  const std::string text = out();
  Json json = Json::parse(text, nullptr, false);
  return json.is_discarded() ? Json(nullptr) : json;
}

bool wait_for(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(kLook);
  }
  return true;
}

bool kvm_is_here() { return access("/dev/kvm", R_OK | W_OK) == 0; }

}  // namespace migrate::tool::testing
