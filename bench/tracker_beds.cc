// Beds of the trackers of this process's memory.
#include "bench/tracker_beds.hpp"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>

#include "bench/tracked_memory.hpp"
#include "memory/uffd_abi.hpp"
#include "migrate/trackers.hpp"
#include "wire/hasher.hpp"

namespace migrate::bench {
namespace {

int must_call(long result, const char* what) {
  if (result < 0) give_up(std::string(what) + ": " + std::strerror(errno));
  return static_cast<int>(result);
}

/// Memory of this process and what writes to it.
class OwnMemoryBed : public TrackerBed {
 public:
  OwnMemoryBed(MemoryKind kind, std::uint64_t bytes)
      : memory_(kind, bytes), name_(to_string(kind)) {}

  [[nodiscard]] std::string memory() const override { return name_; }
  [[nodiscard]] DirtyTracker& tracker() override { return *tracker_; }
  [[nodiscard]] std::vector<Region> regions() override { return {memory_.region().region}; }
  std::uint64_t write(std::uint64_t step) override {
    memory_.write(step);
    return (memory_.pages() + step - 1) / step;
  }
  void spin() override { spinner_.emplace(memory_); }
  double stop_spinning() override {
    const double longest_ms = spinner_->stop();
    spinner_.reset();
    return longest_ms;
  }

 protected:
  TrackedMemory memory_;
  std::shared_ptr<DirtyTracker> tracker_;

 private:
  std::string name_;
  std::optional<SpinningWriter> spinner_;
};

/// Write protection without anything around it: the userfaultfd and scans of the pagemap.
class BareProtection {
 public:
  explicit BareProtection(const TrackedMemory& memory)
      : begin_(reinterpret_cast<std::uint64_t>(memory.page(0))),
        end_(begin_ + memory.pages() * kPageSize),
        pagemap_(must_call(::open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), "pagemap")),
        found_(kFoundMax) {}

  void start() {
    userfault_ = Fd(must_call(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK), "userfaultfd"));
    uffdio_api api{};
    api.api = UFFD_API;
    api.features = abi::kUffdWriteTracking;
    must_call(::ioctl(userfault_.get(), UFFDIO_API, &api), "UFFDIO_API");
    uffdio_register registration{};
    registration.range = {begin_, end_ - begin_};
    registration.mode = UFFDIO_REGISTER_MODE_WP;
    must_call(::ioctl(userfault_.get(), UFFDIO_REGISTER, &registration), "UFFDIO_REGISTER");
    uffdio_writeprotect protect{};
    protect.range = {begin_, end_ - begin_};
    protect.mode = UFFDIO_WRITEPROTECT_MODE_WP;
    must_call(::ioctl(userfault_.get(), UFFDIO_WRITEPROTECT, &protect), "UFFDIO_WRITEPROTECT");
  }
  void stop() {
    uffdio_range range{begin_, end_ - begin_};
    must_call(::ioctl(userfault_.get(), UFFDIO_UNREGISTER, &range), "UFFDIO_UNREGISTER");
    userfault_ = Fd();
  }
  void collect() { scan(abi::kScanProtectMatching | abi::kScanCheckAsync); }
  void peek() { scan(abi::kScanCheckAsync); }

 private:
  /// Runs a call may tell; 24 bytes each.
  static constexpr std::size_t kFoundMax = 16384;

  void scan(std::uint64_t flags) {
    for (std::uint64_t at = begin_; at < end_;) {
      abi::ScanArguments arguments{};
      arguments.size = sizeof arguments;
      arguments.flags = flags;
      arguments.begin = at;
      arguments.end = end_;
      arguments.vec = reinterpret_cast<std::uint64_t>(found_.data());
      arguments.vec_len = found_.size();
      arguments.category_mask = arguments.return_mask = abi::kPageIsWritten;
      must_call(::ioctl(pagemap_.get(), abi::kPagemapScan, &arguments), "PAGEMAP_SCAN");
      at = arguments.walk_end;
    }
  }

  const std::uint64_t begin_;
  const std::uint64_t end_;
  const Fd pagemap_;
  Fd userfault_;
  std::vector<abi::PageRegion> found_;
};

class WriteProtectBed final : public OwnMemoryBed {
 public:
  WriteProtectBed(MemoryKind kind, std::uint64_t bytes)
      : OwnMemoryBed(kind, bytes), protection_(memory_) {
    const MappedRegion region = memory_.region();
    make_tracker([&] { tracker_ = must(make_write_protect_tracker(std::span(&region, 1))); });
    bare_.name = "PAGEMAP_SCAN";
    bare_.start = [this] { protection_.start(); };
    bare_.stop = [this] { protection_.stop(); };
    bare_.collect = [this] { protection_.collect(); };
    bare_.peek = [this] { protection_.peek(); };
  }

 private:
  BareProtection protection_;
};

BedMaker write_protect(MemoryKind kind) {
  return {"write-protect",
          [kind](std::uint64_t bytes, std::string& why_not) -> std::unique_ptr<TrackerBed> {
            auto bed = std::make_unique<WriteProtectBed>(kind, bytes);
            if (const Status started = bed->tracker().start(); !started) {
              why_not = started.error().to_text();
              return nullptr;
            }
            must(bed->tracker().stop());
            return bed;
          }};
}

class SoftwareBed final : public OwnMemoryBed {
 public:
  explicit SoftwareBed(std::uint64_t bytes) : OwnMemoryBed(MemoryKind::kHugePages, bytes) {
    make_tracker([&] { tracker_ = marks_ = make_software_bitmap(OwnMemoryBed::regions()); });
  }
  std::uint64_t write(std::uint64_t step) override {
    for (std::uint64_t page = 0; page < memory_.pages(); page += step) {
      auto* word = reinterpret_cast<volatile std::uint64_t*>(memory_.page(page));
      *word = *word + 1;
      marks_->mark(0, {{page}, 1});
    }
    return (memory_.pages() + step - 1) / step;
  }
  std::uint64_t write_untracked(std::uint64_t step) override { return OwnMemoryBed::write(step); }

 private:
  std::shared_ptr<SoftwareBitmap> marks_;
};

/// As a migration has it.
class OwnPages final : public PageSource {
 public:
  explicit OwnPages(const TrackedMemory& memory) : memory_(memory) {}
  Result<std::vector<Region>> regions() override {
    return std::vector<Region>{memory_.region().region};
  }
  Result<ReadOutcome> read(const RegionId&, PageRange range, std::span<std::byte> into) override {
    std::memcpy(into.data(), memory_.page(range.first.number), range.bytes());
    return ReadOutcome::kRead;
  }
  std::span<const std::byte> mapped(const RegionId&) override {
    return {memory_.page(0), memory_.pages() * kPageSize};
  }
  Status holes(const RegionId&, PageBitmap&) override { return {}; }

 private:
  const TrackedMemory& memory_;
};

class ContentHashBed final : public OwnMemoryBed {
 public:
  explicit ContentHashBed(std::uint64_t bytes)
      : OwnMemoryBed(MemoryKind::kHugePages, bytes),
        pages_(memory_),
        hasher_(wire::SessionRandom{}, wire::SessionRandom{}),
        batch_(kBatchPages * kPageSize) {
    make_tracker([&] {
      auto tracking = make_content_hash_tracking(pages_);
      hashed_ = std::move(tracking.pages);
      tracker_ = std::move(tracking.tracker);
    });
    bare_.name = "XXH3 of all memory";
    bare_.collect = [this] { hash_all(); };
    bare_.leaves_log = true;
  }
  [[nodiscard]] bool peeks() const override { return false; }
  void send(const PageBitmap& set) override {
    set.for_each_run([&](const RegionId& region, PageRange run) {
      for (GuestPage page = run.first; page < run.end(); page = page + kBatchPages) {
        const PageRange some{page, std::min(kBatchPages, run.end() - page)};
        must(hashed_->read(region, some, std::span(batch_).first(some.bytes())));
      }
    });
  }

 private:
  static constexpr std::uint64_t kBatchPages = 256;

  void hash_all() {
    std::uint64_t sum = 0;
    for (std::uint64_t page = 0; page < memory_.pages(); ++page) {
      sum += hasher_.hash({memory_.page(page), kPageSize});
    }
    sum_ = sum;  // Or the loop would be left out.
  }

  OwnPages pages_;
  wire::Hasher hasher_;
  volatile std::uint64_t sum_ = 0;
  std::unique_ptr<PageSource> hashed_;
  std::vector<std::byte> batch_;
};

template <typename Bed>
std::unique_ptr<TrackerBed> make(std::uint64_t bytes, std::string&) {
  return std::make_unique<Bed>(bytes);
}

}  // namespace

std::vector<BedMaker> bed_makers() {
  std::vector<BedMaker> makers = kvm_bed_makers();
  makers.push_back(write_protect(MemoryKind::kAnonymous));
  makers.push_back(write_protect(MemoryKind::kHugePages));
  makers.push_back(write_protect(MemoryKind::kMemfd));
  for (BedMaker& maker : process_bed_makers()) makers.push_back(std::move(maker));
  makers.push_back({"content hash", make<ContentHashBed>});
  makers.push_back({"software bitmap", make<SoftwareBed>});
  return makers;
}

}  // namespace migrate::bench
