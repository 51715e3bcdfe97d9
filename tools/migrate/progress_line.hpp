// How a migration under way looks on a terminal, and elsewhere.
#pragma once

#include <cstdio>
#include <string>

#include "migrate/progress.hpp"

namespace migrate::tool {

/// "12.3 MiB", "980 KiB": for people; exact figures are in the report.
[[nodiscard]] std::string human_bytes(double bytes);
/// "850 us", "12.3 ms", "1.52 s", "3 min 20 s".
[[nodiscard]] std::string human_ms(double ms);

/// Round, pages left, dirty rate, throughput, predicted downtime, ETA; at most `width` characters.
[[nodiscard]] std::string progress_text(const Progress& progress, std::size_t width);
[[nodiscard]] std::string event_text(const Event& event);

/// Draws one line in place on a terminal, with events above it; elsewhere writes events as lines,
/// where they are wanted, and leaves progress out.
class ProgressLine {
 public:
  /// `out` stays the caller's.
  ProgressLine(std::FILE* out, bool event_lines);
  ~ProgressLine() { clear(); }
  ProgressLine(const ProgressLine&) = delete;
  ProgressLine& operator=(const ProgressLine&) = delete;

  void show(const Progress& progress);
  void show(const Event& event);
  /// Takes the line away, so that something else can be written.
  void clear();

 private:
  std::FILE* out_;
  bool terminal_;
  bool event_lines_;
  bool drawn_ = false;
};

}  // namespace migrate::tool
