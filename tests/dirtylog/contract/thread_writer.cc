#include "tests/dirtylog/contract/thread_writer.hpp"

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/fd.hpp"

namespace migrate::testing {
namespace {

/// Pages written between two looks at whether to go on; what one system call writes.
constexpr std::size_t kBatchMax = 16;
/// Batches in one pattern.
constexpr std::uint64_t kPatternBatches = 64;
constexpr std::uint64_t kHotPages = 5;
constexpr std::size_t kWord = sizeof(std::uint64_t);

[[noreturn]] void fail(const char* what) {
  throw std::runtime_error(std::string(what) + ": " + std::strerror(errno));
}

/// The copy reads beside it, on purpose: the dirty log tells of what it may have missed.
__attribute__((no_sanitize("thread"))) void store(std::byte* address, std::uint64_t value) {
  *reinterpret_cast<volatile std::uint64_t*>(address) = value;
}

struct Pipe {
  Pipe() {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) fail("pipe2");
    out = Fd(ends[0]);
    in = Fd(ends[1]);
  }
  Fd out;
  Fd in;
};

}  // namespace

PutAll by_stores() {
  return [](std::span<const Put> puts) {
    for (const Put& put : puts) store(put.address, put.value);
  };
}

PutAll by_read() {
  auto pipe = std::make_shared<Pipe>();
  return [pipe](std::span<const Put> puts) {
    std::array<std::uint64_t, kBatchMax> values{};
    std::array<iovec, kBatchMax> to{};
    for (std::size_t i = 0; i < puts.size(); ++i) {
      values[i] = puts[i].value;
      to[i] = {puts[i].address, kWord};
    }
    const auto bytes = static_cast<ssize_t>(puts.size() * kWord);
    if (::write(pipe->in.get(), values.data(), static_cast<std::size_t>(bytes)) != bytes) {
      fail("write to a pipe");
    }
    if (::readv(pipe->out.get(), to.data(), static_cast<int>(puts.size())) != bytes) fail("readv");
  };
}

PutAll by_process_vm_writev(pid_t pid) {
  return [pid](std::span<const Put> puts) {
    std::array<std::uint64_t, kBatchMax> values{};
    std::array<iovec, kBatchMax> to{};
    for (std::size_t i = 0; i < puts.size(); ++i) {
      values[i] = puts[i].value;
      to[i] = {puts[i].address, kWord};
    }
    const iovec from{values.data(), puts.size() * kWord};
    if (::process_vm_writev(pid, &from, 1, to.data(), puts.size(), 0) !=
        static_cast<ssize_t>(from.iov_len)) {
      fail("process_vm_writev");
    }
  };
}

PutAll followed_by(PutAll put, std::function<void(GuestPage)> then) {
  return [put = std::move(put), then = std::move(then)](std::span<const Put> puts) {
    put(puts);
    for (const Put& one : puts) then(one.page);
  };
}

ThreadWriter::ThreadWriter(std::string_view name, std::vector<PlacedArea> areas, std::size_t word,
                           PutAll put, std::uint64_t seed)
    : name_(name), word_(word), put_(std::move(put)), chance_(seed) {
  for (const PlacedArea& area : areas) {
    areas_.push_back({area, std::vector<std::atomic<std::uint64_t>>(
                                static_cast<std::size_t>(area.pages.count))});
    pages_ += area.pages.count;
  }
  thread_ = std::thread([this] { run(); });
}

ThreadWriter::~ThreadWriter() {
  {
    const std::lock_guard lock(mutex_);
    quit_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void ThreadWriter::resume() {
  const std::lock_guard lock(mutex_);
  paused_ = false;
  changed_.notify_all();
}

void ThreadWriter::pause() {
  std::unique_lock lock(mutex_);
  paused_ = true;
  changed_.wait(lock, [this] { return parked_; });
}

void ThreadWriter::run() {
  Pattern pattern = Pattern::kSweep;
  for (std::uint64_t batch = 0;; ++batch) {
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
    if (batch % kPatternBatches == 0) pattern = static_cast<Pattern>(chance_.below(kPatterns));
    write_some(pattern);
  }
}

void ThreadWriter::write_some(Pattern pattern) {
  std::array<Put, kBatchMax> puts;
  std::array<Target, kBatchMax> targets;
  const std::size_t count = 1 + chance_.below(kBatchMax);
  for (std::size_t i = 0; i < count; ++i) {
    const Target target = pick(pattern);
    const PlacedArea& place = target.area->place;
    std::uint64_t generation = target.area->log[target.page].load(std::memory_order_relaxed);
    // A page twice in a batch: its generations count up through it.
    for (std::size_t k = 0; k < i; ++k) {
      if (targets[k].area == target.area && targets[k].page == target.page) ++generation;
    }
    targets[i] = target;
    puts[i] = {place.pages.first + target.page,
               place.address + target.page * kPageSize + word_ * kWord, generation + 1};
  }
  put_(std::span(puts).first(count));
  for (std::size_t i = 0; i < count; ++i) {
    targets[i].area->log[targets[i].page].store(puts[i].value, std::memory_order_release);
  }
  writes_.fetch_add(count, std::memory_order_relaxed);
}

ThreadWriter::Target ThreadWriter::at(std::uint64_t index) {
  for (Area& area : areas_) {
    if (index < area.place.pages.count) return {&area, index};
    index -= area.place.pages.count;
  }
  return {&areas_.front(), 0};
}

ThreadWriter::Target ThreadWriter::pick(Pattern pattern) {
  switch (pattern) {
    case Pattern::kSweep:
      return at(cursor_++ % pages_);
    case Pattern::kAnywhere:
      return at(chance_.below(pages_));
    case Pattern::kHot:
      // Neighbours, so that they share a word of the bitmap, and move on slowly.
      if (chance_.one_in(kPatternBatches)) ++cursor_;
      return at((cursor_ + chance_.below(kHotPages)) % pages_);
    case Pattern::kEdges:
      break;
  }
  Area& area = areas_[chance_.below(areas_.size())];
  const std::uint64_t last = area.place.pages.count - 1;
  const std::uint64_t edge = chance_.one_in(2) ? last : last - last % 64;
  return {&area, chance_.one_in(2) ? edge : 0};
}

void ThreadWriter::for_each_logged(PageRange pages,
                                   const std::function<void(const LoggedWord&)>& f) const {
  for (const Area& area : areas_) {
    const PageRange own = area.place.pages;
    for (GuestPage page = std::max(own.first, pages.first); page < std::min(own.end(), pages.end());
         page = page + 1) {
      f({page, word_, area.log[page - own.first].load(std::memory_order_acquire)});
    }
  }
}

}  // namespace migrate::testing
