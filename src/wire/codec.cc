#include "wire/codec.hpp"

#include <algorithm>

#include "wire/text.hpp"

namespace migrate::wire {
namespace {

bool is_section_name(std::string_view name) {
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
  });
}

/// Empty when the text is as its kind demands.
std::string_view complaint(std::string_view text, TextKind kind) {
  if (kind == TextKind::kName && !is_plain_text(text)) {
    return " is not plain text (UTF-8 without control characters)";
  }
  if (kind == TextKind::kSection && !is_section_name(text)) {
    return " is not 1 to 64 characters of [a-z0-9._-]";
  }
  return {};
}

}  // namespace

void Writer::text(std::string_view text, TextKind kind, Bound bound) {
  std::string clean;
  if (kind == TextKind::kMessage) {
    clean = clean_text(text, bound.max);
    text = clean;
  }
  const std::string_view wrong = complaint(text, kind);
  if (!wrong.empty()) return fail(std::string(bound.what).append(wrong));
  blob(std::as_bytes(std::span(text)), bound);
}

void Writer::blob(std::span<const std::byte> bytes, Bound bound) {
  if (bytes.size() > bound.max) return too_long(bound, bytes.size());
  u32(static_cast<std::uint32_t>(bytes.size()));
  put(bytes.data(), bytes.size());
}

Status Writer::finish() const {
  if (error_) return *error_;
  return {};
}

void Writer::put(const void* bytes, std::size_t size) {
  if (error_ || size == 0) return;
  const auto* from = static_cast<const std::byte*>(bytes);
  out_.insert(out_.end(), from, from + size);
}

void Writer::fail(std::string what) {
  if (error_) return;
  error_ = make_error(ErrorCode::kInvalidArgument,
                      "cannot make a " + std::string(record_) + " record: " + std::move(what));
}

void Writer::too_long(const Bound& bound, std::size_t size) {
  fail(std::string(bound.what) + " of " + std::to_string(size) + ", at most " +
       std::to_string(bound.max) + " can be sent");
}

void Reader::boolean(bool& value, std::string_view what) {
  std::uint8_t number = 0;
  u8(number);
  if (number > 1) return fail_at(last_, std::string(what) + " is neither 0 nor 1");
  value = number == 1;
}

void Reader::text(std::string& text, TextKind kind, Bound bound) {
  const std::size_t size = length(bound, 1);
  const std::size_t start = at_;
  text.resize(size);
  take(text.data(), size);
  if (error_) return text.clear();
  if (kind == TextKind::kMessage) text = clean_text(text, bound.max);
  const std::string_view wrong = complaint(text, kind);
  if (!wrong.empty()) fail_at(start, std::string(bound.what).append(wrong));
}

void Reader::blob(std::vector<std::byte>& bytes, Bound bound) {
  bytes.resize(length(bound, 1));
  take(bytes.data(), bytes.size());
}

Status Reader::finish() {
  if (!error_ && at_ != bytes_.size()) {
    fail_at(at_, std::to_string(bytes_.size() - at_) + " bytes are left over");
  }
  if (error_) return *error_;
  return {};
}

void Reader::take(void* to, std::size_t size) {
  if (error_) return;
  last_ = at_;
  if (bytes_.size() - at_ < size) {
    return fail_at(at_, "it ends too early, " + std::to_string(size) + " more bytes are due");
  }
  if (size != 0) std::memcpy(to, bytes_.data() + at_, size);
  at_ += size;
}

std::size_t Reader::length(const Bound& bound, std::size_t element_bytes_min) {
  std::uint32_t value = 0;
  u32(value);
  if (error_) return 0;
  if (value > bound.max) {
    fail_at(last_, std::string(bound.what) + " of " + std::to_string(value) + ", at most " +
                       std::to_string(bound.max) + " are allowed");
    return 0;
  }
  if ((bytes_.size() - at_) / element_bytes_min < value) {
    fail_at(last_, std::string(bound.what) + " of " + std::to_string(value) +
                       ", more than the rest of the record holds");
    return 0;
  }
  return value;
}

void Reader::fail_at(std::size_t at, std::string what) {
  if (error_) return;
  error_ =
      make_error(ErrorCode::kProtocol, "invalid " + std::string(record_) + " record, byte " +
                                           std::to_string(offset_ + at) + ": " + std::move(what))
          .advise("if both sides run versions of migrate that fit, report this as a bug");
}

}  // namespace migrate::wire
