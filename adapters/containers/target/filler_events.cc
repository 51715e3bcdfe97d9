#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "adapters/containers/target/filler_loop.hpp"

namespace migrate::containers {
namespace {

constexpr std::uint64_t kPage = 4096;
/// Filled with a page that is waited for: its neighbours in this unit, as the kernel does for
/// files.
constexpr std::uint64_t kAroundBytes = 64u << 10;
/// Read at once: a process with as many threads waiting is served in turns with the others.
constexpr std::size_t kBatch = 32;

}  // namespace

void FillerLoop::take_events(std::uint32_t index) {
  const int uffd = spaces_[index]->uffd;
  if (uffd < 0) return;
  uffd_msg messages[kBatch];
  const ssize_t got = ::read(uffd, messages, sizeof messages);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return;
    return lose(errno);
  }
  const std::size_t count = static_cast<std::size_t>(got) / sizeof(uffd_msg);
  // What changes the map first: whoever waits for a page finds it as it is now.
  for (std::size_t i = 0; i < count && !ended_; ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) take_event(index, messages[i]);
  }
  for (std::size_t i = 0; i < count && !ended_; ++i) {
    if (messages[i].event != UFFD_EVENT_PAGEFAULT) continue;
    faulted_ns_ = now_ns();
    serve(index, messages[i].arg.pagefault.address & ~(kPage - 1));
  }
}

void FillerLoop::take_event(std::uint32_t index, const uffd_msg& message) {
  FillSpace& space = *spaces_[index];
  bool done = true;
  switch (message.event) {
    case UFFD_EVENT_FORK:
      return forked(index, static_cast<int>(message.arg.fork.ufd));
    case UFFD_EVENT_REMAP: {
      const auto& moved = message.arg.remap;
      done = space.table.move(moved.from, moved.to, moved.len);
      // Who waits at an address that is no more finds that out.
      wake_pages(space.uffd, moved.from, moved.len);
      break;
    }
    case UFFD_EVENT_REMOVE: {
      const auto& removed = message.arg.remove;
      done = space.table.empty_out(removed.start, removed.end);
      break;
    }
    case UFFD_EVENT_UNMAP: {
      const auto& removed = message.arg.remove;
      done = space.table.unmap(removed.start, removed.end);
      wake_pages(space.uffd, removed.start, removed.end - removed.start);
      break;
    }
    default:
      return lose(EPROTO);
  }
  if (!done) lose(ENOMEM);
}

void FillerLoop::forked(std::uint32_t index, int uffd) {
  const FillSpace& parent = *spaces_[index];
  const std::uint32_t id = next_fork_++;
  FillSpace* child = add_space(id, uffd, parent.family);
  if (child == nullptr || !child->table.copy_from(parent.table)) return lose(ENOMEM);
  say(FillWord::kForked, id, 0, uffd);
}

void FillerLoop::serve(std::uint32_t index, std::uint64_t address) {
  FillSpace& space = *spaces_[index];
  if (space.uffd < 0) return;
  const FillExtent* extent = space.table.find(address);
  FillResult result;
  if (extent == nullptr || !extent->has_content()) {
    result = zero_pages(space.uffd, address, kPage);
  } else {
    const std::uint64_t source = extent->source + (address - extent->begin);
    const std::uint64_t around = (address / kAroundBytes + 1) * kAroundBytes;
    const std::uint64_t bytes = staging_.there(source, std::min(extent->end, around) - address);
    if (bytes == 0 && !complete_) return fetch(index, address, source);
    if (bytes == 0) {
      result = zero_pages(space.uffd, address, kPage);
    } else {
      staging_.populate(source, bytes);
      result = copy_pages(space.uffd, address, staging_.at(source), kPage);
      if (result.error == 0 && bytes > kPage) {
        // As far as it goes: nobody is known to wait for these.
        (void)copy_pages(space.uffd, address + kPage, staging_.at(source + kPage), bytes - kPage);
      }
      cursor_space_ = index;
      cursor_ = address;
    }
  }
  if (result.error == 0) {
    starved_ms_ = 0;
  } else {
    settle(space, result.error, address);
  }
}

void FillerLoop::fetch(std::uint32_t index, std::uint64_t address, std::uint64_t source) {
  bool asked = false;
  for (const Waiting& one : waiting_) asked |= one.source == source;
  if (!waiting_.push_back({index, address, source})) return lose(ENOMEM);
  if (asked || alone_) return;
  const int error = send_fill_message(socket_, {FillWord::kFetch, 0, source}, {}, false);
  if (error == 0) return;
  // No room: who waits asks again.
  (void)waiting_.replace(waiting_.size() - 1, waiting_.size(), nullptr, 0);
  wake_pages(spaces_[index]->uffd, address, kPage);
}

void FillerLoop::fetched(std::uint64_t source, bool there) {
  // What is not going to come is waited for until the tree is killed.
  if (!there) return;
  for (std::size_t i = 0; i < waiting_.size() && !ended_;) {
    if (waiting_[i].source != source) {
      ++i;
      continue;
    }
    const Waiting one = waiting_[i];
    waiting_.erase(i);
    // It may lie elsewhere by now: who waits says where.
    wake_pages(spaces_[one.space]->uffd, one.address, kPage);
  }
}

void FillerLoop::serve_all_again() {
  for (const Waiting& one : waiting_) wake_pages(spaces_[one.space]->uffd, one.address, kPage);
  waiting_.clear();
}

}  // namespace migrate::containers
