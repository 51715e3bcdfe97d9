// SectionsReader: the device state of an image, given back section by section.
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/image_format.hpp"
#include "migrate/guest.hpp"

namespace migrate::checkpoint {

class SectionsReader final : public StateReader {
 public:
  explicit SectionsReader(std::vector<Section> sections) : sections_(std::move(sections)) {}

  Result<std::optional<SectionInfo>> next() override {
    if (next_ == sections_.size()) return std::optional<SectionInfo>();
    at_ = 0;
    return std::optional<SectionInfo>(sections_[next_++].info);
  }
  [[nodiscard]] std::uint64_t remaining() const override {
    return next_ == 0 ? 0 : sections_[next_ - 1].body.size() - at_;
  }
  Status read(std::span<std::byte> into) override {
    if (into.size() > remaining()) {
      const std::string name = next_ == 0 ? "?" : sections_[next_ - 1].info.name;
      return make_error(ErrorCode::kGuest, "section " + name + " ends at byte " +
                                               std::to_string(at_ + remaining()) + ", " +
                                               std::to_string(into.size()) +
                                               " more were wanted at " + std::to_string(at_));
    }
    if (into.empty()) return {};
    std::memcpy(into.data(), sections_[next_ - 1].body.data() + at_, into.size());
    at_ += into.size();
    return {};
  }

 private:
  std::vector<Section> sections_;
  std::size_t next_ = 0;  // The section after the current one.
  std::size_t at_ = 0;    // In the current section's body.
};

}  // namespace migrate::checkpoint
