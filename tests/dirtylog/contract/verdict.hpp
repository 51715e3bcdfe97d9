// Verdict: what a check found wrong. A value, not an assertion, so that a test can also demand that
// a broken tracker is found out.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "migrate/result.hpp"

namespace migrate::testing {

class [[nodiscard]] Verdict {
 public:
  void complain(std::string what) {
    ++complaints_;
    if (first_.size() < kKept) first_.push_back(std::move(what));
  }
  /// Complains when `status` is an error; true when it is none.
  bool expect(const Status& status, const char* doing) {
    if (!status) complain(std::string(doing) + ": " + status.error().to_text());
    return status.has_value();
  }
  /// What was done to come to it, for a report.
  void count(std::uint64_t collects, std::uint64_t pages_read) {
    collects_ += collects;
    pages_read_ += pages_read;
  }
  void add(const Verdict& other) {
    count(other.collects_, other.pages_read_);
    complaints_ += other.complaints_;
    for (const std::string& what : other.first_) {
      if (first_.size() < kKept) first_.push_back(what);
    }
  }

  [[nodiscard]] bool holds() const { return complaints_ == 0; }
  [[nodiscard]] std::uint64_t collects() const { return collects_; }
  [[nodiscard]] std::uint64_t pages_read() const { return pages_read_; }
  [[nodiscard]] std::string text() const {
    std::string text = std::to_string(complaints_) + " complaints";
    for (const std::string& what : first_) text += "\n  " + what;
    return text;
  }

 private:
  static constexpr std::size_t kKept = 8;
  std::uint64_t complaints_ = 0;
  std::uint64_t collects_ = 0;
  std::uint64_t pages_read_ = 0;
  std::vector<std::string> first_;
};

}  // namespace migrate::testing
