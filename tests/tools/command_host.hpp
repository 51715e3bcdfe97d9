// Host: a runtime folder of its own, in which the migrate command works as on another machine.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tests/tools/command_process.hpp"
#include "tests/tools/scratch_folder.hpp"

namespace migrate::tool::testing {

using Words = std::vector<std::string>;
using Process = std::unique_ptr<CommandProcess>;

class Host {
 public:
  Process start(Words words) const {
    return std::make_unique<CommandProcess>(scratch_.path(), std::move(words));
  }
  Json json(Words words) const {
    words.push_back("--json");
    CommandProcess process(scratch_.path(), std::move(words));
    process.wait();
    return process.json();
  }
  int code(Words words) const { return CommandProcess(scratch_.path(), std::move(words)).wait(); }

  Process run(const std::string& workload, const std::string& memory = "64M") const {
    Process process = start({"run", "web", "--memory", memory, "--guest", workload});
    EXPECT_TRUE(wait_for([&] { return !process->running() || answers(); }));
    EXPECT_TRUE(process->running()) << process->err();
    return process;
  }
  /// Starts a listener; `address` is where.
  Process listen(Words more, std::string& address, const std::string& where = "127.0.0.1:0") const {
    Words words = {"recv", "--listen", where};
    words.insert(words.end(), more.begin(), more.end());
    Process process = start(std::move(words));
    constexpr std::string_view kWord = "listening on ";
    EXPECT_TRUE(wait_for([&] {
      const std::string text = process->err();
      const auto begin = text.find(kWord);
      const auto end = text.find('\n', begin);
      if (begin == std::string::npos || end == std::string::npos) return !process->running();
      address = text.substr(begin + kWord.size(), end - begin - kWord.size());
      return true;
    }));
    EXPECT_TRUE(process->running()) << process->err();
    return process;
  }

  bool answers() const { return std::filesystem::exists(socket()); }
  const std::filesystem::path& folder() const { return scratch_.path(); }
  std::filesystem::path socket() const { return scratch_.path() / "web.sock"; }
  std::string state() const { return json({"status", "web"}).value("state", ""); }
  std::uint64_t work() const {
    return json({"stats", "web"})["vcpus"][0]["work"].get<std::uint64_t>();
  }
  std::uint64_t errors() const {
    return json({"stats", "web"})["verify_errors"].get<std::uint64_t>();
  }
  /// Nothing of guests, sockets or processes is left. The journal is: a source may still ask.
  void expect_empty() const {
    for (const auto& entry : std::filesystem::directory_iterator(scratch_.path())) {
      EXPECT_EQ(entry.path().filename(), "sessions") << "left behind";
    }
  }

 private:
  ScratchFolder scratch_;
};

}  // namespace migrate::tool::testing
