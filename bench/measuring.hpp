// Measuring: what the programs of this folder share to time something and to say what they found.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::bench {

/// Ends the program: without this, nothing can be measured.
[[noreturn]] void give_up(const std::string& why);

template <typename T>
T must(Result<T> result) {
  if (!result) give_up(result.error().to_text());
  return std::move(result).value();
}
void must(const Status& status);

/// Processor time of this process so far: all its threads, user and system.
[[nodiscard]] double cpu_seconds();

/// Memory for somebody else in this process, kept warm. A machine that is a guest itself may return
/// its free memory to its host (free page reporting), and whoever takes it next waits until the
/// host has found some: 5 s a GiB were seen, where 0.1 s is usual. So this takes it, and gives it
/// back bit by bit as the rest of the process grows: what was freed a moment ago is still here.
class WarmMemory {
 public:
  explicit WarmMemory(std::uint64_t bytes);
  ~WarmMemory();
  WarmMemory(const WarmMemory&) = delete;
  WarmMemory& operator=(const WarmMemory&) = delete;

 private:
  void give_back(std::uint64_t until);
  [[nodiscard]] std::uint64_t others() const;

  std::uint64_t bytes_ = 0;
  std::byte* mapping_ = nullptr;
  std::byte* memory_ = nullptr;
  std::uint64_t given_ = 0;
  std::jthread follower_;
};

/// The same thing measured several times.
class Samples {
 public:
  void add(double value) { values_.push_back(value); }
  [[nodiscard]] std::size_t count() const { return values_.size(); }
  [[nodiscard]] double median() const { return percentile(50); }
  /// The smallest value that `percent` of all are not above; 0 without any.
  [[nodiscard]] double percentile(double percent) const;

 private:
  std::vector<double> values_;
};

struct Figure {
  std::string name;
  double gb_per_s_median = 0;
  double gb_per_s_best = 0;
  double cpu_s_per_gb = 0;  ///< Of the median run; both sides where there are two.
};

/// Runs `work` on `bytes` once to warm up and then `repeats` times.
[[nodiscard]] Figure measure(std::string name, std::uint64_t bytes, unsigned repeats,
                             const std::function<void()>& work);

/// The same for several, one run of each in turn.
[[nodiscard]] std::vector<Figure> measure_in_turns(std::span<const std::string> names,
                                                   std::uint64_t bytes, unsigned repeats,
                                                   std::span<const std::function<void()>> works);

[[nodiscard]] std::string cpu_model();
[[nodiscard]] std::string kernel();
/// "Some processor, 2 cores, kernel 6.18".
[[nodiscard]] std::string host_text();
/// The same as a JSON object.
[[nodiscard]] std::string host_json();
/// `text` as a JSON string.
[[nodiscard]] std::string quoted(std::string_view text);

/// Walks a command line of `--name` and `--name value`. What cannot be understood prints the usage
/// and ends the program with 2; --help prints it and ends with 0.
class Arguments {
 public:
  Arguments(int argc, char** argv, std::string usage);
  /// Moves to the next option; false after the last.
  bool next();
  [[nodiscard]] std::string_view name() const { return name_; }
  [[nodiscard]] std::string_view value();
  [[nodiscard]] std::uint64_t size();  ///< The value as "256M", in whole pages.
  [[nodiscard]] unsigned count();      ///< The value as a number, 1 to 10000.
  [[noreturn]] void misunderstood() const;

 private:
  std::span<char*> left_;
  std::string usage_;
  std::string_view name_;
};

}  // namespace migrate::bench
