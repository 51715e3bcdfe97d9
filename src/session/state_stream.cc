#include "session/state_stream.hpp"

#include <algorithm>
#include <cstring>

namespace migrate::session {
namespace {

// Four for each of the most vCPUs there can be. Empty sections do not count as bytes of state, so
// without a limit a peer could fill the memory with them; these take 30 MiB at most.
constexpr std::size_t kSectionsMax = 262144;

}  // namespace

Status StateSender::begin(const SectionInfo& section) {
  MIGRATE_CHECK(!open_);
  MIGRATE_TRY(in_time_());
  open_ = true;
  section_bytes_ = 0;
  return control_.send_later(wire::SectionBegin{section}, idle_max_);
}

Status StateSender::append(std::span<const std::byte> bytes) {
  MIGRATE_CHECK(open_);
  while (!bytes.empty()) {
    const std::size_t step = std::min(bytes.size(), wire::kSectionChunkBytesMax);
    MIGRATE_TRY(in_time_());
    MIGRATE_TRY(control_.send_section_data(bytes.first(step), idle_max_));
    section_bytes_ += step;
    bytes = bytes.subspan(step);
  }
  return {};
}

Status StateSender::end() {
  MIGRATE_CHECK(open_);
  open_ = false;
  ++sections_;
  total_bytes_ += section_bytes_;
  return control_.send_later(wire::SectionEnd{section_bytes_}, idle_max_);
}

Status StateSender::memory_settled() {
  MIGRATE_CHECK(sections_ == 0 && !open_ && !memory_final_);
  return on_memory_settled_();
}

Status StateSender::memory_final() {
  if (memory_final_) return {};
  memory_final_ = true;
  return on_memory_final_();
}

Status StateSender::close() { return open_ ? end() : Status{}; }

Status StateSender::finish() {
  MIGRATE_CHECK(!open_);
  MIGRATE_TRY(in_time_());
  MIGRATE_TRY(memory_final());
  return control_.send_later(wire::StateEnd{sections_, total_bytes_}, idle_max_);
}

Status StateBuffer::take(const wire::SectionBegin& begin) {
  if (open_ || complete_) {
    return make_error(ErrorCode::kProtocol,
                      "section " + begin.info.name + " begins where none may");
  }
  if (sections_.size() == kSectionsMax) {
    return make_error(ErrorCode::kProtocol, "the guest's device state has more than " +
                                                std::to_string(kSectionsMax) + " sections");
  }
  open_ = true;
  sections_.push_back({begin.info, {}});
  return {};
}

Status StateBuffer::take_data(std::span<const std::byte> bytes) {
  if (!open_) return make_error(ErrorCode::kProtocol, "section data outside a section");
  if (bytes.size() > bytes_max_ - bytes_) {
    return make_error(ErrorCode::kNoMemory, "the guest's device state is larger than the " +
                                                std::to_string(bytes_max_) + " bytes allowed here");
  }
  bytes_ += bytes.size();
  auto& body = sections_.back().body;
  body.insert(body.end(), bytes.begin(), bytes.end());
  return {};
}

Status StateBuffer::take(const wire::SectionEnd& end) {
  if (!open_ || end.bytes != sections_.back().body.size()) {
    return make_error(ErrorCode::kProtocol, "a section ends that is not open or not whole");
  }
  open_ = false;
  return {};
}

Status StateBuffer::take(const wire::StateEnd& end) {
  if (open_ || complete_ || end.sections != sections_.size() || end.bytes != bytes_) {
    return make_error(ErrorCode::kProtocol, "the device state ends without being whole");
  }
  complete_ = true;
  return {};
}

void StateBuffer::reset() {
  sections_.clear();
  bytes_ = 0;
  open_ = complete_ = false;
  rewind();
}

void StateBuffer::rewind() { next_ = at_ = 0; }

Result<std::optional<SectionInfo>> StateBuffer::next() {
  if (next_ == sections_.size()) return std::optional<SectionInfo>();
  at_ = 0;
  return std::optional<SectionInfo>(sections_[next_++].info);
}

std::uint64_t StateBuffer::remaining() const {
  return next_ == 0 ? 0 : sections_[next_ - 1].body.size() - at_;
}

Status StateBuffer::read(std::span<std::byte> into) {
  if (into.size() > remaining()) {
    return make_error(
        ErrorCode::kGuest,
        "section " + (next_ == 0 ? std::string("?") : sections_[next_ - 1].info.name) +
            " ends at byte " + std::to_string(at_ + remaining()) + ", " +
            std::to_string(into.size()) + " more were wanted at " + std::to_string(at_));
  }
  if (!into.empty()) std::memcpy(into.data(), sections_[next_ - 1].body.data() + at_, into.size());
  at_ += into.size();
  return {};
}

}  // namespace migrate::session
