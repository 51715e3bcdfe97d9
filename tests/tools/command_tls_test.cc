// Migrations of real guests over TLS, with files that `migrate keygen` made.
#include <gtest/gtest.h>

#include "tests/tools/command_host.hpp"

namespace migrate::tool {
namespace {

using testing::Host;
using testing::Process;
using testing::wait_for;
using testing::Words;

constexpr const char* kWorkload = "writer:rate=20M,set=8M";

Words joined(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

class CommandTlsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!testing::kvm_is_here()) GTEST_SKIP() << "needs /dev/kvm";
  }
  [[nodiscard]] std::string file(const std::string& name) const { return files_.folder() / name; }

  Words psk(const std::string& name) const {
    if (!std::filesystem::exists(file(name))) {
      EXPECT_EQ(files_.code({"keygen", "--psk", file(name)}), 0);
    }
    return {"--tls-psk", file(name)};
  }
  /// A new certificate of the authority `ca`.
  Words certificate(const std::string& name, const std::string& ca) const {
    if (!std::filesystem::exists(file(ca + ".key"))) {
      EXPECT_EQ(files_.code({"keygen", "--ca", file(ca)}), 0);
    }
    EXPECT_EQ(files_.code({"keygen", "--ca", file(ca), "--cert", file(name), "--name", "127.0.0.1",
                           "--name", name + ".example"}),
              0);
    return {"--tls-cert",        file(name + ".pem"), "--tls-key",
            file(name + ".key"), "--tls-ca",          file(ca + ".pem")};
  }

  /// Sends the guest, which must arrive, and ends it there.
  void move(const Words& source, const Words& target, const Words& more) {
    const Process guest = a_.run(kWorkload);
    std::string address;
    const Process listener = b_.listen(joined(target, more), address);
    const Json report =
        a_.json(joined({"send", "vm:web", address, "--verify", "full", "--lanes", "2"}, source));
    ASSERT_EQ(report["outcome"], "done") << report << listener->err();
    EXPECT_EQ(report["integrity"]["full"], "equal");
    EXPECT_EQ(guest->wait(), 0);
    EXPECT_EQ(b_.state(), "running");
    EXPECT_EQ(b_.code({"stop", "web"}), 0);
    if (more.empty()) listener->signal(SIGTERM);
    EXPECT_EQ(listener->wait(), 0) << listener->err();
  }
  /// Sends it in vain: it goes on where it is, and the listener takes the next one.
  void expect_refused(const Words& source, const std::string& address, const std::string& code) {
    const Json report = a_.json(joined({"send", "vm:web", address}, source));
    EXPECT_EQ(report["outcome"], "failed") << report;
    EXPECT_EQ(report["error"]["code"], code) << report;
    EXPECT_NE(report["error"]["remedy"], "") << report;
    EXPECT_EQ(a_.state(), "running");
  }

  Host files_;
  Host a_;
  Host b_;
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
  const Process guest = a_.run(kWorkload);
  const Words good = certificate("a", "ca");
  Words stranger = certificate("stranger", "other");
  stranger.back() = file("ca.pem");
  for (const Words& how : {Words{"--once"}, Words{"--hello-timeout", "5s"}}) {
    std::string address;
    const Process listener =
        b_.listen(joined(certificate(how.size() == 1 ? "b" : "c", "ca"), how), address);
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
  EXPECT_EQ(a_.code({"stop", "web"}), 0);
  // A connection that names a new session has a process until it should have said HELLO.
  EXPECT_TRUE(wait_for([&] {
    for (const auto& entry : std::filesystem::directory_iterator(b_.folder())) {
      if (entry.path().extension() == ".lanes") return false;
    }
    return true;
  }));
}

}  // namespace
}  // namespace migrate::tool
