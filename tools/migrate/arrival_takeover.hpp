// ArrivalTakeover: what `recv` does for the network of a guest that has started: announcements and
// the operator's hook.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "announce_options.hpp"
#include "base/mutex.hpp"
#include "migrate/announce.hpp"
#include "report_json.hpp"
#include "takeover_hook.hpp"

namespace migrate::tool {

struct TakeoverChoice {
  AnnounceChoice announce;
  std::string hook;  ///< A shell's command; empty: none.
  std::chrono::milliseconds hook_limit{30'000};
};

/// --announce and its like, --on-takeover and its time.
void add_takeover_options(CLI::App& command, TakeoverChoice& choice);
/// The same choice as words, for the process of a session.
[[nodiscard]] std::vector<std::string> takeover_arguments(const TakeoverChoice& choice);

class ArrivalTakeover final : public Takeover {
 public:
  explicit ArrivalTakeover(TakeoverChoice choice) : choice_(std::move(choice)) {}

  /// All that can be made before the guest starts; what fails is logged and stands in the report.
  /// `name` is the guest's at this host. Once, before taken_over().
  void prepare(std::vector<vmm::NetConfig> cards, std::string name);
  void taken_over(const TakenOver& guest) noexcept override;

  /// What has become of it; null for a guest that has neither cards nor a hook. Waits until all is
  /// sent and the hook has ended.
  [[nodiscard]] Json report();
  /// Announces nothing more: the guest is about to leave again. True when something was still to
  /// come. Any thread, from prepare() on.
  bool stop_announcing() noexcept;
  /// Ends what still runs, and lets report() return. Any thread, from prepare() on.
  void stop() noexcept;

 private:
  [[nodiscard]] TakeoverHook::Variables variables(const TakenOver& guest) const;
  [[nodiscard]] std::optional<HookEnd> hook_end(SteadyTime deadline);

  const TakeoverChoice choice_;
  // Made by prepare() and not changed afterwards; what they point to is for any thread.
  std::vector<vmm::NetConfig> cards_;
  std::string name_;
  std::unique_ptr<Announcer> announcer_;
  std::unique_ptr<TakeoverHook> hook_;
  std::vector<std::string> errors_;
  std::optional<HookEnd> hook_failure_;  ///< Why it cannot be run; as all here, before stop().
  std::atomic<bool> hook_out_of_memory_ = false;
};

}  // namespace migrate::tool
