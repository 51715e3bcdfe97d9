// Small guests in plain memory for tests of the engine: real bytes, real dirty tracking, a world
// that counts who runs. No KVM needed.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "migrate/guest.hpp"

namespace migrate::testing {

/// What both hosts together do with one guest; outlives them.
struct World {
  std::atomic<int> running{0};      ///< Hosts on which the guest runs now.
  std::atomic<int> running_max{0};  ///< The most there ever were: more than one is a disaster.
  std::atomic<int> released{0};
  std::atomic<int> resumed{0};  ///< How often the source's guest went on.
  std::atomic<int> locks{0};    ///< Holders of the guest's disk lock.
  void run();
  void halt() { --running; }
  [[nodiscard]] bool try_lock();  ///< Fails while the other host holds it.
  void unlock() { --locks; }
};

/// Memory of several regions; a page is written under a lock so that races are the test's choice.
/// Pages of its own from the kernel, so that they can be missing.
class FakeMemory {
 public:
  explicit FakeMemory(std::vector<Region> regions);
  [[nodiscard]] const std::vector<Region>& regions() const { return regions_; }
  [[nodiscard]] std::span<std::byte> bytes(const RegionId& region);  ///< Empty once it is gone.
  void add(const Region& region);
  void remove(const RegionId& region);
  void set_backing(const RegionId& region, Backing backing);
  bool operator==(const FakeMemory& other) const;
  std::mutex& mutex() { return mutex_; }

 private:
  std::vector<Region> regions_;
  struct Unmap {
    std::size_t bytes = 0;
    void operator()(std::byte* at) const;
  };
  std::map<RegionId, std::unique_ptr<std::byte[], Unmap>> content_;
  std::mutex mutex_;
};

/// How the fake tracker behaves.
enum class TrackerStyle {
  kRearmInCollect,  ///< Like the plain KVM log.
  kManual,          ///< Like KVM's manual protect: bits stay until rearm() clears them.
};

class FakeSource final : public SourceGuest,
                         private PageSource,
                         private DirtyTracker,
                         private PacketSource {
 public:
  struct Script {
    TrackerStyle style = TrackerStyle::kManual;
    bool mapped = true;  ///< Whether mapped() gives memory out, or read() copies.
    RunState run_state = RunState::kRunning;
    /// Says that memory is settled before it saves; `writes` hears "settled" then.
    bool settles = false;
    std::size_t state_bytes = 300;
    /// Called before each collect, peek, save_state and reclaim, and after resume, with the guest:
    /// writes for it.
    std::function<void(FakeSource&, const char* where)> writes;
    ErrorCode fail_pause{}, fail_save{}, fail_reclaim{}, fail_collect{};  ///< 0: works.
    int collects_before_failure = 0;
    /// Frames that have come for the guest, each time somebody looks for some and none are left;
    /// empty: it has no cards.
    std::function<std::vector<GuestFrame>()> packets;
    bool fail_give_back = false;  ///< For lack of memory.
    std::function<void(PageBitmap&)> first_pages;
    std::function<void()> on_read;  ///< Called before each read(), by a lane where it is one's.
    std::function<void(PageRange)> on_release;  ///< Called first by release_pages().
  };

  FakeSource(World& world, std::vector<Region> regions, Script script);
  ~FakeSource() override;

  /// Writes a page as the guest would: content, then the log. Does nothing while it is paused.
  void write(const RegionId& region, GuestPage page, std::uint8_t value);
  /// A page of zeros, as the guest would write it.
  void write_zeros(const RegionId& region, GuestPage page);
  /// A write from save_state: allowed while paused.
  void write_as_device(const RegionId& region, GuestPage page, std::uint8_t value);
  FakeMemory& memory() { return memory_; }
  [[nodiscard]] bool running() const { return running_; }
  [[nodiscard]] bool holds_lock() const { return holds_lock_; }
  [[nodiscard]] int pauses() const { return pauses_; }
  [[nodiscard]] double throttle_now() const { return throttle_; }
  [[nodiscard]] double throttle_max() const { return throttle_max_; }
  /// A lost write: content changes and the log does not know. For tests of the verification.
  void corrupt(const RegionId& region, GuestPage page);

  // SourceGuest
  Result<GuestDescription> describe() override;
  PageSource& pages() override { return *this; }
  DirtyTracker& tracker() override { return *this; }
  RunState run_state() override { return running_ ? RunState::kRunning : RunState::kPaused; }
  Result<PauseResult> pause() override;
  std::optional<SwitchoverCost> expected_cost() override { return std::nullopt; }
  Status resume() override;
  Status save_state(StateWriter& writer) override;
  Status throttle(std::uint32_t vcpu, double share) override;
  Status relinquish() override;
  void committing() override {}
  Status reclaim() override;
  Status release() override;
  Status first_pages(PageBitmap& pages) override;
  Status release_pages(const RegionId& region, PageRange range) override;
  PacketSource* waiting_packets() override { return script_.packets ? this : nullptr; }
  /// What came to the guest here after all.
  [[nodiscard]] const std::vector<GuestFrame>& given_back() const { return given_back_; }
  /// What release_pages() was called for.
  [[nodiscard]] std::size_t released_pages() const { return released_pages_.size(); }

 private:
  // PacketSource
  Result<std::vector<GuestFrame>> take_waiting(std::size_t frames_max,
                                               std::size_t bytes_max) override;
  void give_back(std::vector<GuestFrame> frames) override;
  // PageSource
  Result<std::vector<Region>> regions() override { return memory_.regions(); }
  Result<ReadOutcome> read(const RegionId& region, PageRange range,
                           std::span<std::byte> into) override;
  std::span<const std::byte> mapped(const RegionId& region) override;
  Status holes(const RegionId& region, PageBitmap& holes) override;
  // DirtyTracker
  std::string_view name() const override { return "fake"; }
  DirtyCoverage covers() const override { return {true, true, true, true, true, true}; }
  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap& set, const RegionId& region, PageRange range) override;
  bool rearms_in_collect() const override { return script_.style == TrackerStyle::kRearmInCollect; }
  Status peek(PageBitmap& again) override;
  std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }
  Status stop() override;

  void fill_page(const RegionId& region, GuestPage page, std::uint8_t value);
  void hook(const char* where);

  World& world_;
  FakeMemory memory_;
  Script script_;
  PageBitmap log_;                                    // Guarded by memory_.mutex(), as touched_ is.
  std::set<std::pair<RegionId, GuestPage>> touched_;  // Ever written: all else is a hole.
  PageBitmap taken_;  // Manual style: what the latest collect gave and was not re-armed.
  bool tracking_ = false;
  bool running_ = false;
  bool holds_lock_ = false;
  bool released_ = false;
  std::set<std::pair<RegionId, GuestPage>> released_pages_;
  std::deque<GuestFrame> waiting_;
  std::vector<GuestFrame> given_back_;
  int pauses_ = 0;
  double throttle_ = 0;
  double throttle_max_ = 0;
};

class FakeTarget final : public TargetGuest, private PageSink, private PacketSink {
 public:
  struct Script {
    std::function<void(FakeTarget&)> on_target;  ///< Called once it is there.
    bool mapped = true;
    ErrorCode fail_prepare{}, fail_load{}, fail_acquire{}, fail_start{};
    std::size_t state_bytes = 300;
    bool cards = false;                           ///< It takes frames,
    std::size_t frames_max = 1000;                ///< so many.
    std::function<void(const char* where)> hook;  ///< "load", "acquire", "start", "written".
    /// Writes to memory as loading state does; the number counts loads from 0.
    std::function<void(FakeMemory&, int)> scribble;
  };
  FakeTarget(World& world, Script script);
  ~FakeTarget() override;

  FakeMemory& memory() { return memory_; }
  [[nodiscard]] bool running() const { return running_; }
  [[nodiscard]] bool started() const { return started_; }
  [[nodiscard]] bool discarded() const { return discarded_; }
  [[nodiscard]] bool holds_lock() const { return holds_lock_; }

  Status prepare(const GuestDescription& description) override;
  PageSink& pages() override { return *this; }
  Status load_state(StateReader& reader) override;
  Result<std::chrono::nanoseconds> rehearse_load() override {
    return make_error(ErrorCode::kUnsupported, "loading is not rehearsed here");
  }
  Status acquire() override;
  Status yield() override;
  Status start(RunState state) override;
  void discard() override;
  std::vector<FaultSource> fault_sources() override { return {}; }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return script_.cards ? this : nullptr; }
  [[nodiscard]] const std::vector<GuestFrame>& delivered() const { return delivered_; }

 private:
  void source_stands() override { hook("source stands"); }
  bool deliver(const GuestFrame& frame) override;
  Status update_regions(const RegionDelta& delta) override;
  Status write(const RegionId& region, PageRange range, std::span<const std::byte> bytes) override;
  Status zero(const RegionId& region, PageRange range) override;
  Status read(const RegionId& region, PageRange range, std::span<std::byte> into) override;
  std::span<std::byte> mapped(const RegionId& region) override;
  void hook(const char* where);

  World& world_;
  FakeMemory memory_;
  Script script_;
  bool running_ = false;
  bool started_ = false;
  bool discarded_ = false;
  bool holds_lock_ = false;
  int loads_ = 0;
  std::vector<GuestFrame> delivered_;
};

/// What FakeSource saves and FakeTarget expects, by size.
[[nodiscard]] std::vector<std::byte> fake_state(std::size_t bytes);

}  // namespace migrate::testing
