// TlsParts: where in a caller's scattered bytes a send or a receive stands.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <span>
#include <vector>

namespace migrate {

class TlsParts {
 public:
  explicit TlsParts(std::span<const iovec> parts) : parts_(parts) { advance(0); }
  [[nodiscard]] bool done() const { return parts_.empty(); }

  /// The next bytes, `most` at most, as `pieces`, and moves behind them; how many.
  std::size_t list(std::size_t most, std::vector<iovec>& pieces) {
    pieces.clear();
    std::size_t count = 0;
    while (count < most && !done()) {
      const std::size_t step = std::min(parts_.front().iov_len - offset_, most - count);
      // Pages that lie side by side are one piece: each costs the cipher a beginning and an end.
      if (!pieces.empty() && end_of(pieces.back()) == begin()) {
        pieces.back().iov_len += step;
      } else {
        pieces.push_back({begin(), step});
      }
      count += step;
      advance(step);
    }
    return count;
  }
  /// Writes as many of `bytes` as there is room for.
  std::size_t put(std::span<const std::byte> bytes) {
    std::size_t count = 0;
    while (count < bytes.size() && !done()) {
      const std::size_t step = std::min(parts_.front().iov_len - offset_, bytes.size() - count);
      std::memcpy(begin(), bytes.data() + count, step);
      count += step;
      advance(step);
    }
    return count;
  }

 private:
  static std::byte* end_of(const iovec& part) {
    return static_cast<std::byte*>(part.iov_base) + part.iov_len;
  }
  [[nodiscard]] std::byte* begin() const {
    return static_cast<std::byte*>(parts_.front().iov_base) + offset_;
  }
  void advance(std::size_t count) {
    offset_ += count;
    while (!parts_.empty() && offset_ == parts_.front().iov_len) {
      parts_ = parts_.subspan(1);
      offset_ = 0;
    }
  }

  std::span<const iovec> parts_;
  std::size_t offset_ = 0;
};

}  // namespace migrate
