// What may be sent in a second.
#include "session/outgoing_impl.hpp"

namespace migrate {
namespace {

using std::chrono::milliseconds;

// What lanes that sleep too long may catch up on: a loaded host wakes a thread some milliseconds
// late, and without this each of them would be lost to the rate. Short enough that three seconds
// hold no more than 102 % of the limit.
constexpr milliseconds kBurst{50};

}  // namespace

std::uint64_t Outgoing::Impl::switchover_bandwidth() const {
  return options_.switchover_bandwidth_bytes_per_s.value_or(options_.bandwidth_bytes_per_s);
}

void Outgoing::Impl::make_limiter() {
  const forecast::BandwidthLimits limits{options_.bandwidth_bytes_per_s, switchover_bandwidth()};
  page_cost_.emplace(limits, options_.compress.mode != CompressionChoice::Mode::kNone);
  // Policies that want less of a round than the user allows.
  const bool adapts =
      options_.custom_policy != nullptr || options_.policy.kind == PolicyChoice::Kind::kXen;
  if (limits.round == 0 && limits.switchover == 0 && !adapts) return;
  limiter_ = std::make_unique<RateLimiter>(limits.round, kBurst);
}

/// What a policy wants of the next rounds; 0: the user's own limit.
void Outgoing::Impl::use_round_rate(std::uint64_t bytes_per_s) {
  if (limiter_ == nullptr) return;
  page_cost_->set_round_limit(bytes_per_s);
  limiter_->set_rate(bytes_per_s != 0 ? bytes_per_s : options_.bandwidth_bytes_per_s,
                     std::chrono::steady_clock::now());
}

/// What the control lane has sent (device state, above all) counts, but never waits: lanes that
/// send pages afterwards do.
void Outgoing::Impl::book_control() {
  if (limiter_ == nullptr) return;
  const std::uint64_t sent = driver_->control().sent_bytes();
  const std::uint64_t news = sent - std::exchange(control_booked_, sent);
  if (news > 0) static_cast<void>(limiter_->reserve(news, std::chrono::steady_clock::now()));
}

void Outgoing::Impl::use_switchover_bandwidth() {
  if (limiter_ == nullptr) return;
  limiter_->set_rate(switchover_bandwidth(), std::chrono::steady_clock::now());
}

}  // namespace migrate
