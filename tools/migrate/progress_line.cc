#include "progress_line.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <array>

namespace migrate::tool {
namespace {

constexpr std::size_t kWidthUnknown = 80;

std::size_t terminal_width(std::FILE* out) {
  winsize size{};
  if (ioctl(fileno(out), TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kWidthUnknown;
  return size.ws_col;
}

}  // namespace

std::string human_bytes(double bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  return fmt::format("{:.{}f} {}", bytes, unit == 0 || bytes >= 100 ? 0 : 1, kUnits[unit]);
}

std::string human_ms(double ms) {
  if (ms < 1) return fmt::format("{:.0f} us", ms * 1000);
  if (ms < 1000) return fmt::format("{:.1f} ms", ms);
  if (ms < 60'000) return fmt::format("{:.2f} s", ms / 1000);
  const auto seconds = static_cast<long>(ms / 1000);
  return fmt::format("{} min {} s", seconds / 60, seconds % 60);
}

std::string progress_text(const Progress& progress, std::size_t width) {
  const std::string where = progress.phase == Phase::kRounds
                                ? "round " + std::to_string(progress.round)
                                : std::string(to_string(progress.phase));
  std::string text = fmt::format("{} | {} pages left | dirty {}/s | sent {}/s", where,
                                 progress.pages_left, human_bytes(progress.dirty_bytes_per_s),
                                 human_bytes(progress.throughput_bytes_per_s));
  if (progress.predicted_downtime_ms > 0) {
    text += " | downtime ~" + human_ms(progress.predicted_downtime_ms);
  }
  if (progress.eta_ms > 0) text += " | ETA " + human_ms(progress.eta_ms);
  if (text.size() > width) text.resize(width);
  return text;
}

std::string event_text(const Event& event) {
  return event.detail.empty() ? event.name : event.name + ": " + event.detail;
}

ProgressLine::ProgressLine(std::FILE* out, bool event_lines)
    : out_(out), terminal_(isatty(fileno(out)) == 1), event_lines_(event_lines) {}

void ProgressLine::show(const Progress& progress) {
  if (!terminal_) return;
  // One column short: a full line would wrap on some terminals.
  std::fputs(("\r\x1b[K" + progress_text(progress, terminal_width(out_) - 1)).c_str(), out_);
  std::fflush(out_);
  drawn_ = true;
}

void ProgressLine::show(const Event& event) {
  if (!terminal_ && !event_lines_) return;
  clear();
  std::fputs((event_text(event) + "\n").c_str(), out_);
  std::fflush(out_);
}

void ProgressLine::clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", out_);
  std::fflush(out_);
  drawn_ = false;
}

}  // namespace migrate::tool
