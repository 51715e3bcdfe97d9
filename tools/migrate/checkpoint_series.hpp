// CheckpointSeries: checkpoint after checkpoint of one guest, the latest always under one name.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/options.hpp"
#include "migrate/result.hpp"
#include "report_json.hpp"
#include "signals.hpp"

namespace migrate::tool {

struct SeriesOptions {
  std::filesystem::path path;        ///< Of the latest, a link to one of PATH.000001, ...
  std::chrono::nanoseconds every{};  ///< From the beginning of one to that of the next.
  std::uint64_t count = 0;           ///< So many, then it ends; 0: until a signal comes.
  CompressionChoice compress;        ///< Also of what is merged.
};

/// Each is live, and based on the former; after some, the newest is made one that needs no other,
/// and what is older goes. At any time, also after a crash of everything, PATH can be restored.
class CheckpointSeries {
 public:
  explicit CheckpointSeries(SeriesOptions options) : options_(std::move(options)) {}
  ~CheckpointSeries();

  /// Until a signal comes, the count is reached, or one fails: then PATH is the last that did not.
  /// `body`: what all requests have in common. Gives the figures of all, as in docs/report.md.
  [[nodiscard]] Json run(const std::filesystem::path& socket, const Json& body,
                         const SignalFd& signals);

 private:
  Result<Json> take(const std::filesystem::path& socket, Json body, const SignalFd& signals);
  Status show_latest(const std::filesystem::path& image) const;
  void go_on_after_former();
  void merge_when_due();
  void settle_merge();
  void merge(const std::filesystem::path& image);
  [[nodiscard]] bool merging() MIGRATE_EXCLUDES(mutex_);
  [[nodiscard]] std::filesystem::path numbered(std::uint64_t number) const;
  void remove_before(std::uint64_t number);
  [[nodiscard]] Json summary(const std::optional<Error>& error) const;

  const SeriesOptions options_;
  bool signalled_ = false;
  std::uint64_t former_ = 0;  ///< The last number of a series that was here before.
  std::uint64_t latest_ = 0;  ///< Number of the image that PATH is.
  std::uint64_t oldest_ = 1;  ///< That is there.
  std::uint64_t whole_ = 0;   ///< The newest that needs no other.
  std::vector<double> pauses_ms_, totals_ms_, waits_ms_;
  std::uint64_t file_bytes_ = 0;
  std::uint64_t merges_ = 0;
  std::chrono::steady_clock::time_point begin_, end_;

  std::thread merger_;
  std::uint64_t merger_of_ = 0;
  Mutex mutex_;
  bool merging_ MIGRATE_GUARDED_BY(mutex_) = false;
  Status merged_ MIGRATE_GUARDED_BY(mutex_);
};

}  // namespace migrate::tool
