#include <sched.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "adapters/containers/target/filler_loop.hpp"

namespace migrate::containers {
namespace {

constexpr std::uint64_t kPage = 4096;
/// Filled between looks at who waits: some 100 us of copying.
constexpr std::uint64_t kPieceBytes = 512u << 10;
/// The same while threads wait for one page after the other.
constexpr std::uint64_t kSmallPieceBytes = 64u << 10;
/// Of areas no larger than this everything is there before the tree runs, if there is time; of
/// larger ones the end, where stacks are used.
constexpr std::uint64_t kWarmWholeBytes = 1u << 20;
constexpr std::uint64_t kWarmTailBytes = 128u << 10;
/// For how long a lack of memory may last before the tree is given up: by then the kernel has
/// killed whom it would kill.
constexpr std::uint64_t kStarvedMsMax = 60'000;

}  // namespace

bool FillerLoop::all_filled() const {
  for (const FillSpace* space : spaces_) {
    if (space->uffd >= 0 && space->table.content_bytes() > 0) return false;
  }
  return true;
}

/// The one in turn, from the cursor on, that lacks something.
std::uint32_t FillerLoop::pick_space() {
  const auto count = static_cast<std::uint32_t>(spaces_.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t index = (cursor_space_ + i) % count;
    const FillSpace& space = *spaces_[index];
    if (space.uffd < 0 || space.table.content_bytes() == 0) continue;
    if (index != cursor_space_) {
      cursor_space_ = index;
      cursor_ = 0;
    }
    return index;
  }
  return 0;
}

void FillerLoop::fill_piece() {
  FillSpace& space = *spaces_[pick_space()];
  const std::uint64_t most = now_ns() - faulted_ns_ < kFaultingNs ? kSmallPieceBytes : kPieceBytes;
  // The whole neighbourhood of the last fault.
  FillExtent piece = space.table.next_content(cursor_ / most * most, most);
  if (piece.begin == piece.end) piece = space.table.next_content(0, most);
  stuck_ = false;
  std::uint64_t at = piece.begin;
  while (at < piece.end && space.uffd >= 0 && !stuck_ && !ended_) {
    const std::uint64_t source = piece.source + (at - piece.begin);
    const std::uint64_t there = staging_.there(source, piece.end - at);
    if (there == 0) {
      at += staging_.missing(source, piece.end - at);  // Zeros, which nobody need write.
    } else {
      at += fill_run(space, at, source, there);
    }
  }
  if (space.uffd < 0 || ended_) return;
  const FillExtent done = piece.part(piece.begin, at);
  if (!space.table.empty_out(done.begin, done.end)) return lose(ENOMEM);
  give_back(space, done);
  cursor_ = at;
}

FillSpace* FillerLoop::space_of(std::uint64_t pid) {
  for (FillSpace* space : spaces_) {
    if (space->pid == pid && space->uffd >= 0) return space;
  }
  return nullptr;
}

/// Some of what any program touches first. Nothing runs, so no page of the staging that is there
/// changes any more, and nothing of it is given back: this attempt may still fail. What is filled
/// here is found to be there later; whatever is in the way ends it.
void FillerLoop::warm_piece() {
  if (warm_at_ == planned_) {
    warm_ = true;
    return;
  }
  const PlannedExtent& extent = plan_[warm_at_];
  const FillSpace* space = space_of(extent.pid);
  const std::uint64_t bytes = extent.end - extent.begin;
  const std::uint64_t wanted = bytes <= kWarmWholeBytes ? bytes : kWarmTailBytes;
  if (space == nullptr || warm_done_ >= wanted) {
    ++warm_at_;
    warm_done_ = 0;
    return;
  }
  const std::uint64_t skipped = bytes - wanted + warm_done_;
  const std::uint64_t source = extent.source + skipped;
  const std::uint64_t most = std::min(wanted - warm_done_, kSmallPieceBytes);
  const std::uint64_t there = staging_.there(source, most);
  if (there == 0) {
    warm_done_ += staging_.missing(source, most);
    return;
  }
  staging_.populate(source, there);
  const FillResult result =
      copy_pages(space->uffd, extent.begin + skipped, staging_.at(source), there);
  warm_done_ += result.bytes;
  if (result.error == EEXIST) warm_done_ += kPage;
  warm_ = result.error != 0 && result.error != EEXIST;
}

/// How many bytes are dealt with; fewer than asked for with stuck_ set, or the process gone.
std::uint64_t FillerLoop::fill_run(FillSpace& space, std::uint64_t address, std::uint64_t source,
                                   std::uint64_t bytes) {
  staging_.populate(source, bytes);
  std::uint64_t done = 0;
  while (done < bytes) {
    const FillResult result =
        copy_pages(space.uffd, address + done, staging_.at(source + done), bytes - done);
    done += result.bytes;
    if (result.bytes > 0) starved_ms_ = 0;
    if (result.error == 0) continue;
    if (!settle(space, result.error, address + done)) return done;
    done += kPage;
  }
  return done;
}

/// After a page was not filled. True: it need not be (it is there, or there is no memory any more).
/// False: later, or never.
bool FillerLoop::settle(FillSpace& space, int error, std::uint64_t address) {
  switch (error) {
    case EEXIST:
    case ENOENT:
      wake_pages(space.uffd, address, kPage);
      return true;
    case EAGAIN:
      // The map is being changed, and waits for this to read what is changed.
      stuck_ = true;
      wake_pages(space.uffd, address, kPage);
      ::sched_yield();
      return false;
    case ENOMEM: {
      stuck_ = true;
      if (++starved_ms_ > kStarvedMsMax) {
        lose(error);
        return false;
      }
      const timespec pause{0, 1'000'000};
      ::nanosleep(&pause, nullptr);
      wake_pages(space.uffd, address, kPage);
      return false;
    }
    case ESRCH:
    case ENOSPC:
      gone(space);
      return false;
    default:
      lose(error);
      return false;
  }
}

/// What is staged once may still be needed by a relative.
void FillerLoop::give_back(const FillSpace& space, const FillExtent& piece) {
  if (!piece.has_content() || piece.begin == piece.end) return;
  for (const FillSpace* other : spaces_) {
    if (other != &space && other->uffd >= 0 && other->family == space.family) return;
  }
  staging_.give_back(piece.source, piece.bytes());
}

void FillerLoop::gone(FillSpace& space) {
  ::close(space.uffd);
  space.uffd = -1;
  say(FillWord::kGone, space.id, 0);
}

}  // namespace migrate::containers
