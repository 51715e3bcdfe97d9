// What a lazy restore does once the guest runs: its memory follows, or is lost.
#include <algorithm>
#include <utility>

#include "base/guarded.hpp"
#include "checkpoint/restore_impl.hpp"

namespace migrate {
namespace {

using checkpoint::LazyFigures;
using checkpoint::LazyRestore;
using std::chrono::duration;
using std::chrono::milliseconds;
using Memory = Restore::Host::Memory;

/// How often what is under way is told, and a guest that has ended is noticed.
constexpr milliseconds kInterval{100};

}  // namespace

void Restore::Impl::after_start() {
  if (lazy_ == nullptr) return;
  Status followed = guarded([&]() -> Status {
    if (Status recorded = record(); !recorded) {
      say("record-failed", recorded.error().to_text(), Phase::kPostcopy);
    }
    wait_for_prefetch();
    if (options_.background && !guest_gone_.load()) MIGRATE_TRY(lazy_->fill_rest());
    follow_memory();
    if (lazy_->missing_pages() == 0) MIGRATE_TRY(compare_digest());
    return {};
  });
  // Here no more is read ahead; who touches what is missing is served for as long as it is kept.
  if (!followed) lose_memory(followed.error());
  {
    const MutexLock lock(mutex_);
    waking_ = nullptr;
  }
  if (lazy_->missing_pages() == 0 || (guest_gone_.load() && !memory_lost_)) {
    lazy_->stop();
    note_lazy_figures();
    lazy_.reset();  // A guest that ended before all was here: memory is inaccessible from now on.
    if (!guest_gone_.load() && !memory_lost_) {
      host_.on_memory(Memory::kComplete, {});
      say("memory-complete", "all memory is here", Phase::kPostcopy);
    }
    return;
  }
  lazy_->stop_reading_ahead();
  note_lazy_figures();
  if (!memory_lost_) {
    lazy_->serve_on(
        [&host = host_](const Error& why) { host.on_memory(Memory::kLost, why.to_text()); });
  }
  waiting_memory_ = std::move(lazy_);
}

/// Each page had its hash; that the index is of this image as a whole is seen here only, as of an
/// eager restore.
Status Restore::Impl::compare_digest() {
  std::uint64_t digest = 0;
  std::vector<checkpoint::FoundPage> found;
  for (const checkpoint::PagesPart& part : checkpoint::all_parts(chain_->regions())) {
    if (guest_gone_.load()) return {};
    found.assign(part.count, {});
    MIGRATE_TRY(chain_->find(part.region, part.first, found));
    for (std::uint64_t i = 0; i < part.count; ++i) {
      if (found[i].file == nullptr) continue;
      digest +=
          chain_->digest().mix(wire::RegionHandle{part.region}, part.first + i, found[i].hash);
    }
  }
  const bool equal = digest == chain_->top().directory().digest;
  report_.digest = equal ? "equal" : "unequal";
  if (equal) return {};
  return make_error(ErrorCode::kIntegrity, "the memory of " + options_.path +
                                               " has another digest than its directory says");
}

Status Restore::Impl::record() {
  if (options_.record.empty()) return {};
  const auto until = std::chrono::steady_clock::now() + options_.record_for;
  // A guest that has ended has touched what it needs; of one whose memory is lost that is not
  // known.
  const auto state = lazy_->wait_until(until);
  const auto touched = lazy_->take_touched();
  if (state == LazyRestore::State::kLost) return {};
  MIGRATE_TRY(checkpoint::write_working_set(chain_, touched, options_.record));
  report_.pages.recorded = touched.size();
  say("recorded", std::to_string(touched.size()) + " pages are in " + options_.record,
      Phase::kPostcopy);
  return {};
}

void Restore::Impl::follow_memory() {
  for (;;) {
    if (!options_.background) break;
    const auto state = lazy_->wait_until(std::chrono::steady_clock::now() + kInterval);
    if (state != LazyRestore::State::kFollows || guest_gone_.load()) break;
    show_progress(report_.pages.total - std::min(report_.pages.total, lazy_->missing_pages()));
  }
  if (guest_gone_.load()) return;
  if (const auto lost = lazy_->loss()) lose_memory(*lost);
}

/// The rest would take processors and disk from what is touched first.
void Restore::Impl::wait_for_prefetch() {
  if (lazy_->prefetch() == nullptr) return;
  while (!guest_gone_.load() && !lazy_->loss() &&
         !lazy_->prefetch()->wait_until(std::chrono::steady_clock::now() + kInterval)) {
  }
  const auto failure = lazy_->prefetch()->take_failure();
  if (failure) say("prefetch-damaged", failure->to_text(), Phase::kPostcopy);
}

void Restore::Impl::lose_memory(const Error& why) {
  if (std::exchange(memory_lost_, true)) return;
  const std::string message = "the image cannot be read any more, and " +
                              std::to_string(lazy_->missing_pages()) +
                              " pages of the guest's memory are not here (" + why.message + ")";
  Error error = make_error(ErrorCode::kGuestLost, message)
                    .advise("the guest is kept paused; end it, and restore it from another image")
                    .at(Phase::kPostcopy)
                    .on(Side::kTarget);
  error.sys_errno = why.sys_errno;
  host_.on_memory(Memory::kLost, error.to_text());
  say("memory-lost", message, Phase::kPostcopy);
  error_ = std::move(error);
}

void Restore::Impl::note_lazy_figures() {
  const LazyFigures figures = lazy_->figures();
  report_.faults.count = figures.faults;
  report_.faults.local = figures.local_faults;
  report_.faults.p50_us = figures.fault_p50_us;
  report_.faults.p99_us = figures.fault_p99_us;
  report_.faults.max_us = figures.fault_max_us;
  report_.faults.stall_ms = stalls_by_vcpu(figures);
  report_.pages.demand = figures.demand;
  report_.pages.prefetched = figures.prefetched;
  report_.pages.background = figures.background;
  report_.bytes.file = figures.file_bytes;
  report_.cpu_s += duration<double>(figures.cpu).count();
}

std::vector<double> Restore::Impl::stalls_by_vcpu(const LazyFigures& figures) {
  std::vector<double> stalls;
  for (const int thread : guest_->vcpu_threads()) {
    const auto found =
        std::find_if(figures.stall_us_by_thread.begin(), figures.stall_us_by_thread.end(),
                     [&](const auto& stall) { return stall.first == thread; });
    stalls.push_back(found == figures.stall_us_by_thread.end() ? 0 : found->second / 1000);
  }
  return stalls;
}

}  // namespace migrate
