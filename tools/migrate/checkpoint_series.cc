#include "checkpoint_series.hpp"

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <system_error>

#include "base/log.hpp"
#include "base/start_thread.hpp"
#include "checkpoint_client.hpp"
#include "control_client.hpp"
#include "json_fields.hpp"
#include "migrate/image.hpp"

namespace migrate::tool {
namespace {

using std::chrono::duration;
using std::chrono::steady_clock;
namespace fs = std::filesystem;

// Of a chain a restore opens every file, and looks a page up in as many; merging reads all of the
// memory once.
constexpr std::uint64_t kMergeAfter = 32;

double quantile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value;
  return total;
}

}  // namespace

CheckpointSeries::~CheckpointSeries() {
  if (merger_.joinable()) merger_.join();
}

fs::path CheckpointSeries::numbered(std::uint64_t number) const {
  std::string digits = std::to_string(number);
  digits.insert(0, digits.size() < 6 ? 6 - digits.size() : 0, '0');
  fs::path path = options_.path;
  path += "." + digits;
  return path;
}

Json CheckpointSeries::run(const fs::path& socket, const Json& body, const SignalFd& signals) {
  go_on_after_former();
  begin_ = steady_clock::now();
  std::optional<Error> error;
  auto next = begin_;
  while (!signalled_ && (options_.count == 0 || totals_ms_.size() < options_.count)) {
    auto report = take(socket, body, signals);
    if (!report) {
      error = std::move(report).error();
      break;
    }
    merge_when_due();
    next = std::max(next + options_.every, steady_clock::now());
    while (!signalled_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next - steady_clock::now());
      if (left.count() <= 0) break;
      pollfd wait{signals.fd(), POLLIN, 0};
      if (poll(&wait, 1, static_cast<int>(std::min<long>(left.count(), 60'000))) > 0) {
        signalled_ = signals.take() != 0;
      }
    }
  }
  end_ = steady_clock::now();
  settle_merge();
  // What the guest pays for the next one is over.
  static_cast<void>(control_request(socket, "DELETE", "/v1/checkpoint/tracking"));
  if (error && signalled_ && error->code == ErrorCode::kCancelled) error.reset();
  return summary(error);
}

Result<Json> CheckpointSeries::take(const fs::path& socket, Json body, const SignalFd& signals) {
  const std::uint64_t number = latest_ + 1;
  const fs::path image = numbered(number);
  body["path"] = image.string();
  body["live"] = true;
  body["keep_tracking"] = true;
  if (latest_ != former_) body["base"] = numbered(latest_).string();
  MIGRATE_ASSIGN(const Json report, request_checkpoint(socket, body, signals, signalled_));
  if (const Json& error = part(report, "error"); !error.empty()) return error_from_json(error);
  MIGRATE_TRY(show_latest(image));
  latest_ = number;
  if (number == former_ + 1) {
    whole_ = number;
    remove_before(number);
  }
  double pause = 0, total = 0;
  std::uint64_t faults = 0, bytes = 0;
  double wait_us = 0;
  tool::take(report, "pause_ms", pause);
  tool::take(report, "total_ms", total);
  tool::take(part(report, "bytes"), "file", bytes);
  tool::take(part(report, "faults"), "count", faults);
  tool::take(part(report, "faults"), "p50_us", wait_us);
  pauses_ms_.push_back(pause);
  totals_ms_.push_back(total);
  waits_ms_.push_back(static_cast<double>(faults) * wait_us / 1000);
  file_bytes_ += bytes;
  return report;
}

/// A series that was here before can be restored until this one has its first image: its names are
/// not used again.
void CheckpointSeries::go_on_after_former() {
  const std::string prefix = options_.path.filename().string() + ".";
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(options_.path.parent_path(), ignored)) {
    const std::string name = entry.path().filename().string();
    std::uint64_t number = 0;
    if (name.rfind(prefix, 0) != 0) continue;
    const char* const begin = name.data() + prefix.size();
    const char* const end = name.data() + name.size();
    const auto parsed = std::from_chars(begin, end, number);
    if (parsed.ec != std::errc() || parsed.ptr != end || numbered(number) != entry.path()) continue;
    oldest_ = former_ == 0 ? number : std::min(oldest_, number);
    former_ = std::max(former_, number);
  }
  latest_ = former_;
}

/// From here on a restore of PATH gets this one.
Status CheckpointSeries::show_latest(const fs::path& image) const {
  fs::path link = options_.path;
  link += ".latest";
  std::error_code failure;
  fs::remove(link, failure);
  fs::create_symlink(image.filename(), link, failure);
  if (!failure) fs::rename(link, options_.path, failure);
  if (!failure) return {};
  return make_errno_error(ErrorCode::kIo, failure.value(),
                          "cannot make " + options_.path.string() + " the latest image")
      .advise("the images are there, the latest is " + image.string());
}

bool CheckpointSeries::merging() {
  MutexLock lock(mutex_);
  return merging_;
}

/// What a merged image makes needless goes once it is there, and not before.
void CheckpointSeries::settle_merge() {
  if (!merger_.joinable()) return;
  merger_.join();
  MutexLock lock(mutex_);
  if (merged_) {
    whole_ = merger_of_;
    ++merges_;
    remove_before(whole_);
  } else {
    log_line(LogLevel::kWarning, "not merged: " + merged_.error().to_text());
  }
}

void CheckpointSeries::merge_when_due() {
  if (merging()) return;
  settle_merge();
  if (latest_ - whole_ < kMergeAfter) return;
  merger_of_ = latest_;
  {
    MutexLock lock(mutex_);
    merging_ = true;
  }
  const Status started =
      start_thread(merger_, "merge", [this, image = numbered(merger_of_)] { merge(image); });
  if (started) return;
  MutexLock lock(mutex_);
  merging_ = false;
}

void CheckpointSeries::merge(const fs::path& image) {
  // In its place and with its id: what is based on it stays so. One thread: the guest comes first.
  auto written = flatten_image(image.string(), image.string(), {}, options_.compress, 1);
  MutexLock lock(mutex_);
  merged_ = written ? Status() : Status(std::move(written).error());
  merging_ = false;
}

void CheckpointSeries::remove_before(std::uint64_t number) {
  std::error_code ignored;
  for (; oldest_ < number; ++oldest_) fs::remove(numbered(oldest_), ignored);
}

Json CheckpointSeries::summary(const std::optional<Error>& error) const {
  const double ms = duration<double, std::milli>(end_ - begin_).count();
  const double held = sum(pauses_ms_) + sum(waits_ms_);
  const bool none = totals_ms_.empty();
  return {{"schema", kReportSchema},
          {"outcome", to_string(error ? Outcome::kFailed : Outcome::kDone)},
          {"path", options_.path.string()},
          {"latest", none ? Json(nullptr) : Json(numbered(latest_).string())},
          {"checkpoints", totals_ms_.size()},
          {"merges", merges_},
          {"total_ms", finite(ms)},
          {"period_ms", none ? 0 : finite(ms / static_cast<double>(totals_ms_.size()))},
          {"pause_ms",
           {{"p50", finite(quantile(pauses_ms_, 0.5))},
            {"p99", finite(quantile(pauses_ms_, 0.99))},
            {"max", finite(quantile(pauses_ms_, 1))}}},
          {"written_ms",
           {{"p50", finite(quantile(totals_ms_, 0.5))},
            {"p99", finite(quantile(totals_ms_, 0.99))},
            {"max", finite(quantile(totals_ms_, 1))}}},
          {"bytes", {{"file", file_bytes_}}},
          {"guest_held", ms > 0 ? finite(held / ms) : 0},
          {"error", error ? to_json(*error) : Json(nullptr)}};
}

}  // namespace migrate::tool
