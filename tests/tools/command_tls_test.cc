// Migrations of real guests over TLS, with files that `migrate keygen` made.
#include <gtest/gtest.h>

#include "tests/tools/command_process.hpp"
#include "tests/tools/scratch_folder.hpp"

namespace migrate::tool {
namespace {

using testing::CommandProcess;
using testing::ScratchFolder;
using testing::wait_for;
using Words = std::vector<std::string>;
using Process = std::unique_ptr<CommandProcess>;

Words joined(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

class CommandTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::kvm_is_here()) GTEST_SKIP() << "needs /dev/kvm";
  }
  static Process start(const ScratchFolder& host, Words words) {
    return std::make_unique<CommandProcess>(host.path(), std::move(words));
  }
  static int code(const ScratchFolder& host, Words words) {
    return CommandProcess(host.path(), std::move(words)).wait();
  }
  static Json json(const ScratchFolder& host, Words words) {
    CommandProcess process(host.path(), joined(std::move(words), {"--json"}));
    process.wait();
    return process.json();
  }
  [[nodiscard]] std::string file(const std::string& name) const { return files_.path() / name; }

  Words psk(const std::string& name) const {
    if (!std::filesystem::exists(file(name))) {
      EXPECT_EQ(code(files_, {"keygen", "--psk", file(name)}), 0);
    }
    return {"--tls-psk", file(name)};
  }
  /// A new certificate of the authority `ca`.
  Words certificate(const std::string& name, const std::string& ca) const {
    if (!std::filesystem::exists(file(ca + ".key"))) {
      EXPECT_EQ(code(files_, {"keygen", "--ca", file(ca)}), 0);
    }
    EXPECT_EQ(code(files_, {"keygen", "--ca", file(ca), "--cert", file(name), "--name", "127.0.0.1",
                            "--name", name + ".example"}),
              0);
    return {"--tls-cert",        file(name + ".pem"), "--tls-key",
            file(name + ".key"), "--tls-ca",          file(ca + ".pem")};
  }

  Process run(const ScratchFolder& host) const {
    Process process =
        start(host, {"run", "web", "--memory", "64M", "--guest", "writer:rate=20M,set=8M"});
    EXPECT_TRUE(wait_for(
        [&] { return !process->running() || std::filesystem::exists(host.path() / "web.sock"); }));
    EXPECT_TRUE(process->running()) << process->err();
    return process;
  }
  Process listen(const ScratchFolder& host, const Words& more, std::string& address) const {
    Process process = start(host, joined({"recv", "--listen", "127.0.0.1:0"}, more));
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
  /// Sends the guest, which must arrive, and ends it there.
  void move(const Words& source, const Words& target, const Words& more) {
    const Process guest = run(a_);
    std::string address;
    const Process listener = listen(b_, joined(target, more), address);
    const Json report =
        json(a_, joined({"send", "vm:web", address, "--verify", "full", "--lanes", "2"}, source));
    ASSERT_EQ(report["outcome"], "done") << report << listener->err();
    EXPECT_EQ(report["integrity"]["full"], "equal");
    EXPECT_EQ(guest->wait(), 0);
    EXPECT_EQ(json(b_, {"status", "web"})["state"], "running");
    EXPECT_EQ(code(b_, {"stop", "web"}), 0);
    if (more.empty()) listener->signal(SIGTERM);
    EXPECT_EQ(listener->wait(), 0) << listener->err();
  }
  /// Sends it in vain: it goes on where it is, and the listener takes the next one.
  void expect_refused(const Words& source, const std::string& address, const std::string& code) {
    const Json report = json(a_, joined({"send", "vm:web", address}, source));
    EXPECT_EQ(report["outcome"], "failed") << report;
    EXPECT_EQ(report["error"]["code"], code) << report;
    EXPECT_NE(report["error"]["remedy"], "") << report;
    EXPECT_EQ(json(a_, {"status", "web"})["state"], "running");
  }

  ScratchFolder files_;
  ScratchFolder a_;
  ScratchFolder b_;
};

TEST_F(CommandTlsTest, AGuestMovesByCertificates) {
  const Words source = certificate("a", "ca");
  move(source, certificate("b", "ca"), {"--once"});
}

TEST_F(CommandTlsTest, AGuestMovesByAPreSharedKey) { move(psk("key"), psk("key"), {"--once"}); }

TEST_F(CommandTlsTest, AListenerThatStaysTakesGuestsByCertificates) {
  const Words source = certificate("a", "ca");
  move(source, certificate("b", "ca"), {});
}

TEST_F(CommandTlsTest, AGuestRunsOnWhereATargetOrASourceIsNotTrusted) {
  const Process guest = run(a_);
  const Words good = certificate("a", "ca");
  Words stranger = certificate("stranger", "other");
  stranger.back() = file("ca.pem");
  for (const Words& how : {Words{"--once"}, Words{"--hello-timeout", "5s"}}) {
    std::string address;
    const Process listener =
        listen(b_, joined(certificate(how.size() == 1 ? "b" : "c", "ca"), how), address);
    // The target is of an authority that the source does not know; then the reverse; then none.
    Words other_trust = good;
    other_trust.back() = file("other.pem");
    expect_refused(other_trust, address, "unauthorized");
    expect_refused(stranger, address, "unauthorized");
    expect_refused(joined(good, {"--tls-name", "c.invalid"}), address, "unauthorized");
    expect_refused(psk("key"), address, "unauthorized");
    expect_refused({}, address, "unauthorized");
    EXPECT_NE(listener->err().find("refused"), std::string::npos) << listener->err();
  }
  EXPECT_EQ(code(a_, {"stop", "web"}), 0);
  // A connection that names a new session has a process until it should have said HELLO.
  EXPECT_TRUE(wait_for([&] {
    for (const auto& entry : std::filesystem::directory_iterator(b_.path())) {
      if (entry.path().extension() == ".lanes") return false;
    }
    return true;
  }));
}

}  // namespace
}  // namespace migrate::tool
