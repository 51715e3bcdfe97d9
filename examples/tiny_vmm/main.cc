// tiny_vmm: a VMM that shows how to make guests migratable with the library. The guest counts,
// writes to its memory and checks it; its errors must stay 0, wherever it goes.
//
//   tiny_vmm run [--vcpus N] [--memory MIB] [--psk FILE]
//   tiny_vmm receive ADDRESS [--runtime-dir DIR] [--psk FILE]
//
// Both then take commands on standard input:
//
//   status                       passes and errors of the guest, and of its memory
//   send ADDRESS [OPTION=VALUE]  lets the guest leave; options are those of `migrate send`
//   cancel                       ends that
//   resolve resume|release [force]   when it is not known where the guest runs
//   quit                         ends the guest
//
// ADDRESS is HOST:PORT, unix:PATH or vsock:CID:PORT. Ends with 0 when the guest has left or was
// ended, 1 when none arrived.
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>

#include "guest.hpp"
#include "migration.hpp"

namespace tiny {
namespace {

using Words = std::vector<std::string>;

/// The guest's console: commands come from standard input, migrations have a thread of their own.
class Console {
 public:
  Console(std::shared_ptr<MovableGuest> guest, TlsOptions tls)
      : guest_(std::move(guest)), tls_(std::move(tls)) {}
  ~Console() {
    if (migration_.joinable()) migration_.join();
    close(wake_);
  }
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  void run();

 private:
  enum class State { kHere, kMigrating, kUncertain, kLeft };

  void command(const Words& words);
  void status() const;
  void send(const Words& words);
  static State state_after(Outcome outcome);
  void resolve(const Words& words);
  void quit();
  std::optional<Words> next_line();

  const std::shared_ptr<MovableGuest> guest_;
  const TlsOptions tls_;
  std::atomic<State> state_{State::kHere};
  std::thread migration_;
  const int wake_ = eventfd(0, EFD_CLOEXEC);
  std::string input_;
  bool input_ended_ = false;
  bool quit_wanted_ = false;
};

/// One line of standard input, "quit" at its end; nullopt when a migration has ended meanwhile.
std::optional<Words> Console::next_line() {
  for (;;) {
    if (const auto end = input_.find('\n'); end != std::string::npos) {
      std::istringstream line(input_.substr(0, end));
      input_.erase(0, end + 1);
      Words words;
      for (std::string word; line >> word;) words.push_back(word);
      return words;
    }
    pollfd waits[] = {{wake_, POLLIN, 0}, {input_ended_ ? -1 : STDIN_FILENO, POLLIN, 0}};
    if (poll(waits, 2, -1) < 0) continue;
    if (waits[0].revents != 0) {
      eventfd_t ignored = 0;
      eventfd_read(wake_, &ignored);
      return std::nullopt;
    }
    char bytes[256];
    const ssize_t count = read(STDIN_FILENO, bytes, sizeof bytes);
    if (count > 0) {
      input_.append(bytes, static_cast<std::size_t>(count));
    } else {
      input_ended_ = true;
      return Words{"quit"};
    }
  }
}

void Console::run() {
  while (state_ != State::kLeft && !(quit_wanted_ && state_ == State::kHere)) {
    if (const auto words = next_line(); words && !words->empty()) command(*words);
  }
}

void Console::command(const Words& words) {
  if (words[0] == "status") return status();
  if (words[0] == "send" && words.size() >= 2) return send(words);
  if (words[0] == "cancel") return void(std::puts(guest_->cancel() ? "cancelling" : "too late"));
  if (words[0] == "resolve" && words.size() >= 2) return resolve(words);
  if (words[0] == "quit") return quit();
  std::puts("what? status, send ADDRESS, cancel, resolve resume|release [force], quit");
}

void Console::status() const {
  for (const Counter& counter : guest_->vmm().counters()) {
    std::printf("passes %llu errors %llu\n", static_cast<unsigned long long>(counter.passes),
                static_cast<unsigned long long>(counter.errors));
  }
  const Vmm& vmm = guest_->vmm();
  std::printf("guest: %s, %llu wrong pages%s\n", vmm.paused() ? "paused" : "running",
              static_cast<unsigned long long>(count_wrong_pages(vmm.memory())),
              vmm.failure().c_str());
}

void Console::send(const Words& words) {
  if (state_ != State::kHere) return void(std::puts("the guest is not here alone"));
  OutgoingOptions options;
  for (std::size_t i = 2; i < words.size(); ++i) {
    const auto equals = words[i].find('=');
    const std::string value = equals == std::string::npos ? "" : words[i].substr(equals + 1);
    const Status set = set_option(options, words[i].substr(0, equals), value);
    if (!set) return void(std::puts(set.error().to_text().c_str()));
  }
  if (migration_.joinable()) migration_.join();
  state_ = State::kMigrating;
  migration_ = std::thread([this, options, target = words[1]] {
    const Outcome outcome = guest_->send(target, tls_, options);
    state_ = state_after(outcome);
    std::printf("the guest is %s: %s\n",
                state_ == State::kLeft   ? "gone"
                : state_ == State::kHere ? "here"
                                         : "paused here until `resolve`",
                std::string(to_string(outcome)).c_str());
    eventfd_write(wake_, 1);
  });
}

Console::State Console::state_after(Outcome outcome) {
  switch (outcome) {
    case Outcome::kDone:
    case Outcome::kLost:
      return State::kLeft;  // It must never run here again.
    case Outcome::kUncertain:
      return State::kUncertain;  // It stands, and must not run until it is known who has it.
    case Outcome::kFailed:
    case Outcome::kRefused:
    case Outcome::kCancelled:
      break;
  }
  return State::kHere;  // It runs on, as if nothing had been.
}

void Console::resolve(const Words& words) {
  if (state_ != State::kUncertain) return void(std::puts("it is known where the guest is"));
  const bool force = words.size() > 2 && words[2] == "force";
  const Status done = guest_->resolve(words[1] == "resume", force);
  if (!done) return void(std::puts(done.error().to_text().c_str()));
  state_ = words[1] == "resume" ? State::kHere : State::kLeft;
}

/// A guest that may be the only copy, or is just leaving, is not ended.
void Console::quit() {
  quit_wanted_ = true;
  if (state_ == State::kMigrating) guest_->cancel();
  if (state_ == State::kUncertain) std::puts("`resolve` first: this may be the only copy");
}

int run(const Words& words, const std::map<std::string, std::string>& options) {
  const auto option = [&](const std::string& name, const std::string& otherwise) {
    const auto found = options.find(name);
    return found == options.end() ? otherwise : found->second;
  };
  TlsOptions tls;
  tls.psk_file = option("--psk", "");
  if (words[0] == "run") {
    Shape shape;
    shape.vcpus = static_cast<unsigned>(std::stoul(option("--vcpus", "2")));
    shape.memory_bytes = std::stoull(option("--memory", "64")) << 20;
    auto vmm = std::make_unique<Vmm>(shape, Vmm::Start::kGuest);
    const auto guest = std::make_shared<MovableGuest>(std::move(vmm));
    guest->vmm().resume();
    std::puts("running");
    return Console(guest, tls).run(), EXIT_SUCCESS;
  }
  Arrival arrival(option("--runtime-dir", "/run/tiny_vmm"));
  auto arriving = arrival.guest();
  std::thread receiving([&] { arrival.receive(words[1], tls); });
  const std::shared_ptr<MovableGuest> guest = arriving.get();
  if (guest != nullptr) {
    std::puts("running");
    Console(guest, tls).run();
  }
  receiving.join();  // The source may still have to be told: at most the ask window.
  return guest != nullptr ? EXIT_SUCCESS : EXIT_FAILURE;
}

}  // namespace
}  // namespace tiny

int main(int argc, char** argv) try {
  setvbuf(stdout, nullptr, _IOLBF, 0);
  tiny::Words words;
  std::map<std::string, std::string> options;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    if (word.rfind("--", 0) == 0 && i + 1 < argc) {
      options[word] = argv[++i];
    } else {
      words.push_back(word);
    }
  }
  if (words == tiny::Words{"run"} || (words.size() == 2 && words[0] == "receive")) {
    return tiny::run(words, options);
  }
  std::fputs(
      "usage: tiny_vmm run [--vcpus N] [--memory MIB] [--psk FILE]\n"
      "       tiny_vmm receive ADDRESS [--runtime-dir DIR] [--psk FILE]\n",
      stderr);
  return 2;
} catch (const std::exception& error) {
  std::fprintf(stderr, "tiny_vmm: %s\n", error.what());
  return EXIT_FAILURE;
}
