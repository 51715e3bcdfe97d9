// A guest that arrives in a file: its memory in a temporary one, which becomes an image when the
// guest would start.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include "base/fd.hpp"
#include "base/guarded.hpp"
#include "base/start_thread.hpp"
#include "checkpoint/image_writer.hpp"
#include "migrate/image_guest.hpp"

namespace migrate {
namespace {

using checkpoint::ImageDescription;
using checkpoint::ImageWriter;
using checkpoint::Section;

constexpr std::uint64_t kStateBytesMax = std::uint64_t{1} << 30;
/// Pages that one thread takes at a time.
constexpr std::uint64_t kWindow = 1024;
/// And reads by one call.
constexpr std::uint64_t kReadPages = 64;

/// Memory of all regions, in one sparse file without a name. Never mapped: a disk that fails or is
/// full is an error of a system call, and a signal through a mapping.
class Scratch {
 public:
  Status make(const std::filesystem::path& folder, std::uint64_t bytes) {
    Fd file(::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600));
    if (!file || ::ftruncate(file.get(), static_cast<off_t>(bytes)) != 0) {
      return make_errno_error(ErrorCode::kIo, errno,
                              "cannot make room for the guest's memory in " + folder.string())
          .advise("give a folder that may be written to, of a file system with O_TMPFILE");
    }
    file_ = std::move(file);
    return {};
  }
  Status read(std::uint64_t offset, std::span<std::byte> into) const {
    while (!into.empty()) {
      const ssize_t got =
          ::pread(file_.get(), into.data(), into.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) {
        return make_errno_error(ErrorCode::kIo, got < 0 ? errno : EIO,
                                "cannot read the guest's memory back")
            .advise("check the disk of the file system that the image goes to");
      }
      into = into.subspan(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    }
    return {};
  }
  Status write(std::uint64_t offset, std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t wrote =
          ::pwrite(file_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (wrote < 0 && errno == EINTR) continue;
      if (wrote <= 0) {
        return make_errno_error(ErrorCode::kIo, wrote < 0 ? errno : ENOSPC,
                                "cannot keep the guest's memory")
            .advise("make room on the file system that the image goes to");
      }
      bytes = bytes.subspan(static_cast<std::size_t>(wrote));
      offset += static_cast<std::uint64_t>(wrote);
    }
    return {};
  }
  Status zero(std::uint64_t offset, std::uint64_t bytes) const {
    if (::fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                    static_cast<off_t>(offset), static_cast<off_t>(bytes)) == 0) {
      return {};
    }
    static const std::vector<std::byte> kZeros(kPageSize * 64);
    for (std::uint64_t done = 0; done < bytes; done += kZeros.size()) {
      const auto part = std::min<std::uint64_t>(kZeros.size(), bytes - done);
      MIGRATE_TRY(write(offset + done, std::span(kZeros).first(part)));
    }
    return {};
  }
  /// The end of the first part from `from` on that may hold anything but zeros, and its beginning.
  [[nodiscard]] std::pair<std::uint64_t, std::uint64_t> next_data(std::uint64_t from,
                                                                  std::uint64_t end) const {
    const off_t begin = ::lseek(file_.get(), static_cast<off_t>(from), SEEK_DATA);
    if (begin < 0) return errno == ENXIO ? std::pair(end, end) : std::pair(from, end);
    const off_t stop = ::lseek(file_.get(), begin, SEEK_HOLE);
    const auto first = static_cast<std::uint64_t>(begin);
    return {std::min(first, end), stop < 0 ? end : std::min(static_cast<std::uint64_t>(stop), end)};
  }

 private:
  Fd file_;
};

class ImageTarget final : public TargetGuest, private PageSink {
 public:
  explicit ImageTarget(CheckpointOptions options) : options_(std::move(options)) {}

  Status prepare(const GuestDescription& description) override {
    description_.guest = description;
    std::uint64_t bytes = 0;
    for (const Region& region : description.regions) {
      offsets_.push_back(bytes);
      bytes += region.range.bytes();
    }
    const auto folder = std::filesystem::absolute(options_.path).parent_path();
    // Also whether a description like this has a place in an image, before anything moves.
    MIGRATE_TRY(checkpoint::description_payload(description_));
    return scratch_.make(folder, bytes);
  }
  PageSink& pages() override { return *this; }
  Status load_state(StateReader& reader) override {
    sections_.clear();
    std::uint64_t bytes = 0;
    for (;;) {
      MIGRATE_ASSIGN(const auto info, reader.next());
      if (!info) return {};
      MIGRATE_ASSIGN(auto body, reader.read_all(kStateBytesMax - bytes));
      bytes += body.size();
      sections_.push_back({*info, std::move(body)});
    }
  }
  Result<std::chrono::nanoseconds> rehearse_load() override {
    return make_error(ErrorCode::kUnsupported, "an image loads no state");
  }
  /// All is written, while the source may still go on.
  Status acquire() override {
    return guarded([this] { return write_image(); });
  }
  Status yield() override {
    writer_.reset();
    return {};
  }
  /// The image gets its name: from then on the guest is there and nowhere else.
  Status start(RunState state) override {
    if (state != description_.run_state) {
      // Seldom: what stands at the beginning of the file is wrong.
      description_.run_state = state;
      writer_.reset();
      MIGRATE_TRY(acquire());
    }
    Status published = writer_->publish();
    writer_.reset();
    if (published || !is_there()) return published;
    // The source must not go on beside a file that somebody may restore.
    return make_error(ErrorCode::kGuestLost, published.error().message)
        .advise("the image is there, and whole (migrate image verify): restore the guest from it");
  }
  void discard() override {
    writer_.reset();
    sections_.clear();
  }
  std::vector<FaultSource> fault_sources() override { return {}; }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }

 private:
  [[nodiscard]] std::uint64_t offset_of(const RegionId& region, GuestPage page) const {
    const auto& regions = description_.guest.regions;
    for (std::size_t i = 0; i < regions.size(); ++i) {
      if (regions[i].id == region) {
        return offsets_[i] + (page - regions[i].range.first) * kPageSize;
      }
    }
    MIGRATE_CHECK(false && "no such region");
    return 0;
  }

  // PageSink
  Status update_regions(const RegionDelta& delta) override {
    if (delta.empty()) return {};
    return make_error(ErrorCode::kUnsupported,
                      "the guest's memory changes its layout, and an image cannot follow");
  }
  Status write(const RegionId& region, PageRange range, std::span<const std::byte> bytes) override {
    return scratch_.write(offset_of(region, range.first), bytes);
  }
  Status zero(const RegionId& region, PageRange range) override {
    return scratch_.zero(offset_of(region, range.first), range.bytes());
  }
  Status read(const RegionId& region, PageRange range, std::span<std::byte> into) override {
    return scratch_.read(offset_of(region, range.first), into);
  }
  std::span<std::byte> mapped(const RegionId&) override { return {}; }

  Status write_image() {
    MIGRATE_ASSIGN(auto output, checkpoint::make_file_output(options_.path));
    MIGRATE_ASSIGN(const auto header, checkpoint::new_header(nullptr));
    id_ = header.id;
    description_.host = checkpoint::host_text();
    MIGRATE_ASSIGN(writer_, ImageWriter::create(std::move(output), header, description_,
                                                {.compress = options_.compress, .base = {}}));
    MIGRATE_TRY(writer_->state(sections_));
    MIGRATE_TRY(write_memory(*writer_));
    // Only its name is left for start().
    MIGRATE_ASSIGN(const auto sealed, writer_->seal());
    static_cast<void>(sealed);
    return {};
  }

  /// Whether what could not be published for sure has its name.
  [[nodiscard]] bool is_there() const {
    const auto chain = checkpoint::ImageChain::open(options_.path);
    return chain && (*chain)->top().header().id == id_;
  }

  Status write_memory(ImageWriter& writer) {
    const unsigned lanes =
        options_.lanes != 0 ? options_.lanes : std::max(1u, std::thread::hardware_concurrency());
    std::atomic<std::uint64_t> next{0};
    std::vector<Status> results(lanes);
    std::vector<std::thread> threads(lanes);
    Status begun;
    for (unsigned i = 0; i < lanes && begun; ++i) {
      begun = start_thread(threads[i], "image-write", [&, i] {
        results[i] = guarded([&] { return write_windows(writer, next); });
        // The others need not go on.
        if (!results[i]) writer.interrupt();
      });
    }
    if (!begun) writer.interrupt();
    for (std::thread& thread : threads) {
      if (thread.joinable()) thread.join();
    }
    MIGRATE_TRY(begun);
    // What failed first is the cause; the others were interrupted.
    Status failed;
    for (Status& result : results) {
      if (!result && (failed || failed.error().code == ErrorCode::kCancelled)) {
        failed = std::move(result);
      }
    }
    return failed;
  }

  Status write_windows(ImageWriter& writer, std::atomic<std::uint64_t>& next) {
    MIGRATE_ASSIGN(const auto lane, writer.make_lane());
    const auto& regions = description_.guest.regions;
    std::vector<std::byte> room(kReadPages * kPageSize);
    for (;;) {
      std::uint64_t window = next++;
      std::uint16_t index = 0;
      for (; index < regions.size(); ++index) {
        const std::uint64_t windows = (regions[index].range.count + kWindow - 1) / kWindow;
        if (window < windows) break;
        window -= windows;
      }
      if (index == regions.size()) return lane->flush();
      const std::uint64_t first = window * kWindow;
      const std::uint64_t count = std::min(kWindow, regions[index].range.count - first);
      MIGRATE_TRY(write_window(*lane, index, {first, count}, room));
    }
  }

  struct Window {
    std::uint64_t first = 0, count = 0;  ///< Pages, from the region's first.
  };
  Status write_window(ImageWriter::Lane& lane, std::uint16_t region, Window window,
                      std::span<std::byte> room) {
    const std::uint64_t begin = offsets_[region] + window.first * kPageSize;
    const std::uint64_t end = begin + window.count * kPageSize;
    for (std::uint64_t at = begin; at < end;) {
      const auto [data, stop] = scratch_.next_data(at, end);
      // To whole pages: a file system may know its holes to the byte.
      std::uint64_t from = data / kPageSize * kPageSize;
      while (from < stop) {
        const std::uint64_t left = (stop - from + kPageSize - 1) / kPageSize * kPageSize;
        const auto part = room.first(std::min<std::uint64_t>(left, room.size()));
        MIGRATE_TRY(scratch_.read(from, part));
        for (std::size_t done = 0; done < part.size(); done += kPageSize) {
          const std::uint64_t page = (from + done - offsets_[region]) / kPageSize;
          MIGRATE_TRY(lane.add(region, page, part.data() + done));
        }
        from += part.size();
      }
      at = std::max(from, at + kPageSize);
    }
    return {};
  }

  const CheckpointOptions options_;
  ImageDescription description_;
  std::vector<std::uint64_t> offsets_;  // Of each region in the scratch file.
  Scratch scratch_;
  std::vector<Section> sections_;
  std::unique_ptr<ImageWriter> writer_;  // From acquire() to start().
  checkpoint::ImageId id_;               // Of what it writes.
};

}  // namespace

Result<std::unique_ptr<TargetGuest>> make_image_target(const CheckpointOptions& options) {
  if (options.path.empty()) {
    return make_error(ErrorCode::kInvalidArgument, "an image that arrives needs a path");
  }
  return std::unique_ptr<TargetGuest>(std::make_unique<ImageTarget>(options));
}

}  // namespace migrate
