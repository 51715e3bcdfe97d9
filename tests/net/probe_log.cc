#include "tests/net/probe_log.hpp"

#include <algorithm>

namespace migrate::probe {
namespace {

/// The smallest value that `percent` of all are not above. `sorted` is not empty.
Nanoseconds percentile(const std::vector<Nanoseconds>& sorted, std::size_t percent) {
  const std::size_t rank = (sorted.size() * percent + 99) / 100;
  return sorted[std::max<std::size_t>(rank, 1) - 1];
}

Stretch longer(const Stretch& a, const Stretch& b) { return b.lasted > a.lasted ? b : a; }

}  // namespace

std::uint64_t ProbeLog::sent(Nanoseconds when) {
  probes_.push_back({when});
  return probes_.size() - 1;
}

bool ProbeLog::answered(std::uint64_t number, Nanoseconds when) {
  if (number >= probes_.size()) return false;
  Probe& probe = probes_[number];
  if (probe.answered != kNever) {
    ++duplicated_;
    return true;
  }
  gap_ = longer(gap_, waiting(when));
  probe.answered = when;
  ++answered_;
  last_answer_ = when;
  if (number < first_after_newest_) {
    ++reordered_;
  } else {
    first_after_newest_ = number + 1;
  }
  return true;
}

Stretch ProbeLog::waiting(Nanoseconds until) const {
  if (first_after_newest_ >= probes_.size()) return {};
  const Nanoseconds began = std::max(probes_[first_after_newest_].sent, last_answer_);
  return {began, std::max<Nanoseconds>(until - began, 0)};
}

Glance ProbeLog::glance(Nanoseconds now) const {
  return {answered_, first_after_newest_ - answered_, longer(gap_, waiting(now)).lasted};
}

Figures ProbeLog::figures(Nanoseconds ended) const {
  Figures figures;
  figures.sent = probes_.size();
  figures.answered = answered_;
  figures.lost = figures.sent - answered_;
  figures.reordered = reordered_;
  figures.duplicated = duplicated_;
  figures.gap = longer(gap_, waiting(ended));
  add_losses(ended, figures);
  add_round_trips(figures);
  return figures;
}

void ProbeLog::add_losses(Nanoseconds ended, Figures& figures) const {
  std::uint64_t in_a_row = 0;
  for (std::size_t at = 0; at < probes_.size(); ++at) {
    if (probes_[at].answered != kNever) {
      in_a_row = 0;
      continue;
    }
    if (++in_a_row <= figures.lost_in_a_row) continue;
    const Nanoseconds first = probes_[at + 1 - in_a_row].sent;
    const Nanoseconds next = at + 1 < probes_.size() ? probes_[at + 1].sent : ended;
    figures.lost_in_a_row = in_a_row;
    figures.lost_run = {first, std::max<Nanoseconds>(next - first, 0)};
  }
}

void ProbeLog::add_round_trips(Figures& figures) const {
  std::vector<Nanoseconds> round_trips;
  round_trips.reserve(answered_);
  for (const Probe& probe : probes_) {
    if (probe.answered != kNever) round_trips.push_back(probe.answered - probe.sent);
  }
  if (round_trips.empty()) return;
  std::sort(round_trips.begin(), round_trips.end());
  figures.rtt_p50 = percentile(round_trips, 50);
  figures.rtt_p99 = percentile(round_trips, 99);
  figures.rtt_max = round_trips.back();
}

}  // namespace migrate::probe
