// PartCursor: where in a list of iovecs a transfer stands, and what the next system call is given.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

namespace migrate {

/// Gives the caller's own iovecs to the kernel as long as a transfer stands at the begin of one;
/// only after a partial transfer are some copied, to shorten the first.
class PartCursor {
 public:
  explicit PartCursor(std::span<const iovec> parts) : parts_(parts) { skip_empty(); }

  [[nodiscard]] bool done() const { return parts_.empty(); }

  /// Valid until the cursor moves. Not to be called when done.
  [[nodiscard]] msghdr message() {
    msghdr message{};
    if (offset_ == 0) {
      // The kernel only reads the iovecs; the type is C's.
      message.msg_iov = const_cast<iovec*>(parts_.data());
      message.msg_iovlen = std::min(parts_.size(), kPartsMax);
      return message;
    }
    message.msg_iov = copied_.data();
    message.msg_iovlen = std::min(parts_.size(), copied_.size());
    std::copy_n(parts_.data(), message.msg_iovlen, copied_.data());
    copied_[0].iov_base = static_cast<std::byte*>(copied_[0].iov_base) + offset_;
    copied_[0].iov_len -= offset_;
    return message;
  }

  /// `count` bytes were moved; at most as many as are left.
  void advance(std::size_t count) {
    while (!parts_.empty() && count >= parts_.front().iov_len - offset_) {
      count -= parts_.front().iov_len - offset_;
      parts_ = parts_.subspan(1);
      offset_ = 0;
    }
    offset_ += count;
  }

 private:
  // UIO_MAXIOV: the kernel refuses more with EMSGSIZE.
  static constexpr std::size_t kPartsMax = 1024;
  // One batch of pages; copying this many iovecs costs a thousandth of copying their pages.
  static constexpr std::size_t kPartsCopied = 256;

  void skip_empty() {
    while (!parts_.empty() && parts_.front().iov_len == 0) parts_ = parts_.subspan(1);
  }

  std::span<const iovec> parts_;
  std::size_t offset_ = 0;  // Bytes of the first part that are done.
  std::array<iovec, kPartsCopied> copied_;
};

}  // namespace migrate
