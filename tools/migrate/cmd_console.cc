// migrate console: what a guest has printed on its serial console, and a way to type there.
#include <fcntl.h>
#include <poll.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/fd.hpp"
#include "command.hpp"
#include "guest_request.hpp"
#include "signals.hpp"

namespace migrate::tool {
namespace {

constexpr char kLeave = 0x1d;  // Ctrl-].
constexpr std::size_t kPieceBytes = 4096;
constexpr std::size_t kTypedMax = 65536;

/// Passes keys on as they are typed, until destroyed; does nothing where input is no terminal.
class RawTerminal {
 public:
  RawTerminal() : raw_(::tcgetattr(STDIN_FILENO, &before_) == 0) {
    if (!raw_) return;
    termios mode = before_;
    ::cfmakeraw(&mode);
    (void)::tcsetattr(STDIN_FILENO, TCSANOW, &mode);
  }
  ~RawTerminal() {
    if (raw_) (void)::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  [[nodiscard]] bool is_terminal() const { return raw_; }

 private:
  termios before_{};
  bool raw_;
};

bool write_whole(int fd, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t done = ::write(fd, bytes.data(), bytes.size());
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) return false;
    bytes = bytes.subspan(static_cast<std::size_t>(done));
  }
  return true;
}

/// Shows what the guest has printed; false when its end of the terminal is gone.
bool show(int terminal) {
  std::array<char, kPieceBytes> buffer;
  const ssize_t count = ::read(terminal, buffer.data(), buffer.size());
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  // A pseudo terminal whose other end is gone reads as EIO.
  if (count <= 0) return false;
  return write_whole(STDOUT_FILENO, std::span(buffer).first(static_cast<std::size_t>(count)));
}

/// What was typed and not taken yet: a guest need not read.
class Typed {
 public:
  enum class Next { kMore, kLeft, kEnd };

  [[nodiscard]] bool empty() const { return bytes_.empty(); }
  [[nodiscard]] bool is_full() const { return bytes_.size() >= kTypedMax; }

  /// Reads standard input; what there is no room for is dropped, as terminals do.
  Next read_more(bool leave_on_key) {
    std::array<char, kPieceBytes> buffer;
    const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count < 0 && (errno == EINTR || errno == EAGAIN)) return Next::kMore;
    if (count <= 0) return Next::kEnd;
    const std::string_view got(buffer.data(), static_cast<std::size_t>(count));
    const std::size_t key = leave_on_key ? got.find(kLeave) : std::string_view::npos;
    if (!is_full()) bytes_ += got.substr(0, key);
    return key == std::string_view::npos ? Next::kMore : Next::kLeft;
  }

  /// Types as much as there is room for.
  bool pass_on(int terminal) {
    const ssize_t done = ::write(terminal, bytes_.data(), bytes_.size());
    if (done > 0) bytes_.erase(0, static_cast<std::size_t>(done));
    return done > 0 || (done < 0 && (errno == EINTR || errno == EAGAIN));
  }

 private:
  std::string bytes_;
};

/// Until the guest has gone, a signal comes or the key to leave is typed.
void attach(int terminal, const SignalFd& signals) {
  const RawTerminal raw;
  Typed typed;
  bool typing = true;
  for (;;) {
    // Keys are looked at in any case, for the one that leaves; what is piped in can wait.
    const bool reads = typing && (raw.is_terminal() || !typed.is_full());
    const short room = typed.empty() ? 0 : POLLOUT;
    std::array<pollfd, 3> waits = {pollfd{terminal, static_cast<short>(POLLIN | room), 0},
                                   pollfd{signals.fd(), POLLIN, 0},
                                   pollfd{reads ? STDIN_FILENO : -1, POLLIN, 0}};
    if (::poll(waits.data(), waits.size(), -1) < 0) continue;
    if (waits[1].revents != 0) return;
    if ((waits[0].revents & ~POLLOUT) != 0 && !show(terminal)) return;
    if ((waits[0].revents & POLLOUT) != 0 && !typed.pass_on(terminal)) return;
    if (waits[2].revents == 0) continue;
    const Typed::Next next = typed.read_more(raw.is_terminal());
    if (next == Typed::Next::kLeft || (next == Typed::Next::kEnd && raw.is_terminal())) return;
    // What was piped in is typed; what the guest says to it is still to come.
    if (next == Typed::Next::kEnd) typing = false;
  }
}

void print_text(const Json& console) {
  const std::string text = console.value("text", "");
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

int console(const GlobalOptions& global, const std::string& name, bool log_only) {
  auto answer = guest_request(name, "GET", "/v1/console");
  if (!answer) return fail(global, answer.error());
  if (global.json) {
    print_json(*answer);
    return to_int(ExitCode::kDone);
  }
  const std::string path = answer->value("terminal", "");
  if (log_only || path.empty()) {
    print_text(*answer);
    if (log_only) return to_int(ExitCode::kDone);
    std::fprintf(stderr,
                 "migrate: %s has no terminal to type into: that is all it has printed "
                 "(--console pty gives it one)\n",
                 name.c_str());
    return to_int(ExitCode::kDone);
  }
  const auto signals = SignalFd::open({SIGINT, SIGTERM, SIGHUP});
  if (!signals) return fail(global, signals.error());
  const Fd terminal(::open(path.c_str(), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK));
  if (!terminal) {
    return fail(global, make_errno_error(ErrorCode::kIo, errno, "cannot open " + path)
                            .advise("see whether " + name + " still runs (`migrate ps`)"));
  }
  // What nobody has read there is in the text as well.
  (void)::tcflush(terminal.get(), TCIFLUSH);
  answer = guest_request(name, "GET", "/v1/console");
  if (!answer) return fail(global, answer.error());
  print_text(*answer);
  std::fprintf(stderr, "migrate: at %s's console; Ctrl-] leaves it\r\n", name.c_str());
  attach(terminal.get(), *signals);
  return to_int(ExitCode::kDone);
}

}  // namespace

void add_console(CLI::App& app, const GlobalOptions& global, Action& chosen) {
  struct Options {
    std::string name;
    bool log_only = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("console", "Show a guest's serial console, and type into it");
  command->add_option("NAME", options->name, "The guest")->required()->type_name("");
  command->add_flag("--log", options->log_only, "Only what it has printed so far");
  command->callback([&global, &chosen, options] {
    chosen = [&global, options] { return console(global, options->name, options->log_only); };
  });
}

}  // namespace migrate::tool
