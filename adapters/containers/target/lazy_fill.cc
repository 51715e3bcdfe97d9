#include "adapters/containers/target/lazy_fill.hpp"

#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <map>
#include <set>
#include <thread>

#include "adapters/containers/target/fill_messages.hpp"
#include "adapters/containers/target/filler.hpp"
#include "adapters/containers/target/lazy_socket.hpp"
#include "adapters/containers/target/page_fetcher.hpp"
#include "base/event_fd.hpp"
#include "base/log.hpp"
#include "base/mutex.hpp"
#include "base/start_thread.hpp"

namespace migrate::containers {
namespace {

Error filler_gone() {
  return make_error(ErrorCode::kGuest, "the process that fills the tree's memory has ended")
      .advise("look for an out-of-memory kill in the kernel's log (dmesg)");
}

Result<Fd> write_plan(const FillPlan& plan) {
  Fd memory(::memfd_create("migrate-plan", MFD_CLOEXEC));
  if (!memory) return make_errno_error(ErrorCode::kNoMemory, errno, "no memory for the tree's map");
  std::vector<PlannedExtent> extents;
  extents.reserve(plan.extents.size());
  for (const FillPlanExtent& extent : plan.extents) {
    extents.push_back({static_cast<std::uint64_t>(extent.pid), extent.begin, extent.end,
                       extent.source, extent.wiped ? 1U : 0U});
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(extents.data());
  const std::size_t size = extents.size() * sizeof(PlannedExtent);
  for (std::size_t done = 0; done < size;) {
    const ssize_t wrote = ::write(memory.get(), bytes + done, size - done);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      return make_errno_error(ErrorCode::kNoMemory, errno, "no memory for the tree's map");
    }
    done += static_cast<std::size_t>(wrote);
  }
  return memory;
}

class LazyFillImpl final : public LazyFill {
 public:
  LazyFillImpl(FillerHandle filler, EventFd stop)
      : filler_(std::move(filler)), stop_(std::move(stop)) {}
  ~LazyFillImpl() override;

  Status begin(const FillPlan& plan, StagedMemory& staging, const std::string& folder) override;
  Status wait_for_processes(std::chrono::steady_clock::time_point deadline) override;
  Status restored() override { return tell(FillWord::kRestored); }
  Status started() override;
  Status memory_complete() override;
  [[nodiscard]] bool filled() const override { return filled_.load(); }
  [[nodiscard]] bool lost() const override { return lost_.load(); }
  [[nodiscard]] pid_t filler() const override { return filler_.pid; }

 private:
  void run();
  void take_from_criu();
  void take_task(LazySocket::Told told);
  void take_from_filler();
  void lose(const std::string& why);
  Status tell(FillWord word, std::uint32_t id = 0, std::uint64_t value = 0,
              std::span<const int> descriptors = {});

  FillerHandle filler_;
  EventFd stop_;
  Fd kill_;
  std::optional<LazySocket> criu_;
  std::unique_ptr<PageFetcher> fetcher_;
  std::thread thread_;
  // The thread's. Copies, so that missing pages stay missing should the filler die.
  std::map<std::uint32_t, Fd> spaces_;
  std::uint32_t next_space_ = 0;
  bool ended_ = false;

  Mutex mutex_;
  CondVar news_;
  std::set<pid_t> awaited_ MIGRATE_GUARDED_BY(mutex_);
  std::optional<Error> failure_ MIGRATE_GUARDED_BY(mutex_);
  std::atomic<bool> started_{false};
  std::atomic<bool> filled_{false};
  std::atomic<bool> lost_{false};
};

Status LazyFillImpl::tell(FillWord word, std::uint32_t id, std::uint64_t value,
                          std::span<const int> descriptors) {
  if (send_fill_message(filler_.socket.get(), {word, id, value}, descriptors, true) == 0) return {};
  return filler_gone();
}

Status LazyFillImpl::begin(const FillPlan& plan, StagedMemory& staging, const std::string& folder) {
  MIGRATE_ASSIGN(const Fd extents, write_plan(plan));
  MIGRATE_ASSIGN(auto criu, LazySocket::listen(folder));
  criu_.emplace(std::move(criu));
  {
    const MutexLock lock(mutex_);
    awaited_.insert(plan.pids.begin(), plan.pids.end());
  }
  if (plan.kill_fd >= 0) kill_ = Fd(::dup(plan.kill_fd));
  std::array<int, kFillDescriptorsMax> descriptors{extents.get(), staging.memfd(), plan.kill_fd,
                                                   plan.events_fd};
  // Descriptors go without gaps: the filler finds what is not there closed.
  std::size_t count = 2;
  if (plan.kill_fd >= 0) count = plan.events_fd >= 0 ? 4 : 3;
  MIGRATE_TRY(tell(FillWord::kPlan, 0, 0, std::span(descriptors).first(count)));
  fetcher_ = std::make_unique<PageFetcher>(staging, [this](std::uint64_t offset, bool there) {
    // A filler that is gone is noticed elsewhere.
    const Status told = tell(FillWord::kFetched, there ? 1 : 0, offset);
    static_cast<void>(told);
  });
  MIGRATE_TRY(fetcher_->start());
  return start_thread(thread_, "tree-fill", [this] { run(); });
}

LazyFillImpl::~LazyFillImpl() {
  if (!started_) {
    const Status told = tell(FillWord::kQuit);
    static_cast<void>(told);
  }
  stop_.set();
  if (thread_.joinable()) thread_.join();
  // The filler hears of it, and is on its own.
  ::shutdown(filler_.socket.get(), SHUT_RDWR);
  fetcher_.reset();
}

void LazyFillImpl::run() {
  while (!ended_) {
    std::array<pollfd, 3> fds{pollfd{stop_.fd(), POLLIN, 0},
                              pollfd{filler_.socket.get(), POLLIN, 0},
                              pollfd{criu_ ? criu_->fd() : -1, POLLIN, 0}};
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[0].revents != 0) return;
    if (fds[1].revents != 0) take_from_filler();
    if (fds[2].revents != 0 && !ended_) take_from_criu();
  }
}

void LazyFillImpl::take_from_criu() {
  auto told = criu_->take();
  if (!told) {
    const MutexLock lock(mutex_);
    failure_ = told.error();
    news_.notify_all();
    criu_.reset();
    return;
  }
  if (told->kind == LazySocket::Told::Kind::kTask) take_task(*std::move(told));
  if (told->kind != LazySocket::Told::Kind::kEnd) return;
  criu_.reset();
  const MutexLock lock(mutex_);
  if (awaited_.empty() || failure_) return;
  failure_ = make_error(ErrorCode::kGuest, "CRIU ended without restoring the memory of process " +
                                               std::to_string(*awaited_.begin()));
  news_.notify_all();
}

void LazyFillImpl::take_task(LazySocket::Told told) {
  const pid_t pid = std::abs(told.pid);
  bool expected = false;
  {
    const MutexLock lock(mutex_);
    expected = awaited_.contains(pid);
    if (!expected) {
      failure_ = make_error(ErrorCode::kIntegrity, "CRIU restored process " + std::to_string(pid) +
                                                       ", whose memory has not come");
      news_.notify_all();
    }
  }
  if (told.userfaultfd) {
    const int fd = told.userfaultfd.get();
    const std::uint32_t id = next_space_++;
    spaces_.emplace(id, std::move(told.userfaultfd));
    // Nobody serves one that nobody knows of: whoever touches its memory waits to be killed.
    if (!expected) return;
    if (const Status sent = tell(FillWord::kSpace, id, static_cast<std::uint64_t>(pid), {&fd, 1});
        !sent) {
      return;  // take_from_filler() sees why.
    }
  }
  const MutexLock lock(mutex_);
  awaited_.erase(pid);
  news_.notify_all();
}

void LazyFillImpl::take_from_filler() {
  ReceivedFill received;
  const int error = receive_fill_message(filler_.socket.get(), received, false);
  if (error == EAGAIN) return;
  if (error != 0) return lose("it has ended");
  Fd descriptor(received.descriptors[0]);
  const FillMessage& message = received.message;
  switch (message.word) {
    case FillWord::kFetch:
      return fetcher_->fetch(message.value);
    case FillWord::kForked:
      spaces_.emplace(message.id, std::move(descriptor));
      return;
    case FillWord::kGone:
      spaces_.erase(message.id);
      return;
    case FillWord::kFilled: {
      // Both let go: what is still missing is zeros.
      const Status closed = tell(FillWord::kClosed);
      static_cast<void>(closed);
      spaces_.clear();
      ended_ = true;
      filled_ = true;
      return;
    }
    case FillWord::kLost:
      return lose("errno " + std::to_string(message.value));
    default:
      return lose("it does not speak as it should");
  }
}

/// The tree goes before what is missing turns to zeros.
void LazyFillImpl::lose(const std::string& why) {
  log_line(LogLevel::kError, "the tree's memory cannot be filled, the tree is killed: " + why);
  if (kill_) {
    [[maybe_unused]] const auto killed = ::write(kill_.get(), "1", 1);
  }
  ended_ = true;
  lost_ = true;
  const MutexLock lock(mutex_);
  failure_ = filler_gone();
  news_.notify_all();
}

Status LazyFillImpl::wait_for_processes(std::chrono::steady_clock::time_point deadline) {
  const MutexLock lock(mutex_);
  while (!awaited_.empty() && !failure_) {
    if (news_.wait_until(mutex_, deadline)) continue;
    return make_error(ErrorCode::kTimeout, "CRIU does not give the memory of process " +
                                               std::to_string(*awaited_.begin()) + " to be filled");
  }
  if (failure_) return *failure_;
  return {};
}

Status LazyFillImpl::started() {
  if (lost_) return filler_gone();
  MIGRATE_TRY(tell(FillWord::kStarted));
  started_ = true;
  return {};
}

Status LazyFillImpl::memory_complete() {
  if (filled_) return {};
  return tell(FillWord::kComplete);
}

}  // namespace

Result<std::unique_ptr<LazyFill>> LazyFill::launch() {
  MIGRATE_ASSIGN(auto stop, EventFd::create());
  MIGRATE_ASSIGN(auto filler, launch_filler());
  return std::unique_ptr<LazyFill>(
      std::make_unique<LazyFillImpl>(std::move(filler), std::move(stop)));
}

}  // namespace migrate::containers
