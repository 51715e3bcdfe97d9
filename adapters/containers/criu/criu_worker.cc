#include "adapters/containers/criu/criu_worker.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "adapters/containers/criu/criu_lazy_server.hpp"
#include "adapters/containers/criu/criu_log.hpp"
#include "adapters/containers/criu/criu_process.hpp"
#include "adapters/containers/criu/criu_requests.hpp"
#include "base/fd.hpp"

namespace migrate::containers {
namespace {

using std::chrono::steady_clock;

// CRIU's own: a kilobyte of error text, a hook's name, some numbers.
constexpr std::size_t kMessageMax = std::size_t{64} << 10;
constexpr std::size_t kErrorsTold = 3;
/// What is dead is gone soon: the kernel frees a process that was killed in less, however large.
constexpr std::chrono::seconds kUntilGone{2};
/// A version costs CRIU no more than to start.
constexpr std::chrono::seconds kVersionTime{10};

std::string joined(const std::vector<std::string>& parts) {
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : "; ") + part;
  return text;
}

/// What a program that does not start says there ("error while loading shared libraries: ...").
std::string last_line(std::string text) {
  text.resize(text.find_last_not_of(" \n\t") + 1);
  const std::size_t newline = text.rfind('\n');
  text = newline == std::string::npos ? text : text.substr(newline + 1);
  constexpr std::size_t kLineMax = 300;
  text.resize(std::min(text.size(), kLineMax));
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; }, '?');
  return text;
}

class SwrkWorker final : public CriuWorker {
 public:
  SwrkWorker(std::string program, std::unique_ptr<CriuProcess> process)
      : program_(std::move(program)), process_(std::move(process)) {}
  ~SwrkWorker() override {
    process_.reset();
    wait_for_unfinished_root();
  }

  Result<CriuVersion> version(Deadline deadline) override;
  Result<CriuFeatures> features(Deadline deadline) override;
  Status begin_dump(const CriuDump& dump) override;
  Status begin_restore(const CriuRestore& restore) override;
  Result<CriuEvent> next(Deadline deadline, int interrupt_fd) override;
  Status answer(bool go_on) override;
  [[nodiscard]] Error failure(const std::string& what) const override;
  void kill() noexcept override { process_->kill(); }
  [[nodiscard]] pid_t pid() const override { return process_->pid(); }

 private:
  enum class State : std::uint8_t { kIdle, kWorks, kAtHook, kEnded };

  Status begin(const rpc::Request& request, int images_fd);
  Status send(const rpc::Request& request);
  Result<rpc::Response> receive(Deadline deadline, int interrupt_fd);
  /// Nothing where there is no message (yet), or none to come.
  Result<std::optional<rpc::Response>> take_message();
  Result<rpc::Response> ask(const rpc::Request& request, Deadline deadline);
  Result<CriuEvent> hook(const rpc::Response& response);
  CriuEvent end(const rpc::Response& response);
  Status close_lazy_memory();
  Error died();
  void wait_for_unfinished_root() noexcept;

  std::string program_;
  std::unique_ptr<CriuProcess> process_;
  State state_ = State::kIdle;
  bool spoke_ = false;  ///< A message has come.
  bool restores_ = false;
  std::optional<CriuVersion> version_;
  Fd images_;  ///< To read the log by.
  std::uint16_t lazy_port_ = 0;
  Fd lazy_connection_;
  pid_t restored_root_ = 0;
  std::string first_error_;  ///< As CRIU's last answer has it.
  int error_number_ = 0;
};

Result<CriuVersion> SwrkWorker::version(Deadline deadline) {
  if (version_) return *version_;
  MIGRATE_ASSIGN(const rpc::Response response, ask(version_request(), deadline));
  if (!response.success() || !response.has_version()) {
    return make_error(ErrorCode::kUnsupported, program_ + " does not tell its version")
        .advise("install CRIU 4.1 or newer");
  }
  const rpc::Version& told = response.version();
  CriuVersion version{told.major_number(), told.minor_number(), told.sublevel(), {}};
  version.text = std::to_string(version.major) + "." + std::to_string(version.minor);
  if (version.sublevel != 0) version.text += "." + std::to_string(version.sublevel);
  version_ = version;
  return version;
}

Result<CriuFeatures> SwrkWorker::features(Deadline deadline) {
  MIGRATE_ASSIGN(const rpc::Response response, ask(features_request(), deadline));
  if (!response.success()) {
    return make_error(ErrorCode::kUnsupported, program_ + " cannot tell what this kernel does")
        .advise("run as root; `criu check` tells more");
  }
  const rpc::Features& told = response.features();
  return CriuFeatures{.lazy_pages = told.lazy_pages(),
                      .mem_track = told.mem_track(),
                      .pidfd_store = told.pidfd_store()};
}

Status SwrkWorker::begin_dump(const CriuDump& dump) {
  if (dump.lazy_port != 0) {
    // What closes its server depends on it.
    if (auto version = this->version(steady_clock::now() + kVersionTime); !version) {
      return std::move(version).error();
    }
    MIGRATE_TRY(process_->set_config(lazy_config()));
    lazy_port_ = dump.lazy_port;
  }
  return begin(dump_request(dump, kCriuConfigPath), dump.images_fd);
}

Status SwrkWorker::begin_restore(const CriuRestore& restore) {
  restores_ = true;
  return begin(restore_request(restore), restore.images_fd);
}

Status SwrkWorker::begin(const rpc::Request& request, int images_fd) {
  MIGRATE_CHECK(state_ == State::kIdle);
  images_.reset(::fcntl(images_fd, F_DUPFD_CLOEXEC, 0));
  if (!images_) {
    return make_errno_error(ErrorCode::kInvalidArgument, errno,
                            "there is no folder for CRIU's images");
  }
  MIGRATE_TRY(send(request));
  state_ = State::kWorks;
  return {};
}

Status SwrkWorker::answer(bool go_on) {
  MIGRATE_CHECK(state_ == State::kAtHook);
  MIGRATE_TRY(send(hook_answer(go_on)));
  state_ = State::kWorks;
  return {};
}

Result<CriuEvent> SwrkWorker::next(Deadline deadline, int interrupt_fd) {
  MIGRATE_CHECK(state_ == State::kWorks);
  while (true) {
    MIGRATE_ASSIGN(const rpc::Response response, receive(deadline, interrupt_fd));
    if (response.type() != rpc::NOTIFY) return end(response);
    if (lazy_port_ != 0 && response.notify().script() == "status-ready") {
      MIGRATE_TRY(close_lazy_memory());
      continue;
    }
    return hook(response);
  }
}

Result<CriuEvent> SwrkWorker::hook(const rpc::Response& response) {
  const rpc::Notification& notification = response.notify();
  if (notification.script().empty()) {
    return make_error(ErrorCode::kProtocol, program_ + " sent a hook without a name");
  }
  if (notification.pid() > 0) restored_root_ = notification.pid();
  state_ = State::kAtHook;
  return CriuEvent{
      .kind = CriuEvent::Kind::kHook, .hook = notification.script(), .pid = restored_root_};
}

CriuEvent SwrkWorker::end(const rpc::Response& response) {
  state_ = State::kEnded;
  if (response.restore().pid() > 0) restored_root_ = response.restore().pid();
  first_error_ = response.cr_errmsg();
  error_number_ = response.cr_errno();
  const CriuEvent event{.hook = {}, .pid = restored_root_, .success = response.success()};
  // From now on it is the caller's to wait for.
  if (response.success()) restored_root_ = 0;
  return event;
}

Status SwrkWorker::close_lazy_memory() {
  state_ = State::kAtHook;
  MIGRATE_ASSIGN(lazy_connection_, close_lazy_server(lazy_port_, *version_));
  return answer(true);
}

Result<rpc::Response> SwrkWorker::ask(const rpc::Request& request, Deadline deadline) {
  MIGRATE_CHECK(state_ == State::kIdle);
  MIGRATE_TRY(send(request));
  MIGRATE_ASSIGN(rpc::Response response, receive(deadline, -1));
  if (response.type() == request.type()) return response;
  return make_error(ErrorCode::kProtocol, program_ + " answered request " +
                                              std::to_string(request.type()) + " with " +
                                              std::to_string(response.type()));
}

Status SwrkWorker::send(const rpc::Request& request) {
  const std::string message = request.SerializeAsString();
  while (true) {
    const ssize_t sent = ::send(process_->socket(), message.data(), message.size(), MSG_NOSIGNAL);
    if (sent == static_cast<ssize_t>(message.size())) return {};
    if (errno == EINTR) continue;
    if (errno == EPIPE || errno == ECONNRESET) return died();
    return make_errno_error(ErrorCode::kIo, errno, "cannot send a request to " + program_);
  }
}

Result<std::optional<rpc::Response>> SwrkWorker::take_message() {
  std::string message(kMessageMax, '\0');
  ssize_t got = 0;
  do {
    // No room for descriptors: the kernel closes those that come with a message.
    got = ::recv(process_->socket(), message.data(), message.size(), MSG_DONTWAIT | MSG_TRUNC);
  } while (got < 0 && errno == EINTR);
  // ECONNRESET: it ended with something of ours unread.
  if (got == 0 || (got < 0 && (errno == EAGAIN || errno == ECONNRESET))) return {std::nullopt};
  if (got < 0) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot hear from " + program_);
  }
  spoke_ = true;
  const std::string what = program_ + " sent a message of " + std::to_string(got) + " bytes that ";
  if (static_cast<std::size_t>(got) > message.size()) {
    return make_error(ErrorCode::kProtocol, what + "is too long");
  }
  rpc::Response response;
  // In two steps: the library itself writes to standard error of what is missing.
  if (!response.ParsePartialFromArray(message.data(), static_cast<int>(got)) ||
      !response.IsInitialized()) {
    return make_error(ErrorCode::kProtocol, what + "is none of CRIU's RPC")
        .advise("install CRIU 4.1 or newer");
  }
  return std::optional(std::move(response));
}

Result<rpc::Response> SwrkWorker::receive(Deadline deadline, int interrupt_fd) {
  while (true) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - steady_clock::now());
    const long long wait_ms = std::clamp<long long>(left.count(), 0, 60'000);
    // By its pidfd too: tasks that it has begun to restore hold the socket's other end.
    pollfd waits[] = {{.fd = process_->socket(), .events = POLLIN, .revents = 0},
                      {.fd = process_->pidfd(), .events = POLLIN, .revents = 0},
                      {.fd = interrupt_fd, .events = POLLIN, .revents = 0}};
    if (::poll(waits, 3, static_cast<int>(wait_ms)) < 0 && errno != EINTR) {
      return make_errno_error(ErrorCode::kIo, errno, "cannot wait for " + program_);
    }
    if (waits[0].revents != 0 || waits[1].revents != 0) {
      // In this order: its last words may be on the socket when it has ended.
      MIGRATE_ASSIGN(std::optional<rpc::Response> message, take_message());
      if (message) return std::move(*message);
      return died();
    }
    if (waits[2].revents != 0) {
      return make_error(ErrorCode::kCancelled, "cancelled while " + program_ + " worked");
    }
    if (left.count() <= 0) {
      return make_error(ErrorCode::kTimeout, program_ + " did not answer in time")
          .advise("see the host's load; a process of the tree in state D holds CRIU up");
    }
  }
}

Error SwrkWorker::died() {
  const std::string end = process_->how_ended(steady_clock::now() + kUntilGone);
  std::vector<std::string> errors;
  if (images_) errors = criu_errors(read_criu_log(images_.get()), kErrorsTold);
  if (errors.empty()) {
    if (std::string line = last_line(process_->output()); !line.empty()) errors.push_back(line);
  }
  const std::string why = errors.empty() ? "" : ": " + joined(errors);
  state_ = State::kEnded;
  if (!spoke_ && !images_) {
    return make_error(ErrorCode::kUnsupported,
                      program_ + " does not speak CRIU's RPC, it " + end + why)
        .advise("install CRIU 4.1 or newer, with the libraries it needs; try `criu --version`");
  }
  return make_error(ErrorCode::kGuest, program_ + " " + end + why);
}

Error SwrkWorker::failure(const std::string& what) const {
  std::vector<std::string> errors;
  if (images_) errors = criu_errors(read_criu_log(images_.get()), kErrorsTold);
  // The first is most often the reason, and the others what came of it.
  const std::vector<std::string> first = criu_errors(first_error_, 1);
  if (!first.empty() && std::find(errors.begin(), errors.end(), first[0]) == errors.end()) {
    errors.insert(errors.begin(), first[0]);
  }
  const std::string why = errors.empty() ? "" : ": " + joined(errors);
  if (why.find("No space left on device") != std::string::npos) {
    return make_errno_error(ErrorCode::kNoMemory, error_number_, what + why)
        .advise("make the file system of the folder for CRIU's images larger");
  }
  return make_errno_error(ErrorCode::kGuest, error_number_, what + why)
      .advise("what CRIU cannot do: https://criu.org/What_cannot_be_checkpointed");
}

void SwrkWorker::wait_for_unfinished_root() noexcept {
  if (!restores_ || restored_root_ <= 0) return;
  // CRIU has killed it, or the caller; where it still stands there is nothing to wait for here.
  const Fd root(static_cast<int>(::syscall(SYS_pidfd_open, restored_root_, 0)));
  if (!root) return;
  pollfd ended{.fd = root.get(), .events = POLLIN, .revents = 0};
  ::poll(&ended, 1, 1000);
  siginfo_t info = {};
  ::waitid(P_PIDFD, static_cast<id_t>(root.get()), &info, WEXITED | WNOHANG);
}

}  // namespace

Result<std::unique_ptr<CriuWorker>> CriuWorker::launch(const CriuLaunch& launch) {
  MIGRATE_ASSIGN(std::unique_ptr<CriuProcess> process, CriuProcess::start(launch));
  return std::unique_ptr<CriuWorker>(new SwrkWorker(launch.program.path, std::move(process)));
}

}  // namespace migrate::containers
