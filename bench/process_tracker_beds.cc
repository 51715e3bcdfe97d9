// Beds of the trackers of another process: a child that writes to its memory when it is told to.
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>
#include <utility>

#include "bench/tracked_memory.hpp"
#include "bench/tracker_beds.hpp"
#include "memory/uffd_abi.hpp"
#include "migrate/process_memory.hpp"
#include "migrate/trackers.hpp"

namespace migrate::bench {
namespace {

enum class Order : std::uint8_t { kAddress, kWrite, kSpin, kStopSpinning };

struct Command {
  Order order = Order::kAddress;
  std::uint64_t step = 0;
};
struct Answer {
  std::uint64_t number = 0;
  double ms = 0;
};

/// The child: does as it is told until nobody is left to tell it.
[[noreturn]] void serve(int socket, std::uint64_t bytes) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const TrackedMemory memory(MemoryKind::kHugePages, bytes);
  std::optional<SpinningWriter> spinner;
  Command command;
  while (::read(socket, &command, sizeof command) == sizeof command) {
    Answer answer;
    switch (command.order) {
      case Order::kAddress:
        answer.number = reinterpret_cast<std::uint64_t>(memory.page(0));
        break;
      case Order::kWrite:
        memory.write(command.step);
        answer.number = (memory.pages() + command.step - 1) / command.step;
        break;
      case Order::kSpin:
        spinner.emplace(memory);
        break;
      case Order::kStopSpinning:
        answer.ms = spinner->stop();
        spinner.reset();
        break;
    }
    if (::write(socket, &answer, sizeof answer) != sizeof answer) break;
  }
  ::_exit(0);
}

class Child {
 public:
  explicit Child(std::uint64_t bytes) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) give_up("no socketpair");
    pid_ = ::fork();
    if (pid_ < 0) give_up("no child process");
    if (pid_ == 0) {
      ::close(ends[0]);
      serve(ends[1], bytes);
    }
    ::close(ends[1]);
    socket_ = Fd(ends[0]);
    address_ = tell({Order::kAddress, 0}).number;
  }
  ~Child() {
    socket_ = Fd();
    int status = 0;
    ::waitpid(pid_, &status, 0);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  Answer tell(Command command) {
    Answer answer;
    if (::write(socket_.get(), &command, sizeof command) != sizeof command ||
        ::read(socket_.get(), &answer, sizeof answer) != sizeof answer) {
      give_up("the child process has ended");
    }
    return answer;
  }
  [[nodiscard]] pid_t pid() const { return pid_; }
  /// Of its memory.
  [[nodiscard]] std::uint64_t address() const { return address_; }

 private:
  pid_t pid_ = -1;
  Fd socket_;
  std::uint64_t address_ = 0;
};

class ProcessBed : public TrackerBed {
 public:
  explicit ProcessBed(std::uint64_t bytes)
      : child_(bytes), pages_(must(ProcessMemory::open(child_.pid()))) {}

  [[nodiscard]] std::string memory() const override { return "another process, huge pages"; }
  [[nodiscard]] DirtyTracker& tracker() override { return *tracker_; }
  [[nodiscard]] std::vector<Region> regions() override { return must(pages_->regions()); }
  std::uint64_t write(std::uint64_t step) override {
    return child_.tell({Order::kWrite, step}).number;
  }
  void spin() override { child_.tell({Order::kSpin, 0}); }
  double stop_spinning() override { return child_.tell({Order::kStopSpinning, 0}).ms; }

 protected:
  Child child_;
  std::shared_ptr<ProcessMemory> pages_;
  std::unique_ptr<DirtyTracker> tracker_;
};

class ProcessWriteProtectBed final : public ProcessBed {
 public:
  explicit ProcessWriteProtectBed(std::uint64_t bytes)
      : ProcessBed(bytes), bytes_(bytes), found_(kFoundMax) {
    make_tracker([&] { tracker_ = must(make_process_write_protect_tracker(pages_)); });
    const std::string path = "/proc/" + std::to_string(child_.pid()) + "/pagemap";
    pagemap_ = Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!pagemap_) give_up(path + ": " + std::strerror(errno));
    bare_.name = "PAGEMAP_SCAN";
    bare_.collect = [this] { scan(abi::kScanProtectMatching | abi::kScanCheckAsync); };
    bare_.peek = [this] { scan(abi::kScanCheckAsync); };
  }

 private:
  /// Runs a call may tell; 24 bytes each.
  static constexpr std::size_t kFoundMax = 16384;

  void scan(std::uint64_t flags) {
    const std::uint64_t end = child_.address() + bytes_;
    for (std::uint64_t at = child_.address(); at < end;) {
      abi::ScanArguments arguments{};
      arguments.size = sizeof arguments;
      arguments.flags = flags;
      arguments.begin = at;
      arguments.end = end;
      arguments.vec = reinterpret_cast<std::uint64_t>(found_.data());
      arguments.vec_len = found_.size();
      arguments.category_mask = arguments.return_mask = abi::kPageIsWritten;
      if (::ioctl(pagemap_.get(), abi::kPagemapScan, &arguments) < 0) {
        give_up(std::string("PAGEMAP_SCAN: ") + std::strerror(errno));
      }
      at = arguments.walk_end;
    }
  }

  const std::uint64_t bytes_;
  Fd pagemap_;
  std::vector<abi::PageRegion> found_;
};

class SoftDirtyBed final : public ProcessBed {
 public:
  explicit SoftDirtyBed(std::uint64_t bytes) : ProcessBed(bytes) {
    make_tracker([&] { tracker_ = must(make_soft_dirty_tracker(pages_)); });
  }
};

/// Why this host cannot track another process so; tried on a small one.
template <typename Make>
std::string why_not_here(Make make) {
  const Child child(std::uint64_t{1} << 20);
  auto pages = ProcessMemory::open(child.pid());
  if (!pages) return pages.error().to_text();
  auto tracker = make(*pages);
  if (!tracker) return tracker.error().to_text();
  const Status started = (*tracker)->start();
  (void)(*tracker)->stop();
  return started ? std::string() : started.error().to_text();
}

template <typename Bed, typename Make>
BedMaker maker_of(std::string_view tracker, Make make) {
  return {tracker,
          [make](std::uint64_t bytes, std::string& why_not) -> std::unique_ptr<TrackerBed> {
            why_not = why_not_here(make);
            return why_not.empty() ? std::make_unique<Bed>(bytes) : nullptr;
          }};
}

}  // namespace

std::vector<BedMaker> process_bed_makers() {
  return {
      maker_of<ProcessWriteProtectBed>("process write-protect", make_process_write_protect_tracker),
      maker_of<SoftDirtyBed>("soft-dirty", make_soft_dirty_tracker)};
}

}  // namespace migrate::bench
