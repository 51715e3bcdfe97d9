#include "precopy/simulated_rounds.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <utility>

#include "precopy/round_rules.hpp"

namespace migrate::precopy {
namespace {

// The engine's: see bulk_senders.cc, page_coder.hpp.
constexpr double kLookAheadMs = std::chrono::duration<double, std::milli>(kLookAhead).count();
constexpr double kRoundMsMax = 24 * 3600 * 1000.0;
constexpr std::uint64_t kBatchPages = 256;
constexpr std::size_t kQueuedBatches = 8;

bool test(const PageBitmap& set, std::uint64_t page) {
  return ((set.segments()[0].words[page / 64] >> (page % 64)) & 1) != 0;
}
void add(PageBitmap& set, std::uint64_t page) {
  set.segments()[0].words[page / 64] |= std::uint64_t{1} << (page % 64);
}

PageBitmap make_set(std::uint64_t pages) {
  const std::array regions = {Region{{}, {{0}, pages}, Backing::kUnknown}};
  return PageBitmap(regions);
}

}  // namespace

SimulatedRounds::SimulatedRounds(const DirtyTrace& trace, std::chrono::microseconds offset,
                                 SimulatedLink link)
    : trace_(trace),
      link_(link),
      replay_(trace, offset),
      set_(make_set(trace.pages())),
      log_(set_),
      unarmed_(set_),
      again_(set_),
      dirtied_by_vcpu_(trace.vcpus) {
  heat_.reshape(set_.regions());
  set_.set_all();
  for (const TraceRun& run : trace.empty) set_.clear({}, {{run.first}, run.count});
  if (!trace.rearms_in_collect) unarmed_ = set_;
}

double SimulatedRounds::cost_ms(std::uint64_t pages, double bytes_per_s) const {
  const double count = static_cast<double>(pages);
  return std::max(1000 * count * link_.page_bytes / bytes_per_s, count * link_.page_ms_min);
}

void SimulatedRounds::wrote(TraceRun run) {
  std::uint64_t fresh = 0;
  for (std::uint32_t page = run.first; page < run.first + run.count; ++page) {
    if (test(unarmed_, page) || test(log_, page)) continue;
    add(log_, page);
    fresh_.push_back(page);
    ++fresh;
  }
  if (fresh == 0) return;
  dirtied_ += fresh;
  const auto& by_vcpu = replay_.by_vcpu();
  double writes = 0;
  for (const std::uint64_t pages : by_vcpu) writes += static_cast<double>(pages);
  if (writes == 0) return;
  if (dirtied_by_vcpu_.size() < by_vcpu.size()) dirtied_by_vcpu_.resize(by_vcpu.size());
  for (std::size_t vcpu = 0; vcpu < by_vcpu.size(); ++vcpu) {
    dirtied_by_vcpu_[vcpu] +=
        static_cast<double>(fresh) * static_cast<double>(by_vcpu[vcpu]) / writes;
  }
}

void SimulatedRounds::pass(double ms) {
  // A round of more than a day is as good as one without end.
  while (ms > 0 && now_ms_ < kRoundMsMax) {
    // As often as the engine looks at its tracker.
    const double step = std::min(ms, kLookAheadMs);
    replay_.run(step, withheld_, [this](TraceRun run) { wrote(run); });
    now_ms_ += step;
    ms -= step;
    look_again();
  }
}

void SimulatedRounds::look_again() {
  if (now_ms_ - looked_ms_ < kLookAheadMs) return;
  looked_ms_ = now_ms_;
  seen_.insert(seen_.end(), fresh_.begin(), fresh_.end());
  fresh_.clear();
  if (on_moment_ == nullptr || !*on_moment_) return;
  const std::vector<std::uint64_t> writers = by_vcpu();
  (*on_moment_)({now_ms_, dirtied_, writers, set_.count() - passed_});
}

std::vector<std::uint64_t> SimulatedRounds::by_vcpu() const {
  if (trace_.samples.empty() || trace_.samples.front().by_vcpu.empty()) return {};
  std::vector<std::uint64_t> pages;
  for (const double written : dirtied_by_vcpu_)
    pages.push_back(static_cast<std::uint64_t>(written));
  return pages;
}

SimulatedRounds::Outcome SimulatedRounds::run(const OnMoment& on_moment) {
  Outcome outcome;
  outcome.set_pages = set_.count();
  now_ms_ = looked_ms_ = 0;
  dispatched_ = passed_ = dirtied_ = 0;
  std::fill(dirtied_by_vcpu_.begin(), dirtied_by_vcpu_.end(), 0);
  again_.clear_all();
  fresh_.clear();
  seen_.clear();
  on_moment_ = &on_moment;
  const PageBitmap hot = heat_.hot_part(set_);
  PageBitmap cold = set_;
  cold.subtract(hot);
  send_part(cold);
  send_part(hot);
  while (!queue_.empty()) {
    pass(queue_.front());
    queue_.pop_front();
  }
  pass(link_.round_trip_ms);
  outcome.sent = dispatched_;
  outcome.wire_bytes = static_cast<double>(dispatched_) * link_.page_bytes;
  outcome.ms = now_ms_;
  if (dispatched_ >= kWindowPages) {
    bytes_per_s_ = static_cast<double>(dispatched_ * kPageSize) / (now_ms_ / 1000);
  }
  collect();
  heat_.note(set_);
  on_moment_ = nullptr;
  outcome.dirty_after = set_.count();
  outcome.dirtied_by_vcpu = by_vcpu();
  return outcome;
}

void SimulatedRounds::collect() {
  pass(static_cast<double>(trace_.costs.collect.count()) / 1000);
  std::swap(set_, log_);
  log_.clear_all();
  if (!trace_.rearms_in_collect) unarmed_ = set_;
}

SimulatedRounds::Outcome SimulatedRounds::run_final() {
  // What was written after the last round's collect; none without a round before.
  Outcome outcome;
  set_.merge(log_);
  outcome.set_pages = outcome.sent = set_.count();
  outcome.wire_bytes = static_cast<double>(outcome.sent) * link_.page_bytes;
  outcome.ms = cost_ms(outcome.sent, link_.bytes_per_s);
  set_.clear_all();
  return outcome;
}

void SimulatedRounds::send_part(const PageBitmap& part) {
  const auto& segment = part.segments()[0];
  const std::uint64_t total = segment.region.range.count;
  const std::size_t ahead_max = trace_.rearms_in_collect ? 0 : windows_ahead(bytes_per_s_);
  const std::uint64_t window = window_pages(bytes_per_s_);
  std::deque<PageRange> ahead;
  for (std::uint64_t first = 0; first < total; first += window) {
    const std::uint64_t end = std::min(first + window, total);
    if (next_run(segment, {first}, {end}).empty()) continue;
    auto& unarmed = unarmed_.segments()[0].words;
    for (std::uint64_t word = first / 64; word < (end + 63) / 64; ++word) {
      unarmed[word] &= ~segment.words[word];
    }
    ahead.push_back({{first}, end - first});
    if (ahead.size() <= ahead_max) continue;
    dispatch(part, ahead.front());
    ahead.pop_front();
  }
  for (const PageRange& range : ahead) dispatch(part, range);
}

void SimulatedRounds::dispatch(const PageBitmap& part, PageRange window) {
  const auto& segment = part.segments()[0];
  for (const std::uint32_t page : seen_) add(again_, page);
  seen_.clear();
  std::uint64_t batch = 0;
  for (PageRange run = next_run(segment, window.first, window.end()); !run.empty();
       run = next_run(segment, run.end(), window.end())) {
    for (std::uint64_t page = run.first.number; page < run.end().number; ++page) {
      ++passed_;
      if (test(again_, page)) continue;
      ++dispatched_;
      if (++batch < kBatchPages) continue;
      submit(batch);
      batch = 0;
    }
  }
  if (batch > 0) submit(batch);
}

void SimulatedRounds::submit(std::uint64_t pages) {
  const double rate = rate_ > 0 ? std::min(rate_, link_.bytes_per_s) : link_.bytes_per_s;
  queue_.push_back(cost_ms(pages, rate));
  if (queue_.size() <= kQueuedBatches + link_.lanes) return;
  pass(queue_.front());
  queue_.pop_front();
}

}  // namespace migrate::precopy
