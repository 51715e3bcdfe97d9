#include "arrival_takeover.hpp"

#include "base/guarded.hpp"
#include "base/log.hpp"
#include "migrate/options.hpp"

namespace migrate::tool {
namespace {

// Whatever the schedule and the hook's limit allow ends earlier.
constexpr std::chrono::hours kReportPatience{2};
constexpr std::chrono::hours kHookLimitMax{1};

Json hook_json(const std::string& command, const std::optional<HookEnd>& end) {
  if (!end) return nullptr;
  return {{"command", command},
          {"result", to_string(end->kind)},
          {"code", end->number},
          {"ms", end->ms},
          {"error", end->text.empty() ? Json(nullptr) : Json(end->text)}};
}

}  // namespace

void add_takeover_options(CLI::App& command, TakeoverChoice& choice) {
  add_announce_options(command, choice.announce);
  CLI::Option* hook =
      command
          .add_option("--on-takeover", choice.hook,
                      "A command of the shell's, run once the guest has started here")
          ->type_name("CMD");
  command
      .add_option_function<std::string>(
          "--on-takeover-limit",
          [&choice](const std::string& value) {
            const auto time = parse_duration(value);
            const auto ms = time ? std::chrono::duration_cast<std::chrono::milliseconds>(*time)
                                 : std::chrono::milliseconds(0);
            if (ms.count() <= 0 || ms > kHookLimitMax) {
              throw CLI::ValidationError("--on-takeover-limit",
                                         "'" + value +
                                             "' is no time for this: give 1ms to 1 hour "
                                             "(3600s), such as 30s");
            }
            choice.hook_limit = ms;
          },
          "After which time it is killed (default: " + format_duration(choice.hook_limit) + ")")
      ->type_name("TIME")
      ->needs(hook);
}

std::vector<std::string> takeover_arguments(const TakeoverChoice& choice) {
  std::vector<std::string> words = announce_arguments(choice.announce);
  if (!choice.hook.empty()) {
    words.insert(words.end(), {"--on-takeover", choice.hook, "--on-takeover-limit",
                               format_duration(choice.hook_limit)});
  }
  return words;
}

void ArrivalTakeover::prepare(std::vector<vmm::NetConfig> cards, std::string name) {
  cards_ = std::move(cards);
  name_ = std::move(name);
  const auto note = [this](const char* what, const Error& error) {
    errors_.push_back(error.to_text());
    log_line(LogLevel::kWarning, what + error.to_text());
  };
  const auto announced = announced_cards(cards_, choice_.announce);
  if (!announced.empty()) {
    auto announcer = make_announcer(announced, choice_.announce.schedule);
    if (announcer) {
      announcer_ = *std::move(announcer);
    } else {
      note(
          "the network will not be told where the guest is (--announce IFACE says where, "
          "--no-announce that it need not): ",
          announcer.error());
    }
  }
  if (choice_.hook.empty()) return;
  auto hook = TakeoverHook::create(choice_.hook, choice_.hook_limit);
  if (hook) {
    hook_ = *std::move(hook);
  } else {
    note("the takeover hook cannot be run: ", hook.error());
    hook_failure_ = HookEnd{HookEnd::Kind::kNotStarted, 0, 0, hook.error().to_text()};
  }
}

void ArrivalTakeover::taken_over(const TakenOver& guest) noexcept {
  if (announcer_) announcer_->taken_over(guest);
  if (!hook_) return;
  const Status begun = guarded([&]() -> Status {
    hook_->run(variables(guest));
    return {};
  });
  if (begun) return;
  hook_out_of_memory_ = true;
  log_line(LogLevel::kWarning, "the takeover hook cannot be run: out of memory");
}

TakeoverHook::Variables ArrivalTakeover::variables(const TakenOver& guest) const {
  TakeoverHook::Variables all = {
      {"MIGRATE_SESSION", guest.session},
      // The name that was checked: guest.guest is whatever the source says.
      {"MIGRATE_GUEST", name_},
      {"MIGRATE_CARDS", std::to_string(cards_.size())}};
  for (std::size_t i = 0; i < cards_.size(); ++i) {
    const vmm::NetConfig& card = cards_[i];
    const std::string end = i == 0 ? "" : "_" + std::to_string(i + 1);
    std::string ips;
    for (const IpAddress& ip : card.addresses) ips += (ips.empty() ? "" : " ") + to_text(ip);
    all.emplace_back("MIGRATE_INTERFACE" + end, card.tap);
    all.emplace_back("MIGRATE_MAC" + end, card.mac ? to_text(*card.mac) : "");
    all.emplace_back("MIGRATE_IPS" + end, ips);
    all.emplace_back("MIGRATE_VLAN" + end, card.vlan ? std::to_string(*card.vlan) : "");
  }
  return all;
}

Json ArrivalTakeover::report() {
  if (!announcer_ && !hook_ && errors_.empty()) return nullptr;
  const auto deadline = std::chrono::steady_clock::now() + kReportPatience;
  AnnounceReport announced;
  if (announcer_) {
    announcer_->wait(deadline);
    announced = announcer_->report();
  }
  std::vector<std::string> errors = errors_;
  errors.insert(errors.end(), announced.errors.begin(), announced.errors.end());
  return {{"frames_sent", announced.frames_sent},
          {"frames_failed", announced.frames_failed},
          {"first_ms", announced.first_ms ? Json(*announced.first_ms) : Json(nullptr)},
          {"fdb_entries", announced.fdb_entries},
          {"errors", errors},
          {"hook", hook_json(choice_.hook, hook_end(deadline))}};
}

std::optional<HookEnd> ArrivalTakeover::hook_end(SteadyTime deadline) {
  if (hook_out_of_memory_) return HookEnd{HookEnd::Kind::kNotStarted, 0, 0, "out of memory"};
  return hook_ ? hook_->wait(deadline) : hook_failure_;
}

bool ArrivalTakeover::stop_announcing() noexcept {
  if (!announcer_) return false;
  bool over = false;
  // Without the memory for a report there was something to come: nothing is lost by that.
  static_cast<void>(guarded([&]() -> Status {
    over = announcer_->report().over;
    return {};
  }));
  announcer_->stop();
  return !over;
}

void ArrivalTakeover::stop() noexcept {
  stop_announcing();
  if (hook_) hook_->stop();
}

}  // namespace migrate::tool
