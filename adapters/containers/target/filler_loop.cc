#include "adapters/containers/target/filler_loop.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <span>

namespace migrate::containers {
namespace {

/// How long a killed tree may take until nothing of it runs, before its userfaultfds are closed all
/// the same: a kill waits for nothing but the end of a system call.
constexpr int kKillTriesMax = 5000;
/// Between looks at what cannot go on by itself.
constexpr std::int64_t kStuckNs = 1'000'000;
/// For the next page that is waited for to be asked for, before others are filled.
constexpr std::int64_t kNextFaultNs = 50'000;

void nap_ms(long ms) {
  const timespec pause{0, ms * 1'000'000};
  ::nanosleep(&pause, nullptr);
}

}  // namespace

int FillerLoop::run() {
  say(FillWord::kReady, static_cast<std::uint32_t>(::getpid()), 0);
  while (!ended_) {
    if (const int error = poll_all(wait_ns()); error != 0) {
      lose(error);
      break;
    }
    if (!alone_ && polled_[0].revents != 0) take_messages();
    for (std::uint32_t i = 0; i < spaces_.size() && !ended_; ++i) {
      // What forked meanwhile was not polled; the next turn has it.
      const std::size_t at = std::size_t{i} + 1;
      if (at < polled_.size() && polled_[at].revents != 0) take_events(i);
    }
    if (ended_) break;
    if (may_warm()) warm_piece();
    if (!may_fill()) continue;
    if (all_filled()) {
      finish();
    } else {
      fill_piece();
    }
  }
  return status_;
}

/// How long to wait for what others want, before there is work without them; -1: for ever.
std::int64_t FillerLoop::wait_ns() const {
  if (may_warm()) return 0;
  if (!may_fill()) return -1;
  if (stuck_) return kStuckNs;
  return now_ns() - faulted_ns_ < kFaultingNs ? kNextFaultNs : 0;
}

int FillerLoop::poll_all(std::int64_t timeout_ns) {
  polled_.clear();
  if (!polled_.push_back({alone_ ? -1 : socket_, POLLIN, 0})) return ENOMEM;
  for (const FillSpace* space : spaces_) {
    if (!polled_.push_back({space->uffd, POLLIN, 0})) return ENOMEM;
  }
  const timespec timeout{0, timeout_ns};
  if (::ppoll(polled_.begin(), polled_.size(), timeout_ns < 0 ? nullptr : &timeout, nullptr) < 0) {
    for (pollfd& one : polled_) one.revents = 0;
    return errno == EINTR ? 0 : errno;
  }
  return 0;
}

void FillerLoop::take_messages() {
  while (!ended_ && !alone_) {
    ReceivedFill received;
    const int error = receive_fill_message(socket_, received, false);
    if (error == EAGAIN) return;
    if (error != 0) return other_is_gone();
    take(received);
  }
}

void FillerLoop::take(ReceivedFill& received) {
  const FillMessage& message = received.message;
  switch (message.word) {
    case FillWord::kPlan:
      return take_plan(received);
    case FillWord::kSpace:
      return take_space(message, received.descriptors[0]);
    case FillWord::kRestored:
      restored_ = true;
      return;
    case FillWord::kStarted:
      started_ = true;
      return;
    case FillWord::kComplete:
      complete_ = true;
      return serve_all_again();
    case FillWord::kFetched:
      return fetched(message.value, message.id != 0);
    case FillWord::kClosed:
    case FillWord::kQuit:
      ended_ = true;
      return;
    default:
      return lose(EPROTO);
  }
}

void FillerLoop::take_plan(ReceivedFill& received) {
  const int plan = received.descriptors[0];
  kill_ = received.descriptors[2];
  events_ = received.descriptors[3];
  struct stat status {};
  if (::fstat(plan, &status) != 0) return lose(errno);
  const auto bytes = static_cast<std::size_t>(status.st_size);
  if (bytes > 0) {
    void* mapped = ::mmap(nullptr, bytes, PROT_READ, MAP_SHARED, plan, 0);
    if (mapped == MAP_FAILED) return lose(errno);
    plan_ = static_cast<const PlannedExtent*>(mapped);
    planned_ = bytes / sizeof(PlannedExtent);
  }
  ::close(plan);
  if (const int error = staging_.open(received.descriptors[1]); error != 0) lose(error);
}

void FillerLoop::take_space(const FillMessage& message, int uffd) {
  FillSpace* space = add_space(message.id, uffd, message.id);
  if (space == nullptr) return lose(ENOMEM);
  space->pid = message.value;
  for (std::size_t i = 0; i < planned_; ++i) {
    if (plan_[i].pid != message.value) continue;
    const FillExtent extent{plan_[i].begin, plan_[i].end, plan_[i].source, plan_[i].wiped != 0};
    if (!space->table.add(extent)) return lose(ENOMEM);
  }
}

FillSpace* FillerLoop::add_space(std::uint32_t id, int uffd, std::uint32_t family) {
  void* memory = ::mmap(nullptr, sizeof(FillSpace), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* space = new (memory) FillSpace();
  // Reading must never wait: there is one thread.
  ::fcntl(uffd, F_SETFL, O_NONBLOCK);
  space->id = id;
  space->uffd = uffd;
  space->family = family;
  return spaces_.push_back(space) ? space : nullptr;
}

void FillerLoop::other_is_gone() {
  alone_ = true;
  // A tree that had not been started, or lacks what nobody can fetch any more, must not run on. Who
  // waits for memory waits until it is killed.
  if (!started_ || !complete_) return lose(EPIPE);
  if (told_filled_) ended_ = true;
}

/// Never waits for the other process, which may be waiting for this one.
void FillerLoop::say(FillWord word, std::uint32_t id, std::uint64_t value, int descriptor) {
  if (alone_) return;
  const std::span<const int> descriptors(&descriptor, descriptor >= 0 ? 1 : 0);
  (void)send_fill_message(socket_, {word, id, value}, descriptors, false);
}

void FillerLoop::finish() {
  told_filled_ = true;
  staging_.give_back(0, staging_.bytes());
  if (alone_) {
    ended_ = true;
    return;
  }
  // Worth waiting for: without it the other process would never let go.
  if (send_fill_message(socket_, {FillWord::kFilled, 0, 0}, {}, true) != 0) other_is_gone();
}

/// Kills the tree before its userfaultfds close, by which what is missing would turn to zeros.
void FillerLoop::lose(int error) {
  if (kill_ >= 0) {
    [[maybe_unused]] const auto killed = ::write(kill_, "1", 1);
  }
  for (int i = 0; events_ >= 0 && i < kKillTriesMax; ++i) {
    char text[64] = {};
    const ssize_t got = ::pread(events_, text, sizeof text - 1, 0);
    if (got <= 0 || std::strstr(text, "populated 0") != nullptr) break;
    nap_ms(1);
  }
  say(FillWord::kLost, 0, static_cast<std::uint64_t>(error));
  status_ = 2;
  ended_ = true;
}

}  // namespace migrate::containers
