// The registry of the options of `send`.
#include "migrate/options.hpp"

#include <array>
#include <charconv>

#include "base/convergence_options.hpp"
#include "base/option_kinds.hpp"

namespace migrate {
namespace {

using options::choice_option;
using options::choose;
using options::count_option;
using options::in_option;
using options::kTimeoutMax;
using options::refused;
using options::time_option;

// A round is a pass over all that is dirty; thousands of them mean that nothing converges.
constexpr std::uint32_t kRoundsMax = 10'000;
// Each pauses the guest.
constexpr std::uint32_t kAttemptsMax = 1'000;
// One thread and one socket a lane; published figures stop growing between 8 and 16.
constexpr std::uint32_t kLanesMax = 64;

// As zstd has them; beyond 19 it wants windows larger than a batch.
constexpr int kZstdLevelMin = -7;
constexpr int kZstdLevelMax = 19;
// More than a working set that is sent again and again.
constexpr std::uint64_t kDeltaCacheMax = 64ull << 30;

constexpr std::array kStrategies = {Strategy::kAuto, Strategy::kStopCopy, Strategy::kPrecopy,
                                    Strategy::kPostcopy, Strategy::kHybrid};
constexpr std::array kVerifyModes = {VerifyMode::kDigest, VerifyMode::kFull};
constexpr std::array kPushPatterns = {PushPattern::kBubble, PushPattern::kAddress};
constexpr std::array kSocketIos = {SocketIo::kAuto, SocketIo::kPoll, SocketIo::kUring};

constexpr std::string_view kAutomatic = "auto";

Status set_reconnect(OutgoingOptions& options, std::string_view value) {
  if (value == kAutomatic) {
    options.reconnect.reset();
    return {};
  }
  auto parsed = parse_duration(value);
  if (!parsed) return in_option("reconnect", std::move(parsed).error());
  const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(*parsed);
  if (time != *parsed || time.count() < 0 || time > kTimeoutMax) {
    return refused("reconnect", value,
                   "a time up to 24 hours (86400s), in whole ms, such as 30s; 0s gives up at once; "
                   "auto");
  }
  options.reconnect = time;
  return {};
}

Status set_forward(OutgoingOptions& options, std::string_view value) {
  auto parsed = parse_duration(value);
  if (!parsed) return in_option("forward", std::move(parsed).error());
  const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(*parsed);
  if (time != *parsed || time.count() < 0 || time > kForwardMax) {
    return refused("forward", value,
                   "a time up to 30s, in whole ms, such as 500ms; 0s forwards nothing");
  }
  options.forward = time;
  return {};
}

std::string get_forward(const OutgoingOptions& options) {
  return options.forward.count() == 0 ? "0s" : format_duration(options.forward);
}

std::string get_reconnect(const OutgoingOptions& options) {
  if (!options.reconnect) return std::string(kAutomatic);
  return options.reconnect->count() == 0 ? "0s" : format_duration(*options.reconnect);
}

Status set_bandwidth(OutgoingOptions& options, std::string_view value) {
  auto rate = parse_rate(value);
  if (!rate) return in_option("bandwidth", std::move(rate).error());
  options.bandwidth_bytes_per_s = *rate;
  return {};
}

std::string format_rate(std::uint64_t rate) {
  constexpr std::uint64_t kMbit = 125'000;
  if (rate == 0 || rate % kMbit != 0) return std::to_string(rate);
  return rate % (1000 * kMbit) == 0 ? std::to_string(rate / (1000 * kMbit)) + "Gbit"
                                    : std::to_string(rate / kMbit) + "Mbit";
}

Status set_push_bandwidth(OutgoingOptions& options, std::string_view value) {
  auto rate = parse_rate(value);
  if (!rate) return in_option("push-bandwidth", std::move(rate).error());
  options.push_bandwidth_bytes_per_s = *rate;
  return {};
}

Status set_release(OutgoingOptions& options, std::string_view value) {
  if (value != "early" && value != "end") return refused("release", value, "early, end");
  options.release_early = value == "early";
  return {};
}

constexpr std::string_view kSameBandwidth = "same";

Status set_switchover_bandwidth(OutgoingOptions& options, std::string_view value) {
  if (value == kSameBandwidth) {
    options.switchover_bandwidth_bytes_per_s.reset();
    return {};
  }
  auto rate = parse_rate(value);
  if (!rate) return in_option("switchover-bandwidth", std::move(rate).error());
  options.switchover_bandwidth_bytes_per_s = *rate;
  return {};
}

std::string get_switchover_bandwidth(const OutgoingOptions& options) {
  const auto& rate = options.switchover_bandwidth_bytes_per_s;
  return rate ? format_rate(*rate) : std::string(kSameBandwidth);
}

Status set_compress(OutgoingOptions& options, std::string_view value) {
  using Mode = CompressionChoice::Mode;
  const auto whole = [](std::string_view text, int& number) {
    const char* end = text.data() + text.size();
    const auto [stopped, failure] = std::from_chars(text.data(), end, number);
    return failure == std::errc() && stopped == end;
  };
  CompressionChoice choice;
  if (value == "none" || value == "auto") {
    choice.mode = value == "none" ? Mode::kNone : Mode::kAuto;
  } else if (value == "zstd" || value.starts_with("zstd:")) {
    choice.mode = Mode::kZstd;
    if (value.size() > 4 && (!whole(value.substr(5), choice.level) || choice.level == 0 ||
                             choice.level < kZstdLevelMin || choice.level > kZstdLevelMax)) {
      return refused("compress", value,
                     "zstd levels from " + std::to_string(kZstdLevelMin) + " (fast) to " +
                         std::to_string(kZstdLevelMax) + " (small), but not 0");
    }
  } else {
    return refused("compress", value, "auto, none, zstd, zstd:LEVEL");
  }
  options.compress = choice;
  return {};
}

Status set_delta_cache(OutgoingOptions& options, std::string_view value) {
  auto size = parse_size(value);
  if (!size) return in_option("delta-cache", std::move(size).error());
  if (*size > kDeltaCacheMax) {
    return refused("delta-cache", value, "a size up to " + format_size(kDeltaCacheMax));
  }
  options.delta_cache_bytes = *size;
  return {};
}

Status set_io(OutgoingOptions& options, std::string_view value) {
  MIGRATE_ASSIGN(options.sockets.io, choose("io", value, kSocketIos));
  return {};
}

Status set_zero_copy(OutgoingOptions& options, std::string_view value) {
  if (value != "on" && value != "off") return refused("zerocopy", value, "on, off");
  options.sockets.zero_copy = value == "on";
  return {};
}

std::vector<OptionSpec> make_registry() {
  using Options = OutgoingOptions;
  return {
      choice_option("strategy", "auto|stop-copy|precopy|postcopy|hybrid",
                    "How the guest moves; auto is precopy, and hybrid where that does not do.",
                    &Options::strategy, kStrategies),
      time_option("max-downtime",
                  "The guest is switched over once its predicted downtime is at most this.",
                  &Options::max_downtime),
      options::downtime_hard_option(),
      count_option("max-attempts", "Switchovers tried with --downtime-hard, at most.",
                   &Options::max_attempts, 1, kAttemptsMax),
      count_option(
          "max-rounds",
          "Passes over memory while the guest runs, at most, before each step of on-stall.",
          &Options::max_rounds, 1, kRoundsMax),
      options::policy_option(),
      {"bandwidth", "RATE", "Cap for all lanes together; 0 is no cap.", set_bandwidth,
       [](const Options& options) { return format_rate(options.bandwidth_bytes_per_s); }},
      {"switchover-bandwidth", "RATE|same",
       "Cap while the guest stands, which the downtime forecast counts on; 0 is no cap.",
       set_switchover_bandwidth, get_switchover_bandwidth},
      {"push-bandwidth", "RATE",
       "Post-copy: cap for what the guest does not wait for; 0 is no cap of its own.",
       set_push_bandwidth,
       [](const Options& options) { return format_rate(options.push_bandwidth_bytes_per_s); }},
      choice_option("push-order", "bubble|address",
                    "Post-copy: around the latest faults, or in order of addresses to compare.",
                    &Options::push_order, kPushPatterns),
      {"release", "early|end",
       "Post-copy: when memory goes back to this host, as it arrives or all at the end.",
       set_release, [](const Options& options) { return options.release_early ? "early" : "end"; }},
      count_option("lanes", "Connections that carry memory; 0 chooses by the number of cores.",
                   &Options::lanes, 0, kLanesMax),
      {"compress", "auto|none|zstd[:LEVEL]",
       "Send pages packed, as deltas and as duplicates: where it pays, never, or always.",
       set_compress, [](const Options& options) { return to_string(options.compress); }},
      {"delta-cache", "SIZE", "Memory for pages as they were last sent, to send what changed.",
       set_delta_cache,
       [](const Options& options) { return format_size(options.delta_cache_bytes); }},
      options::on_stall_option(),
      options::throttle_max_option(),
      choice_option("verify", "digest|full",
                    "Compare a digest of all pages sent, or hash the whole memory again as a test.",
                    &Options::verify, kVerifyModes),
      time_option("connect-timeout", "Give up connecting to the target after this.",
                  &Options::connect_timeout),
      time_option("hello-timeout", "Give up a target that does not introduce itself within this.",
                  &Options::hello_timeout),
      time_option("peer-timeout", "Take the link for lost after this long without a byte.",
                  &Options::peer_timeout),
      time_option("ask-window", "After a handover cut short, how long to ask the target who runs.",
                  &Options::ask_window),
      {"reconnect", "TIME|auto",
       "A link that is lost is opened again for this long; auto: 30s, and 10 minutes once the "
       "guest "
       "runs at the target and its memory follows.",
       set_reconnect, get_reconnect},
      {"forward", "TIME",
       "Packets that come to the guest here once it has left go after it, for this long; 0s: none "
       "do.",
       set_forward, get_forward},
      {"io", "auto|poll|uring", "How bytes get through the sockets; uring needs io_uring.", set_io,
       [](const Options& options) { return std::string(to_string(options.sockets.io)); }},
      {"zerocopy", "on|off",
       "Send pages over TCP without copying them, where the network card can.", set_zero_copy,
       [](const Options& options) { return options.sockets.zero_copy ? "on" : "off"; }},
  };
}

}  // namespace

std::span<const OptionSpec> outgoing_option_registry() {
  static const std::vector<OptionSpec> registry = make_registry();
  return registry;
}

Status set_option(OutgoingOptions& options, std::string_view name, std::string_view value) {
  std::string names;
  for (const OptionSpec& spec : outgoing_option_registry()) {
    if (spec.name == name) return spec.set(options, value);
    names.append(names.empty() ? "" : ", ").append(spec.name);
  }
  return make_error(ErrorCode::kInvalidArgument, "there is no option \"" + std::string(name) + "\"")
      .advise("accepted: " + names);
}

}  // namespace migrate
