// A guest's state on its way, without an engine: written to a list of sections, and read from it.
#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <vector>

#include "migrate/guest.hpp"

namespace migrate::vmm {

using Sections = std::vector<GuestDescription::Property>;

class Recorder final : public StateWriter {
 public:
  explicit Recorder(Sections& sections) : sections_(sections) {}
  Status begin(const SectionInfo& section) override {
    sections_.push_back({section, {}});
    return {};
  }
  Status append(std::span<const std::byte> bytes) override {
    auto& body = sections_.back().body;
    body.insert(body.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status end() override { return {}; }
  Status memory_final() override { return {}; }

 private:
  Sections& sections_;
};

class Player final : public StateReader {
 public:
  explicit Player(const Sections& sections) : sections_(sections) {}
  Result<std::optional<SectionInfo>> next() override {
    if (section_ == sections_.size()) return std::optional<SectionInfo>();
    left_ = sections_[section_].body;
    return std::optional<SectionInfo>(sections_[section_++].info);
  }
  [[nodiscard]] std::uint64_t remaining() const override { return left_.size(); }
  Status read(std::span<std::byte> into) override {
    if (into.size() > left_.size()) return make_error(ErrorCode::kProtocol, "too short");
    std::copy_n(left_.begin(), into.size(), into.begin());
    left_ = left_.subspan(into.size());
    return {};
  }

 private:
  const Sections& sections_;
  std::size_t section_ = 0;
  std::span<const std::byte> left_;
};

}  // namespace migrate::vmm
