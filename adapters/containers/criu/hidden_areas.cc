#include "adapters/containers/criu/hidden_areas.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string>
#include <vector>

#include "adapters/containers/criu/hidden_layout.hpp"

namespace migrate::containers {
namespace {

constexpr std::uint64_t kPage = 4096;

Status check(std::span<const HiddenArea> areas) {
  for (const HiddenArea& area : areas) {
    if (area.pid > 0 && area.begin < area.end && area.begin % kPage == 0 && area.end % kPage == 0) {
      continue;
    }
    return make_error(ErrorCode::kInvalidArgument, "an area to hide from CRIU is none: process " +
                                                       std::to_string(area.pid) + ", bytes " +
                                                       std::to_string(area.begin) + " to " +
                                                       std::to_string(area.end));
  }
  return {};
}

/// In order, with what touches or overlaps joined: then a range is hidden where one entry has it.
std::vector<HiddenEntry> in_order(std::span<const HiddenArea> areas) {
  std::vector<HiddenEntry> sorted;
  sorted.reserve(areas.size());
  for (const HiddenArea& area : areas) {
    sorted.push_back({static_cast<std::uint64_t>(area.pid), area.begin, area.end});
  }
  std::sort(sorted.begin(), sorted.end(), [](const HiddenEntry& a, const HiddenEntry& b) {
    return a.pid != b.pid ? a.pid < b.pid : a.begin < b.begin;
  });
  std::vector<HiddenEntry> joined;
  for (const HiddenEntry& next : sorted) {
    if (!joined.empty() && joined.back().pid == next.pid && next.begin <= joined.back().end) {
      joined.back().end = std::max(joined.back().end, next.end);
    } else {
      joined.push_back(next);
    }
  }
  return joined;
}

Status write_all(int fd, const void* data, std::size_t size, std::uint64_t at) {
  const char* from = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::pwrite(fd, from, size, static_cast<off_t>(at));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      return make_errno_error(ErrorCode::kNoMemory, errno,
                              "cannot write the list of areas hidden from CRIU")
          .advise("free some memory");
    }
    from += written;
    at += static_cast<std::uint64_t>(written);
    size -= static_cast<std::size_t>(written);
  }
  return {};
}

/// One of the header's fields.
Status write_field(int fd, std::size_t offset, std::uint64_t value) {
  return write_all(fd, &value, sizeof value, offset);
}

Status write_count(int fd, std::uint64_t count) {
  return write_field(fd, offsetof(HiddenHeader, count), count);
}

}  // namespace

Result<HiddenAreas> HiddenAreas::create() {
  Fd fd(::memfd_create("criu-hidden-areas", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot create the list of areas hidden from CRIU")
        .advise("raise the limit of open files (ulimit -n)");
  }
  const HiddenHeader header;
  MIGRATE_TRY(write_all(fd.get(), &header, sizeof header, 0));
  // The shim has it mapped: what is listed must not vanish under it.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return make_errno_error(ErrorCode::kIo, errno,
                            "cannot seal the list of areas hidden from CRIU");
  }
  return HiddenAreas(std::move(fd));
}

Status HiddenAreas::set(std::span<const HiddenArea> areas) {
  MIGRATE_TRY(check(areas));
  const std::vector<HiddenEntry> entries = in_order(areas);
  if (entries.size() > kHiddenCountMax) {
    return make_error(ErrorCode::kInvalidArgument,
                      std::to_string(entries.size()) + " areas are too many to hide from CRIU, " +
                          std::to_string(kHiddenCountMax) + " is the limit");
  }
  // Nothing is hidden by a list that is half written.
  MIGRATE_TRY(write_count(fd_.get(), 0));
  MIGRATE_TRY(write_all(fd_.get(), entries.data(), entries.size() * sizeof(HiddenEntry),
                        sizeof(HiddenHeader)));
  return write_count(fd_.get(), entries.size());
}

Status HiddenAreas::await_smaps() {
  smaps_count_ = 0;
  smaps_end_ = kSmapsTextAt;
  MIGRATE_TRY(write_field(fd_.get(), offsetof(HiddenHeader, smaps_count), 0));
  return write_field(fd_.get(), offsetof(HiddenHeader, smaps_awaited), 1);
}

Status HiddenAreas::add_smaps(pid_t pid, std::string_view text) {
  // More than that CRIU reads for itself.
  if (smaps_count_ == kSmapsCountMax) return {};
  MIGRATE_TRY(write_all(fd_.get(), text.data(), text.size(), smaps_end_));
  const SmapsEntry entry{static_cast<std::uint64_t>(pid), smaps_end_, text.size()};
  MIGRATE_TRY(
      write_all(fd_.get(), &entry, sizeof entry, kSmapsAt + smaps_count_ * sizeof(SmapsEntry)));
  smaps_end_ += text.size();
  // Last: what is counted is there.
  return write_field(fd_.get(), offsetof(HiddenHeader, smaps_count), ++smaps_count_);
}

void HiddenAreas::end_smaps() noexcept {
  (void)write_field(fd_.get(), offsetof(HiddenHeader, smaps_awaited), 0);
}

}  // namespace migrate::containers
