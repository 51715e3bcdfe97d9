#include "tests/dirtylog/contract/mapping_changer.hpp"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

#include "migrate/memory.hpp"

namespace migrate::testing {
namespace {

constexpr std::uint64_t kPagesMax = 100;
constexpr std::uint64_t kPlaceBytes = 4 * kPagesMax * kPageSize;
/// Writes for each change of a mapping: most of the time, it is just memory.
constexpr std::uint64_t kWritesAChange = 40;

void must(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

}  // namespace

MappingChanger::MappingChanger(std::uint64_t base, std::uint64_t seed) : chance_(seed) {
  for (Place& place : places_) {
    place.address = reinterpret_cast<std::byte*>(base);
    base += kPlaceBytes;
  }
  thread_ = std::thread([this] { run(); });
}

MappingChanger::~MappingChanger() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void MappingChanger::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  changed_.notify_all();
}

void MappingChanger::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  changed_.wait(lock, [this] { return parked_; });
}

void MappingChanger::run() {
  while (true) {
    {
      std::unique_lock lock(mutex_);
      while (paused_ && !quit_) {
        parked_ = true;
        changed_.notify_all();
        changed_.wait(lock);
      }
      parked_ = quit_;
      if (quit_) return;
    }
    change(places_[chance_.below(kPlaces)]);
    changes_.fetch_add(1);
  }
}

void MappingChanger::change(Place& place) {
  if (place.pages == 0) {
    map(place);
  } else if (chance_.one_in(kWritesAChange)) {
    change_mapped(place);
  }
  if (place.pages != 0) write_some(place);
}

void MappingChanger::change_mapped(Place& place) {
  switch (chance_.below(6)) {
    case 0:
      return unmap(place);
    case 1:
      return map(place);  // Anew, over what is there.
    case 2:
      return move(place);
    case 3:
      return resize(place);
    case 4:
      return discard(place);
    default:
      return fork_beside(place);
  }
}

void MappingChanger::map(Place& place) {
  const std::uint64_t pages = place.pages != 0 ? place.pages : 1 + chance_.below(kPagesMax);
  place.shared = chance_.one_in(4);
  const int kind = place.shared ? MAP_SHARED : MAP_PRIVATE;
  void* memory = ::mmap(place.address, pages * kPageSize, PROT_READ | PROT_WRITE,
                        kind | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  must(memory == place.address, "mmap");
  place.pages = pages;
}

void MappingChanger::unmap(Place& place) {
  must(::munmap(place.address, place.pages * kPageSize) == 0, "munmap");
  place.pages = 0;
}

void MappingChanger::move(Place& place) {
  Place& to = places_[chance_.below(kPlaces)];
  if (&to == &place) return;
  // What is mapped there goes, all of it: the moved one may be smaller.
  if (to.pages != 0) unmap(to);
  void* memory = ::mremap(place.address, place.pages * kPageSize, place.pages * kPageSize,
                          MREMAP_MAYMOVE | MREMAP_FIXED, to.address);
  must(memory == to.address, "mremap");
  to.pages = place.pages;
  to.shared = place.shared;
  place.pages = 0;
  write_some(to);
}

void MappingChanger::resize(Place& place) {
  const std::uint64_t pages = 1 + chance_.below(kPagesMax);
  // Shared anonymous memory that grows has nothing behind its end.
  if (pages > place.pages) return;
  void* memory = ::mremap(place.address, place.pages * kPageSize, pages * kPageSize, 0);
  must(memory == place.address, "mremap in place");
  place.pages = pages;
}

/// Private memory reads as zero from now on, and nobody has written it.
void MappingChanger::discard(Place& place) {
  const std::uint64_t first = chance_.below(place.pages);
  const std::uint64_t count = 1 + chance_.below(place.pages - first);
  must(::madvise(place.address + first * kPageSize, count * kPageSize, MADV_DONTNEED) == 0,
       "madvise");
}

/// Both sides write while they share their pages. Where the memory stays shared only the parent
/// does: the child would write through a mapping that no tracker of the parent's covers.
void MappingChanger::fork_beside(Place& place) {
  const pid_t child = ::fork();
  must(child >= 0, "fork");
  if (child == 0 && place.shared) ::_exit(0);
  if (child == 0) {
    auto* word = reinterpret_cast<volatile std::uint64_t*>(place.address);
    *word = *word + 1;
    ::_exit(0);
  }
  write_some(place);
  int status = 0;
  must(::waitpid(child, &status, 0) == child, "waitpid");
}

void MappingChanger::write_some(Place& place) {
  const std::uint64_t first = chance_.below(place.pages);
  const std::uint64_t count = 1 + chance_.below(std::min<std::uint64_t>(8, place.pages - first));
  for (std::uint64_t page = first; page < first + count; ++page) {
    *reinterpret_cast<volatile std::uint64_t*>(place.address + page * kPageSize) = ++generation_;
  }
}

}  // namespace migrate::testing
