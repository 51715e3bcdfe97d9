// RestoreBed: an image of known content, a guest in real memory of any kind that is restored from
// it, and a host that notes what it is told.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/image_writer.hpp"
#include "migrate/restore.hpp"
#include "tests/postcopy/guest_ram.hpp"

namespace migrate::checkpoint::testing {

using test::GuestRam;
using test::RamKind;

/// A folder that goes with everything in it.
class Folder {
 public:
  Folder();
  ~Folder();
  [[nodiscard]] std::string path(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

/// What a page of the image holds: some are zero, some equal, some pack and some do not. Another
/// content for each `version`.
std::vector<std::byte> page_content(std::uint32_t region, std::uint64_t page, unsigned version = 0);
/// Writes it, of all pages, or for an incremental image of those that page_changed() says.
struct ImageSpec {
  std::vector<Region> regions;
  CompressionChoice compress = {};
  RunState run_state = RunState::kRunning;
  std::string base = {};
  unsigned version = 0;
};
bool page_changed(std::uint64_t page);
void write_image(const std::string& path, const ImageSpec& spec);
/// Regions far apart, of so many pages each.
std::vector<Region> regions_of(std::vector<std::uint64_t> pages);

/// Where a guest is restored.
class BedTarget final : public TargetGuest, private PageSink {
 public:
  struct Script {
    RamKind kind = RamKind::kAnonymous;
    bool mapped = true;
    ErrorCode fail_prepare{}, fail_load{}, fail_acquire{}, fail_start{};
    /// Called first by each: "prepare", "load", "acquire"; at the end of it: "prepared", "start",
    /// and "written", by any thread, where memory is not mapped.
    std::function<void(BedTarget&, const std::string& where)> hook = {};
  };
  explicit BedTarget(Script script) : script_(std::move(script)) {}

  [[nodiscard]] std::span<std::byte> bytes(std::uint32_t region) { return rams_[region]->bytes(); }
  [[nodiscard]] const std::vector<Region>& regions() const { return regions_; }
  [[nodiscard]] bool started() const { return started_; }
  [[nodiscard]] bool running() const { return running_; }
  [[nodiscard]] bool discarded() const { return discarded_; }
  [[nodiscard]] bool locked() const { return locked_; }

  Status prepare(const GuestDescription& description) override;
  PageSink& pages() override { return *this; }
  Status load_state(StateReader& reader) override;
  Result<std::chrono::nanoseconds> rehearse_load() override;
  Status acquire() override;
  Status yield() override;
  Status start(RunState state) override;
  void discard() override;
  std::vector<FaultSource> fault_sources() override { return {}; }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }

 private:
  Status update_regions(const RegionDelta&) override { return {}; }
  Status write(const RegionId& region, PageRange range, std::span<const std::byte> bytes) override;
  Status zero(const RegionId& region, PageRange range) override;
  Status read(const RegionId& region, PageRange range, std::span<std::byte> into) override;
  std::span<std::byte> mapped(const RegionId& region) override;
  std::span<std::byte> place(const RegionId& region, PageRange range);
  void hook(const char* where) {
    if (script_.hook) script_.hook(*this, where);
  }

  Script script_;
  std::vector<Region> regions_;
  std::vector<std::unique_ptr<GuestRam>> rams_;
  bool started_ = false, running_ = false, discarded_ = false, locked_ = false;
};

/// One restore, and all that it told.
class Restoring final : public Restore::Host, public Observer {
 public:
  explicit Restoring(RestoreOptions options, BedTarget::Script script = {});
  ~Restoring() override;

  RestoreResult& run();
  [[nodiscard]] Restore& restore() { return *restore_; }
  [[nodiscard]] BedTarget& target() { return *target_; }
  [[nodiscard]] const RestoreResult& result() const { return result_; }
  [[nodiscard]] bool lost() const { return lost_; }
  [[nodiscard]] int opened() const { return opened_; }
  [[nodiscard]] int told_started() const { return started_; }
  [[nodiscard]] std::vector<Host::Memory> memory() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] bool said(const std::string& event) const { return events_.contains(event); }
  [[nodiscard]] std::string text() const;
  [[nodiscard]] std::string reason() MIGRATE_EXCLUDES(mutex_);  ///< Of the latest of memory().
  void drop_waiting_memory() { result_.waiting_memory.reset(); }
  /// Of open(): an error where it is set.
  ErrorCode fail_open{};
  std::function<void(const std::string& event)> hear;

  /// Pages that are not as in the image; all of memory is looked at.
  std::uint64_t wrong_pages(unsigned version = 0);

 private:
  Status open(const GuestDescription& guest) override;
  void started() override { ++started_; }
  void on_memory(Memory memory, const std::string& reason) override;
  void on_progress(const Progress&) override {}
  void on_event(const Event& event) override;

  BedTarget* target_;
  std::unique_ptr<Restore> restore_;
  RestoreResult result_;
  int opened_ = 0;
  std::atomic<int> started_{0};
  std::atomic<bool> lost_{false};
  std::set<std::string> events_;
  Mutex mutex_;
  std::vector<Memory> memory_ MIGRATE_GUARDED_BY(mutex_);
  std::string reason_ MIGRATE_GUARDED_BY(mutex_);
};

/// Until `condition` is true; the process ends when that takes a minute.
template <typename Condition>
void wait_for(Condition&& condition) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    MIGRATE_CHECK(std::chrono::steady_clock::now() < until);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace migrate::checkpoint::testing
