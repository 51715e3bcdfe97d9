// The command line: what it refuses and how, and the life of a guest on one host.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "migrate/options.hpp"
#include "tests/tools/command_process.hpp"
#include "tests/tools/scratch_folder.hpp"

namespace migrate::tool {
namespace {

using testing::CommandProcess;
using testing::ScratchFolder;
using testing::wait_for;

using Words = std::vector<std::string>;

class CommandTest : public ::testing::Test {
 protected:
  struct Ran {
    int code = -1;
    std::string out;
    std::string err;
    Json json;
  };
  Ran run(Words words) {
    CommandProcess process(scratch_.path(), std::move(words));
    Ran ran;
    ran.code = process.wait();
    ran.out = process.out();
    ran.err = process.err();
    ran.json = process.json();
    return ran;
  }
  /// The folder holds nothing but what is named.
  void expect_folder(const Words& expected) {
    Words found;
    for (const auto& entry : std::filesystem::directory_iterator(scratch_.path())) {
      found.push_back(entry.path().filename().string());
    }
    std::sort(found.begin(), found.end());
    EXPECT_EQ(found, expected);
  }

  ScratchFolder scratch_;
};

TEST_F(CommandTest, UsageErrorsExitWith2AndSayWhatIsWrong) {
  const std::vector<std::pair<Words, std::string>> lines = {
      {{}, "subcommand"},
      {{"fly"}, "fly"},
      {{"run"}, "NAME"},
      {{"run", "a/b"}, "a/b"},
      {{"run", "web", "--memory", "lots"}, "lots"},
      {{"run", "web", "--memory", "1K"}, "memory"},
      {{"run", "web", "--vcpus", "many"}, "many"},
      {{"run", "web", "--guest", "dancer"}, "dancer"},
      {{"send", "vm:web"}, "TARGET"},
      {{"send", "web", "127.0.0.1:1"}, "vm:NAME"},
      {{"send", "vm:web", "127.0.0.1"}, "HOST:PORT"},
      {{"send", "vm:web", "127.0.0.1:0"}, "port"},
      {{"send", "vm:web", "127.0.0.1:1", "--max-downtime", "soon"}, "max-downtime"},
      {{"send", "vm:web", "127.0.0.1:1", "--strategy", "teleport"}, "strategy"},
      {{"send", "vm:web", "10.1.2.3:1"}, "--insecure"},
      {{"send", "vm:web", "vsock:3:4444"}, "--insecure"},
      {{"send", "vm:web", "127.0.0.1:1", "--events", "/no/such/folder/x"}, "--events"},
      {{"recv"}, "--listen"},
      {{"recv", "--listen", "nowhere"}, "HOST:PORT"},
      {{"recv", "--listen", "0.0.0.0:0"}, "--insecure"},
      {{"recv", "--listen", "vsock:4444"}, "--insecure"},
      {{"recv", "--listen", "127.0.0.1:0", "--lease", "0s"}, "lease"},
      {{"recv", "--listen", "127.0.0.1:0", "--accept", "ships"}, "accept"},
      {{"recv", "--listen", "127.0.0.1:0", "--tracker", "tea-leaves"}, "write-protect"},
      {{"run", "web", "--tracker", "tea-leaves"}, "write-protect"},
      {{"status"}, "NAME"},
      {{"status", "a b"}, "a b"},
      {{"resolve", "web"}, "resume"},
      {{"resolve", "web", "--resume", "--release"}, "release"},
      {{"ps", "--log-level", "loud"}, "loud"},
  };
  for (const auto& [words, hint] : lines) {
    const Ran text = run(words);
    EXPECT_EQ(text.code, 2) << hint << "\n" << text.err;
    EXPECT_NE(text.err.find(hint), std::string::npos) << hint << "\n" << text.err;
    EXPECT_EQ(text.out, "");

    Words with_json = words;
    with_json.push_back("--json");
    const Ran json = run(with_json);
    EXPECT_EQ(json.code, 2) << hint;
    ASSERT_TRUE(json.json.is_object()) << json.out;
    EXPECT_EQ(json.json["error"]["code"], "invalid-argument") << json.out;
    EXPECT_FALSE(json.json["error"]["remedy"].get<std::string>().empty()) << json.out;
  }
  expect_folder({});
}

TEST_F(CommandTest, HelpNamesEveryOptionOfTheRegistry) {
  const Ran help = run({"send", "--help"});
  EXPECT_EQ(help.code, 0);
  for (const OptionSpec& spec : outgoing_option_registry()) {
    EXPECT_NE(help.out.find("--" + std::string(spec.name)), std::string::npos) << spec.name;
  }
}

TEST_F(CommandTest, AGuestThatIsNotThereIsNotFound) {
  for (const Words& words : {Words{"status", "web"},
                             {"stats", "web"},
                             {"pause", "web"},
                             {"resume", "web"},
                             {"stop", "web"},
                             {"cancel", "web"},
                             {"resolve", "web", "--resume"},
                             {"send", "vm:web", "127.0.0.1:1"},
                             {"status", "web", "--follow"}}) {
    Words with_json = words;
    with_json.push_back("--json");
    const Ran ran = run(with_json);
    EXPECT_EQ(ran.code, 1) << words[0];
    ASSERT_TRUE(ran.json.is_object()) << ran.out;
    EXPECT_EQ(ran.json["error"]["code"], "not-found") << words[0];
    EXPECT_NE(run(words).err.find("migrate ps"), std::string::npos) << words[0];
  }
}

TEST_F(CommandTest, AFailedSendIsAReportOfTheWholeShape) {
  const Ran ran = run({"send", "vm:web", "127.0.0.1:1", "--json"});
  EXPECT_EQ(ran.json["outcome"], "failed");
  EXPECT_TRUE(ran.json.contains("phases_ms"));
}

TEST_F(CommandTest, PsOfAnEmptyHostIsEmpty) {
  EXPECT_EQ(run({"ps", "--json"}).json["guests"], Json::array());
}

TEST_F(CommandTest, PsSweepsSocketsOfDeadProcesses) {
  std::ofstream(scratch_.path() / "dead.sock") << "";
  EXPECT_EQ(run({"ps", "--json"}).json["guests"], Json::array());
  expect_folder({});
}

TEST_F(CommandTest, DoctorSaysWhatThisHostOffers) {
  const Ran ran = run({"doctor", "--json"});
  ASSERT_TRUE(ran.json.is_object()) << ran.out;
  bool kvm_ok = false;
  for (const Json& check : ran.json["checks"]) {
    for (const char* key : {"check", "result", "detail", "remedy"})
      EXPECT_TRUE(check.contains(key));
    if (check["result"] != "ok") {
      EXPECT_FALSE(check["remedy"].get<std::string>().empty()) << check;
    }
    if (check["check"] == "kvm") kvm_ok = check["result"] == "ok";
  }
  EXPECT_EQ(kvm_ok, testing::kvm_is_here());
  EXPECT_EQ(ran.code, ran.json["usable"] == true ? 0 : 1);
}

TEST_F(CommandTest, ARuntimeFolderOthersCanWriteIsRefused) {
  ASSERT_EQ(chmod(scratch_.path().c_str(), 0777), 0);
  const Ran ran = run({"ps", "--json"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.json["error"]["code"], "permission");
}

class GuestCommandTest : public CommandTest {
 protected:
  void SetUp() override {
    if (!testing::kvm_is_here()) GTEST_SKIP() << "needs /dev/kvm";
  }
  std::unique_ptr<CommandProcess> start(const std::string& name, Words more = {}) {
    Words words = {"run", name, "--memory", "32M"};
    words.insert(words.end(), more.begin(), more.end());
    auto process = std::make_unique<CommandProcess>(scratch_.path(), words);
    EXPECT_TRUE(wait_for([&] {
      return !process->running() || std::filesystem::exists(scratch_.path() / (name + ".sock"));
    }));
    EXPECT_TRUE(process->running()) << process->err();
    return process;
  }
  Json stats(const std::string& name) { return run({"stats", name, "--json"}).json; }
  std::string state(const std::string& name) {
    return run({"status", name, "--json"}).json.value("state", "");
  }
};

TEST_F(GuestCommandTest, AGuestLivesFromRunToStop) {
  const auto guest = start("web", {"--guest", "counter", "--json"});
  EXPECT_EQ(state("web"), "running");
  const Json listed = run({"ps", "--json"}).json["guests"];
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0]["name"], "web");
  EXPECT_EQ(listed[0]["pid"], guest->pid());
  EXPECT_EQ(listed[0]["memory_bytes"], 32u << 20);

  EXPECT_EQ(run({"pause", "web", "--json"}).json["state"], "paused");
  const Json paused = stats("web");
  for (const char* key : {"uptime_ms", "pages_written", "verify_passes", "verify_errors",
                          "packets_answered", "vcpus"}) {
    EXPECT_TRUE(paused.contains(key)) << key;
  }
  EXPECT_TRUE(paused["vcpus"][0].contains("work"));
  EXPECT_TRUE(paused["vcpus"][0].contains("cpu_ms"));
  EXPECT_EQ(stats("web")["vcpus"][0]["work"], paused["vcpus"][0]["work"]) << "it is paused";
  EXPECT_EQ(run({"resume", "web"}).code, 0);
  EXPECT_TRUE(wait_for([&] {
    return stats("web")["vcpus"][0]["work"].get<std::uint64_t>() >
           paused["vcpus"][0]["work"].get<std::uint64_t>();
  }));

  EXPECT_EQ(run({"stop", "web", "--json"}).json["state"], "stopped");
  EXPECT_EQ(guest->wait(), 0);
  EXPECT_EQ(guest->json()["outcome"], "stopped");
  expect_folder({});
}

TEST_F(GuestCommandTest, SigtermStopsTheGuest) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const auto guest = start("web");
    guest->signal(signal);
    EXPECT_EQ(guest->wait(), 0);
    expect_folder({});
  }
}

TEST_F(GuestCommandTest, ANameIsTakenOnce) {
  const auto guest = start("web");
  const Ran second = run({"run", "web", "--memory", "32M", "--json"});
  EXPECT_EQ(second.code, 1);
  EXPECT_EQ(second.json["error"]["code"], "name-taken");
  EXPECT_EQ(state("web"), "running") << "the first is untouched";
  guest->signal(SIGTERM);
  EXPECT_EQ(guest->wait(), 0);
}

TEST_F(GuestCommandTest, ANameIsFreeAgainAfterKill9) {
  const auto guest = start("web");
  guest->signal(SIGKILL);
  EXPECT_EQ(guest->wait(), 128 + SIGKILL);
  EXPECT_EQ(run({"status", "web"}).code, 1);
  const auto again = start("web");
  EXPECT_TRUE(wait_for([&] { return state("web") == "running"; }));
  again->signal(SIGTERM);
  EXPECT_EQ(again->wait(), 0);
  expect_folder({});
}

TEST_F(GuestCommandTest, DetachReturnsOnceTheGuestAnswers) {
  const Ran started = run({"run", "web", "--memory", "32M", "--detach", "--json"});
  ASSERT_EQ(started.code, 0) << started.out << started.err;
  EXPECT_EQ(started.json["name"], "web");
  EXPECT_EQ(state("web"), "running");
  EXPECT_EQ(run({"stop", "web"}).code, 0);
  EXPECT_TRUE(wait_for([&] { return std::filesystem::is_empty(scratch_.path()); }));
}

TEST_F(GuestCommandTest, AFailedDetachSaysWhy) {
  const auto guest = start("web");
  const Ran second = run({"run", "web", "--memory", "32M", "--detach"});
  EXPECT_EQ(second.code, 1);
  EXPECT_NE(second.err.find("'web'"), std::string::npos);
  guest->signal(SIGTERM);
  EXPECT_EQ(guest->wait(), 0);
}

TEST_F(GuestCommandTest, NothingToCancelOrResolveIsSaidSo) {
  const auto guest = start("web");
  EXPECT_EQ(run({"cancel", "web"}).code, 1);
  EXPECT_EQ(run({"resolve", "web", "--resume"}).code, 2);
  EXPECT_EQ(run({"status", "web", "--follow", "--json"}).json["state"], "running");
  guest->signal(SIGTERM);
  EXPECT_EQ(guest->wait(), 0);
}

TEST_F(GuestCommandTest, AFailedSendLeavesTheGuestRunning) {
  const auto guest = start("web", {"--guest", "counter"});
  const Ran sent = run({"send", "vm:web", "127.0.0.1:1", "--json", "--connect-timeout", "2s"});
  EXPECT_EQ(sent.code, 1);
  EXPECT_EQ(sent.json["outcome"], "failed");
  EXPECT_EQ(sent.json["error"]["code"], "connect-failed") << sent.out;
  EXPECT_FALSE(sent.json["error"]["remedy"].get<std::string>().empty());
  EXPECT_EQ(state("web"), "running");
  EXPECT_EQ(run({"status", "web", "--follow", "--json"}).code, 1) << "the last one's report";
  guest->signal(SIGTERM);
  EXPECT_EQ(guest->wait(), 0);
}

}  // namespace
}  // namespace migrate::tool
