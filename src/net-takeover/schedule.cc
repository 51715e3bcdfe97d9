#include <charconv>

#include "migrate/announce.hpp"
#include "migrate/options.hpp"

namespace migrate {
namespace {

using std::chrono::milliseconds;

// More of them, or later ones, no network needs: by then the guest has spoken itself.
constexpr std::size_t kTimesMax = 32;
constexpr milliseconds kLatest{60'000};

Error bad_schedule(std::string_view text, const std::string& why) {
  return make_error(ErrorCode::kInvalidArgument,
                    "'" + std::string(text) + "' is no schedule of announcements: " + why)
      .advise("give times since the guest's start, as in " + to_text(AnnounceSchedule{}));
}

Result<milliseconds> parse_time(std::string_view text) {
  std::uint32_t bare = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), bare);
  if (error == std::errc() && end == text.data() + text.size()) return milliseconds(bare);
  MIGRATE_ASSIGN(const auto time, parse_duration(text));
  return std::chrono::duration_cast<milliseconds>(time);
}

}  // namespace

Result<AnnounceSchedule> parse_announce_schedule(std::string_view text) {
  AnnounceSchedule schedule;
  schedule.at.clear();
  for (std::string_view rest = text;;) {
    const std::size_t comma = rest.find(',');
    const auto time = parse_time(rest.substr(0, comma));
    if (!time) return bad_schedule(text, "'" + std::string(rest.substr(0, comma)) + "' is no time");
    if (!schedule.at.empty() && *time <= schedule.at.back()) {
      return bad_schedule(text, "its times do not ascend");
    }
    if (*time > kLatest) return bad_schedule(text, "a minute is the most");
    schedule.at.push_back(*time);
    if (schedule.at.size() > kTimesMax) {
      return bad_schedule(text, "it has more than " + std::to_string(kTimesMax) + " times");
    }
    if (comma == std::string_view::npos) return schedule;
    rest.remove_prefix(comma + 1);
  }
}

std::string to_text(const AnnounceSchedule& schedule) {
  std::string text;
  for (const milliseconds time : schedule.at) {
    if (!text.empty()) text += ',';
    text += std::to_string(time.count()) + "ms";
  }
  return text;
}

}  // namespace migrate
