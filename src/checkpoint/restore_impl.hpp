// Restore::Impl: its steps, in the order in which run() takes them.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/event_fd.hpp"
#include "base/mutex.hpp"
#include "checkpoint/eager_fill.hpp"
#include "checkpoint/image_chain.hpp"
#include "checkpoint/lazy_restore.hpp"
#include "migrate/restore.hpp"

namespace migrate {

class Restore::Impl {
 public:
  Impl(std::unique_ptr<TargetGuest> guest, RestoreOptions options, Host& host, Observer* observer,
       Clock& clock);

  RestoreResult run();
  bool cancel() noexcept MIGRATE_EXCLUDES(mutex_);
  void guest_ended() noexcept MIGRATE_EXCLUDES(mutex_);

 private:
  enum class Gate : std::uint8_t { kOpen, kCancelled, kStarted };

  Status restore();
  Status check_options() const;
  Status check_record() const;
  Status open();
  Status open_stream();
  Status fill_memory();
  Status fill_eagerly(const std::vector<checkpoint::PagesPart>& parts);
  Status fill_from_stream();
  Status map_memory();
  Status begin_lazily();
  Status load_state();
  Status start();
  Status not_cancelled() const;

  void after_start();
  Status record();
  void follow_memory();
  Status compare_digest();
  void lose_memory(const Error& why);
  void wait_for_prefetch();
  void note_lazy_figures();
  [[nodiscard]] std::vector<double> stalls_by_vcpu(const checkpoint::LazyFigures& figures);

  void fail(Error error);
  void say(std::string name, std::string detail, Phase phase);
  void show_progress(std::uint64_t pages_done);
  [[nodiscard]] double elapsed_ms() const;
  /// Runs a step and notes how long it took.
  template <typename Step>
  Status timed(double& ms, Phase phase, Step&& step);
  [[nodiscard]] const checkpoint::ImageDescription& description() const;

  std::unique_ptr<TargetGuest> guest_;
  const RestoreOptions options_;
  Host& host_;
  Observer* const observer_;
  Clock& clock_;

  std::chrono::steady_clock::time_point begin_;
  std::atomic<Gate> gate_{Gate::kOpen};
  std::atomic<bool> stop_{false};  ///< Cancelled: what reads memory ends.
  std::atomic<bool> guest_gone_{false};
  bool refused_ = false;  ///< The image and this host do not fit, and nothing was made.
  bool maybe_started_ = false;
  bool memory_lost_ = false;

  Mutex mutex_;  // What other threads wake, while it is there.
  checkpoint::ImageStreamReader* reading_ MIGRATE_GUARDED_BY(mutex_) = nullptr;
  checkpoint::LazyRestore* waking_ MIGRATE_GUARDED_BY(mutex_) = nullptr;
  std::optional<EventFd> cancelled_;  ///< Of a stream: raised by cancel().

  std::shared_ptr<const checkpoint::ImageChain> chain_;
  std::unique_ptr<checkpoint::ImageStreamReader> stream_;
  std::vector<checkpoint::Section> stream_state_;
  std::shared_ptr<checkpoint::LazyRestore> lazy_;
  std::shared_ptr<void> waiting_memory_;
  std::optional<Error> error_;
  RestoreReport report_;
};

}  // namespace migrate
