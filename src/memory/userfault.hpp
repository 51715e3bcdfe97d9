// Userfault: a userfaultfd and the ranges registered with it. Every registration in the library
// goes through here, so that a range has one owner: write-protect tracking, lazy filling, or a
// snapshot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/fd.hpp"
#include "memory/pagemap.hpp"
#include "migrate/result.hpp"

namespace migrate {

/// What the kernel offers and forbids here.
struct UserfaultSupport {
  bool available = false;
  std::uint64_t features = 0;                      ///< UFFD_FEATURE_*.
  int sys_errno = 0;                               ///< Why it is not available.
  [[nodiscard]] bool write_protect_async() const;  ///< WP_ASYNC and WP_UNPOPULATED.
};
[[nodiscard]] UserfaultSupport probe_userfault();

/// A thread waits for the page at `address`.
struct PageFault {
  std::uint64_t address = 0;
  int thread = 0;  ///< Its id; 0 without UFFD_FEATURE_THREAD_ID.
};

/// Takes back all of its registrations and closes the descriptor when it goes. One thread at a
/// time, but copy(), fill_with_zeros(), wake() and read_faults() from any; protect() and
/// unprotect() as well, as long as no range comes or goes.
class Userfault {
 public:
  enum class Use : std::uint8_t { kWriteProtect = 1, kMissing = 2, kMinor = 3 };

  /// Of this process. `owner` names the user in errors, such as "write-protect tracking".
  static Result<Userfault> open(std::uint64_t features, std::string_view owner);
  /// Of another process: `fd` was made there by userfaultfd(2) and has not been spoken to yet.
  static Result<Userfault> adopt(Fd fd, std::uint64_t features, std::string_view owner);

  Userfault(Userfault&&) noexcept;
  Userfault& operator=(Userfault&&) = delete;
  ~Userfault();

  /// Registers `range`. kBusy, naming the other owner where it is known, when some of it has a
  /// userfaultfd already; kNotFound when nothing is mapped there; kUnsupported for memory that
  /// cannot be registered so.
  Status add(AddressRange range, Use use);
  /// Write-protects all of the range, holes too, kProtectBytesMax at a time. kNotFound when some of
  /// it is not registered any more.
  Status protect(AddressRange range) const;
  /// Lifts the protection, and wakes who waits to write there.
  Status unprotect(AddressRange range) const;
  /// Some of that registered range is hugetlb memory.
  [[nodiscard]] bool hugetlb(AddressRange range) const;
  /// What waits since this was called last, at most `into` has room for; empty when nothing does.
  /// Never blocks: fd() is readable when there is something.
  [[nodiscard]] std::span<PageFault> read_faults(std::span<PageFault> into) const;
  struct Filled {
    std::uint64_t bytes = 0;  ///< So many were filled, from the range's beginning on.
    int sys_errno = 0;        ///< Why no more: EEXIST where a page is there already; 0: all were.
  };
  /// Makes the pages of a registered range, none of which is there, and wakes who waits for them.
  /// Goes on where the kernel broke off for the time being.
  [[nodiscard]] Filled copy(AddressRange to, const std::byte* from) const;
  /// The same with zeros; not for hugetlb memory.
  [[nodiscard]] Filled fill_with_zeros(AddressRange to) const;
  /// Lets who waits for them try again.
  void wake(AddressRange range) const;

  /// Unregisters it; memory that has been unmapped meanwhile is no error.
  Status remove(AddressRange range);
  /// Forgets a range that is no longer mapped, without a call.
  void forget(AddressRange range);

  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  struct Registered {
    AddressRange range;
    Use use = Use::kWriteProtect;
    bool hugetlb = false;
  };
  Userfault(Fd fd, std::string owner, bool own_process);
  Status speak(std::uint64_t features);
  /// The errno of a failure, or 0.
  [[nodiscard]] int set_protection(AddressRange range, bool on) const;
  [[nodiscard]] Error not_set(AddressRange range, int error, std::string_view what) const;

  Fd fd_;
  std::string owner_;
  bool own_process_ = true;  ///< Its ranges are in the process-wide list of owners.
  std::vector<Registered> ranges_;
};

}  // namespace migrate
