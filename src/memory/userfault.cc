#include "memory/userfault.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/mutex.hpp"
#include "memory/uffd_abi.hpp"

namespace migrate {
namespace {

/// Who has a userfaultfd on what, in this process. The kernel knows that a range is taken, but not
/// by whom.
class Owners {
 public:
  struct Entry {
    const void* holder;
    AddressRange range;
    std::string owner;
  };

  /// Enters the range, or gives the name of an owner of some of it.
  std::string claim(const void* holder, AddressRange range, const std::string& owner)
      MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    for (const Entry& entry : entries_) {
      if (entry.range.begin < range.end && range.begin < entry.range.end) return entry.owner;
    }
    entries_.push_back({holder, range, owner});
    return {};
  }

  void release(const void* holder, AddressRange range) MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    std::erase_if(entries_, [&](const Entry& entry) {
      return entry.holder == holder && entry.range == range;
    });
  }

  void rename(const void* from, const void* to) MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    for (Entry& entry : entries_) {
      if (entry.holder == from) entry.holder = to;
    }
  }

 private:
  Mutex mutex_;
  std::vector<Entry> entries_ MIGRATE_GUARDED_BY(mutex_);
};

Owners& owners() {
  // Never destroyed: a tracker in static storage may outlive it otherwise.
  static Owners* const all = new Owners;
  return *all;
}

std::string to_text(AddressRange range) {
  char text[48];
  std::snprintf(text, sizeof(text), "0x%llx-0x%llx", static_cast<unsigned long long>(range.begin),
                static_cast<unsigned long long>(range.end));
  return text;
}

uffdio_range range_of(AddressRange range) { return {range.begin, range.end - range.begin}; }

std::uint64_t mode_of(Userfault::Use use) {
  switch (use) {
    case Userfault::Use::kWriteProtect:
      return UFFDIO_REGISTER_MODE_WP;
    case Userfault::Use::kMissing:
      return UFFDIO_REGISTER_MODE_MISSING;
    case Userfault::Use::kMinor:
      return UFFDIO_REGISTER_MODE_MINOR;
  }
  return 0;
}

std::string_view name_of(Userfault::Use use) {
  switch (use) {
    case Userfault::Use::kWriteProtect:
      return "write protection";
    case Userfault::Use::kMissing:
      return "missing pages";
    case Userfault::Use::kMinor:
      return "minor faults";
  }
  return "";
}

/// From /dev/userfaultfd where that opens (its permissions then decide who may), else by the system
/// call, which without CAP_SYS_PTRACE needs vm.unprivileged_userfaultfd.
Fd create_userfault() {
  const Fd device(::open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
  if (device) {
    Fd made(::ioctl(device.get(), USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK));
    if (made) return made;
  }
  return Fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
}

Error creation_error(int error, std::string_view owner) {
  const std::string what = "no userfaultfd can be made for " + std::string(owner);
  if (error == EPERM || error == EACCES) {
    return make_errno_error(ErrorCode::kPermission, error, what)
        .advise("give the process CAP_SYS_PTRACE or access to /dev/userfaultfd");
  }
  if (error == ENOSYS) {
    return make_errno_error(ErrorCode::kUnsupported, error, what)
        .advise("use a kernel with CONFIG_USERFAULTFD");
  }
  return make_errno_error(ErrorCode::kIo, error, what);
}

Error busy(AddressRange range, std::string_view wanted_by, const std::string& owner, int error) {
  const std::string by = owner.empty() ? "another user in or outside this library" : owner;
  return make_errno_error(ErrorCode::kBusy, error,
                          "memory at " + to_text(range) + " has a userfaultfd already, of " + by +
                              "; " + std::string(wanted_by) + " cannot have it, too")
      .advise("end the other use first, or track this memory another way");
}

}  // namespace

bool UserfaultSupport::write_protect_async() const {
  return available && (features & abi::kUffdWriteTracking) == abi::kUffdWriteTracking;
}

UserfaultSupport probe_userfault() {
  UserfaultSupport support;
  const Fd fd = create_userfault();
  uffdio_api api{};
  api.api = UFFD_API;
  if (!fd || ::ioctl(fd.get(), UFFDIO_API, &api) != 0) {
    support.sys_errno = errno;
    return support;
  }
  support.available = true;
  support.features = api.features;
  return support;
}

Userfault::Userfault(Fd fd, std::string owner, bool own_process)
    : fd_(std::move(fd)), owner_(std::move(owner)), own_process_(own_process) {}

Userfault::Userfault(Userfault&& other) noexcept
    : fd_(std::move(other.fd_)),
      owner_(std::move(other.owner_)),
      own_process_(other.own_process_),
      ranges_(std::exchange(other.ranges_, {})) {
  if (own_process_ && !ranges_.empty()) owners().rename(&other, this);
}

Userfault::~Userfault() {
  // In another process closing takes back all at once; one by one, its mappings would be split in
  // between, which it may notice.
  while (own_process_ && !ranges_.empty()) (void)remove(ranges_.back().range);
}

Result<Userfault> Userfault::open(std::uint64_t features, std::string_view owner) {
  Fd fd = create_userfault();
  if (!fd) return creation_error(errno, owner);
  Userfault made(std::move(fd), std::string(owner), true);
  MIGRATE_TRY(made.speak(features));
  return made;
}

Result<Userfault> Userfault::adopt(Fd fd, std::uint64_t features, std::string_view owner) {
  Userfault made(std::move(fd), std::string(owner), false);
  MIGRATE_TRY(made.speak(features));
  return made;
}

Status Userfault::speak(std::uint64_t features) {
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = features;
  if (::ioctl(fd_.get(), UFFDIO_API, &api) == 0) return {};
  const int error = errno;
  Error failed = make_errno_error(error == EINVAL ? ErrorCode::kUnsupported : ErrorCode::kIo, error,
                                  "this kernel's userfaultfd lacks what " + owner_ + " needs");
  if ((features & abi::kUffdWpAsync) != 0) {
    return std::move(failed).advise("use Linux 6.7 or newer, or track writes another way");
  }
  return failed;
}

Status Userfault::add(AddressRange range, Use use) {
  const std::string what =
      "memory at " + to_text(range) + " cannot be registered for " + std::string(name_of(use));
  // Looked at first, because the kernel passes over gaps in the range.
  if (own_process_ && !is_mapped(range)) {
    return make_errno_error(ErrorCode::kNotFound, ENOMEM, what + ": it is not mapped");
  }
  if (own_process_) {
    const std::string other = owners().claim(this, range, owner_);
    if (!other.empty()) return busy(range, owner_, other, 0);
  }
  uffdio_register registration{};
  registration.range = range_of(range);
  registration.mode = mode_of(use);
  if (::ioctl(fd_.get(), UFFDIO_REGISTER, &registration) == 0) {
    // Zeroing by the userfaultfd is what the kernel offers for all memory but hugetlb.
    const bool hugetlb = (registration.ioctls & (std::uint64_t{1} << _UFFDIO_ZEROPAGE)) == 0;
    ranges_.push_back({range, use, hugetlb});
    return {};
  }
  const int error = errno;
  if (own_process_) owners().release(this, range);
  if (error == EBUSY) return busy(range, owner_, {}, error);
  if (error == ENOMEM || error == ESRCH) {
    return make_errno_error(ErrorCode::kNotFound, error, what + ": nothing is mapped there");
  }
  if (error == EINVAL || error == EPERM) {
    return make_errno_error(ErrorCode::kUnsupported, error, what)
        .advise(
            "only anonymous memory, memfds and hugetlb can be, in whole pages of the backing and "
            "mapped writable");
  }
  return make_errno_error(ErrorCode::kIo, error, what);
}

bool Userfault::hugetlb(AddressRange range) const {
  return std::any_of(ranges_.begin(), ranges_.end(), [&](const Registered& entry) {
    return entry.hugetlb && entry.range.begin < range.end && range.begin < entry.range.end;
  });
}

int Userfault::set_protection(AddressRange range, bool on) const {
  const std::uint64_t most = hugetlb(range) ? kGiganticPageBytes : kProtectBytesMax;
  for (std::uint64_t at = range.begin; at < range.end;) {
    const std::uint64_t end = std::min(range.end, at / most * most + most);
    uffdio_writeprotect protection{};
    protection.range = range_of({at, end});
    protection.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0;
    if (::ioctl(fd_.get(), UFFDIO_WRITEPROTECT, &protection) != 0) return errno;
    at = end;
  }
  return 0;
}

Error Userfault::not_set(AddressRange range, int error, std::string_view what) const {
  const bool gone = error == ENOENT || error == ESRCH;
  return make_errno_error(
             gone ? ErrorCode::kNotFound : ErrorCode::kIo, error,
             "memory at " + to_text(range) + " cannot be " + std::string(what) + " for " + owner_)
      .advise(
          "keep memory mapped while its writes are tracked; give hugetlb memory in whole huge "
          "pages");
}

Status Userfault::protect(AddressRange range) const {
  const int error = set_protection(range, true);
  return error == 0 ? Status() : not_set(range, error, "write-protected");
}

Status Userfault::unprotect(AddressRange range) const {
  const int error = set_protection(range, false);
  return error == 0 ? Status() : not_set(range, error, "made writable again");
}

Status Userfault::remove(AddressRange range) {
  const auto entry = std::find_if(ranges_.begin(), ranges_.end(),
                                  [&](const Registered& one) { return one.range == range; });
  // Unregistering lifts the protection, too, but in one go and with the process's memory map locked
  // (60 ms a GiB), for which a KVM guest's faults wait.
  if (entry != ranges_.end() && entry->use == Use::kWriteProtect) {
    (void)set_protection(range, false);
  }
  uffdio_range raw = range_of(range);
  const bool removed = ::ioctl(fd_.get(), UFFDIO_UNREGISTER, &raw) == 0;
  const int error = errno;
  forget(range);
  // EINVAL: nothing is mapped there any more, or something that cannot be registered. ENOMEM,
  // ESRCH: the process has no memory any more.
  if (removed || error == EINVAL || error == ENOMEM || error == ESRCH) return {};
  return make_errno_error(ErrorCode::kIo, error,
                          "memory at " + to_text(range) + " could not be unregistered");
}

void Userfault::forget(AddressRange range) {
  std::erase_if(ranges_, [&](const Registered& entry) { return entry.range == range; });
  if (own_process_) owners().release(this, range);
}

}  // namespace migrate
