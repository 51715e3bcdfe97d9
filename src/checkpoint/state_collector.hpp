// StateCollector: device state in memory, so that the guest need not stand until it is written.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "checkpoint/image_format.hpp"
#include "migrate/guest.hpp"

namespace migrate::checkpoint {

class StateCollector final : public StateWriter {
 public:
  /// What a reader of images accepts.
  static constexpr std::uint64_t kBytesMax = std::uint64_t{1} << 30;

  Status begin(const SectionInfo& section) override {
    if (open_) return out_of_order("begins within another");
    sections_.emplace_back().info = section;
    open_ = true;
    return {};
  }
  Status append(std::span<const std::byte> bytes) override {
    if (!open_) return out_of_order("has content without having begun");
    if (bytes.size() > kBytesMax - bytes_) {
      return make_error(ErrorCode::kUnsupported,
                        "the device state has more than 1 GiB, for which an image has no room");
    }
    bytes_ += bytes.size();
    std::vector<std::byte>& body = sections_.back().body;
    body.insert(body.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status end() override {
    if (!open_) return out_of_order("ends without having begun");
    open_ = false;
    return {};
  }
  Status memory_final() override { return {}; }

  /// After save_state() has succeeded.
  Result<std::vector<Section>> take() {
    if (open_) return out_of_order("has no end").error();
    return std::move(sections_);
  }

 private:
  static Status out_of_order(const char* what) {
    return make_error(ErrorCode::kGuest,
                      std::string("the guest's device state is wrong: a section ") + what);
  }
  std::vector<Section> sections_;
  std::uint64_t bytes_ = 0;
  bool open_ = false;
};

}  // namespace migrate::checkpoint
