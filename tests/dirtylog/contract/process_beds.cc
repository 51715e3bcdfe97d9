#include "tests/dirtylog/contract/process_beds.hpp"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>

#include "base/fd.hpp"
#include "migrate/process_memory.hpp"
#include "migrate/trackers.hpp"
#include "tests/dirtylog/contract/thread_writer.hpp"
#include "tests/dirtylog/contract/writer_process.hpp"

namespace migrate::testing {
namespace {

/// Far enough for areas not to become one mapping.
constexpr std::uint64_t kAreasApart = 1ull << 30;
/// The word that process_vm_writev(2) counts up; the process's own writers have 1 and 2.
constexpr std::size_t kOutsideWord = 3;
/// For a thread to be scheduled at all on a loaded host.
constexpr std::chrono::seconds kPatience{30};

bool all_threads_stopped(pid_t pid) {
  const std::filesystem::path tasks = "/proc/" + std::to_string(pid) + "/task";
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    std::ifstream status(task.path() / "status");
    for (std::string line; std::getline(status, line);) {
      if (line.starts_with("State:") && line.find('T', 6) == std::string::npos) return false;
    }
  }
  return true;
}

/// A thread that says it has paused still writes to its stack on its way to sleep, and the kernel
/// writes to its memory (rseq) whenever it wakes, as it does after a collect that held it.
void stop_process(pid_t pid) {
  ::kill(pid, SIGSTOP);
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!all_threads_stopped(pid)) {
    if (std::chrono::steady_clock::now() > deadline) {
      throw std::runtime_error("the writer process does not stop");
    }
    std::this_thread::yield();
  }
}

/// The writer process, and what it is asked.
class Commanded {
 public:
  Commanded() {
    std::array<int, 2> ends{};
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()) != 0) {
      throw std::runtime_error("socketpair");
    }
    socket_ = Fd(ends[0]);
    const Fd other(ends[1]);
    // Not the very number it shall have: dup2 to itself would leave it close-on-exec.
    const Fd theirs(::fcntl(other.get(), F_DUPFD_CLOEXEC, kWriterSocket + 1));
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    ::posix_spawn_file_actions_adddup2(&actions, theirs.get(), kWriterSocket);
    std::string path = MIGRATE_WRITER_PROCESS;
    std::array<char*, 2> arguments = {path.data(), nullptr};
    const int error =
        ::posix_spawn(&pid_, path.c_str(), &actions, nullptr, arguments.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::runtime_error(path + ": " + std::strerror(error));
  }
  ~Commanded() {
    socket_.reset();
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
  }
  Commanded(const Commanded&) = delete;
  Commanded& operator=(const Commanded&) = delete;

  [[nodiscard]] pid_t pid() const { return pid_; }

  std::uint64_t ask(const WriterCommand& command) const {
    WriterAnswer answer;
    if (::send(socket_.get(), &command, sizeof command, MSG_NOSIGNAL) < 0 ||
        ::recv(socket_.get(), &answer, sizeof answer, 0) != static_cast<ssize_t>(sizeof answer)) {
      throw std::runtime_error("the writer process has ended");
    }
    return answer.value;
  }

 private:
  Fd socket_;
  pid_t pid_ = -1;
};

class InnerWriter final : public Writer {
 public:
  InnerWriter(const Commanded& process, std::string_view name, WriterNumber number)
      : process_(process), name_(name), number_(number) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  void resume() override { ask(WriterOrder::kResume); }
  void pause() override { ask(WriterOrder::kPause); }
  [[nodiscard]] std::uint64_t writes() const override { return ask(WriterOrder::kWrites); }

 private:
  std::uint64_t ask(WriterOrder order) const {
    return process_.ask({.order = order, .value = number_});
  }
  const Commanded& process_;
  const std::string_view name_;
  const WriterNumber number_;
};

/// Writes from outside the process, unless held.
class OutsideWriter final : public Writer {
 public:
  OutsideWriter(pid_t pid, std::vector<PlacedArea> areas, std::uint64_t seed)
      : writer_("process_vm_writev(2)", std::move(areas), kOutsideWord, by_process_vm_writev(pid),
                seed) {}
  [[nodiscard]] std::string_view name() const override { return writer_.name(); }
  void resume() override {
    running_ = true;
    writer_.resume();
  }
  void pause() override {
    running_ = false;
    writer_.pause();
  }
  [[nodiscard]] std::uint64_t writes() const override { return writer_.writes(); }
  [[nodiscard]] const ThreadWriter& log() const { return writer_; }

  void hold() { writer_.pause(); }
  /// Returns when it has written again: collects in a row would leave it no time to.
  void release() {
    if (!running_) return;
    const std::uint64_t before = writer_.writes();
    writer_.resume();
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (writer_.writes() == before && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
  }

 private:
  ThreadWriter writer_;
  bool running_ = false;
};

/// For a tracker that stops the process while it looks, and cannot stop others: none of them writes
/// during a collect().
class ApartFromOutside final : public DirtyTracker {
 public:
  ApartFromOutside(std::unique_ptr<DirtyTracker> tracker, OutsideWriter& outside)
      : tracker_(std::move(tracker)), outside_(outside) {}
  [[nodiscard]] std::string_view name() const override { return tracker_->name(); }
  [[nodiscard]] DirtyCoverage covers() const override { return tracker_->covers(); }
  Status start() override { return tracker_->start(); }
  Status collect(PageBitmap& round_set) override {
    outside_.hold();
    Status collected = tracker_->collect(round_set);
    outside_.release();
    return collected;
  }
  Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) override {
    return tracker_->rearm(set, region, range);
  }
  [[nodiscard]] bool rearms_in_collect() const override { return tracker_->rearms_in_collect(); }
  Status peek(PageBitmap& again) override { return tracker_->peek(again); }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override {
    return tracker_->written_by_vcpu();
  }
  Status stop() override { return tracker_->stop(); }

 private:
  std::unique_ptr<DirtyTracker> tracker_;
  OutsideWriter& outside_;
};

class ProcessBed final : public TrackerBed {
 public:
  ProcessBed(std::span<const std::uint64_t> area_pages, std::uint64_t seed);
  ~ProcessBed() override {
    writers_.clear();
    tracker_.reset();
  }
  ProcessBed(const ProcessBed&) = delete;
  ProcessBed& operator=(const ProcessBed&) = delete;

  Status open() {
    MIGRATE_ASSIGN(memory_, ProcessMemory::open(process_.pid()));
    return {};
  }
  [[nodiscard]] const std::shared_ptr<ProcessMemory>& memory() const { return memory_; }
  void track_with(std::shared_ptr<DirtyTracker> tracker) { tracker_ = std::move(tracker); }
  void track_with_outside_held(std::unique_ptr<DirtyTracker> tracker) {
    tracker_ = std::make_shared<ApartFromOutside>(std::move(tracker), *outside_);
  }
  void track_by_content() {
    ContentHashTracking tracking = make_content_hash_tracking(*memory_);
    tracker_ = std::move(tracking.tracker);
    hashed_ = std::move(tracking.pages);
  }

  PageSource& pages() override { return hashed_ ? *hashed_ : *memory_; }
  Result<ReadOutcome> truth(const RegionId& region, PageRange range,
                            std::span<std::byte> into) override {
    return memory_->read(region, range, into);
  }
  [[nodiscard]] std::span<const PageRange> areas() const override { return areas_; }
  [[nodiscard]] bool peeks() const override { return hashed_ == nullptr; }
  using TrackerBed::touch;
  void touch(PageRange pages, std::uint64_t stride) override {
    process_.ask({.order = WriterOrder::kTouch,
                  .address = pages.first.number * kPageSize,
                  .pages = pages.count,
                  .stride = stride});
  }
  void put(PageRange pages, std::uint64_t value) override {
    process_.ask({.order = WriterOrder::kPut,
                  .address = pages.first.number * kPageSize,
                  .pages = pages.count,
                  .value = value});
  }
  void settle() override { stop_process(process_.pid()); }
  void unsettle() override { ::kill(process_.pid(), SIGCONT); }
  [[nodiscard]] std::span<const std::unique_ptr<Writer>> writers() const override {
    return writers_;
  }
  void for_each_logged(PageRange pages,
                       const std::function<void(const LoggedWord&)>& f) const override {
    outside_->log().for_each_logged(pages, f);
  }

 private:
  Commanded process_;
  std::shared_ptr<ProcessMemory> memory_;
  std::unique_ptr<PageSource> hashed_;  ///< What the content hash has memory read through.
  std::vector<PageRange> areas_;
  std::vector<std::unique_ptr<Writer>> writers_;
  OutsideWriter* outside_ = nullptr;
};

ProcessBed::ProcessBed(std::span<const std::uint64_t> area_pages, std::uint64_t seed) {
  std::vector<PlacedArea> placed;
  std::uint64_t address = kWriterAreas;
  for (const std::uint64_t pages : area_pages) {
    process_.ask({.order = WriterOrder::kMap, .address = address, .pages = pages});
    areas_.push_back({{address / kPageSize}, pages});
    placed.push_back({areas_.back(), reinterpret_cast<std::byte*>(address)});
    address += kAreasApart;
  }
  writers_.push_back(std::make_unique<InnerWriter>(process_, "stores", kWriterStores));
  writers_.push_back(std::make_unique<InnerWriter>(process_, "read(2)", kWriterRead));
  writers_.push_back(std::make_unique<InnerWriter>(process_, "mappings", kWriterMappings));
  auto outside = std::make_unique<OutsideWriter>(process_.pid(), std::move(placed), seed);
  outside_ = outside.get();
  writers_.push_back(std::move(outside));
}

using Tracking = Status (*)(ProcessBed& bed);

BedKind kind_of(const char* name, Tracking track) {
  return {name, [=](std::span<const std::uint64_t> area_pages, std::uint64_t seed) -> MadeBed {
            auto bed = std::make_unique<ProcessBed>(area_pages, seed);
            Status tracked = bed->open();
            if (tracked) tracked = track(*bed);
            if (!tracked) return {nullptr, tracked.error().to_text()};
            return {std::move(bed), ""};
          }};
}

Status track_by_write_protection(ProcessBed& bed) {
  MIGRATE_ASSIGN(auto tracker, make_process_write_protect_tracker(bed.memory()));
  bed.track_with(std::move(tracker));
  return {};
}

Status track_by_soft_dirty(ProcessBed& bed) {
  MIGRATE_ASSIGN(auto tracker, make_soft_dirty_tracker(bed.memory()));
  bed.track_with_outside_held(std::move(tracker));
  return {};
}

Status track_by_content(ProcessBed& bed) {
  bed.track_by_content();
  return {};
}

}  // namespace

std::vector<BedKind> process_bed_kinds() {
  return {
      kind_of("ProcessWriteProtect", track_by_write_protection),
      kind_of("SoftDirty", track_by_soft_dirty),
      kind_of("ProcessContentHash", track_by_content),
  };
}

}  // namespace migrate::testing
