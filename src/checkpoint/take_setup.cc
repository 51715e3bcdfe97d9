// Take, before the guest stands: what it is, where it goes, and what makes its pause short.
#include <algorithm>
#include <filesystem>

#include "checkpoint/page_places.hpp"
#include "checkpoint/take.hpp"

namespace migrate::checkpoint {
namespace {

constexpr const char* kTakeFull = "take a full checkpoint (without a base)";

/// Arming again what the guest wrote meanwhile: until so little is left that the pause does not
/// notice (0.3 ms), or it stops getting less.
constexpr std::uint64_t kLeftPages = 1024;
constexpr int kArmRoundsMax = 8;

/// The parent as it is looked for beside the image: see ImageSearch.
std::string parent_path(const std::string& base, const std::string& image) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path whole = fs::absolute(base, error);
  if (error || image.empty()) return whole.string();
  const fs::path folder = fs::absolute(image, error).parent_path();
  if (error) return whole.string();
  const fs::path relative = whole.lexically_normal().lexically_relative(folder.lexically_normal());
  return relative.empty() ? whole.string() : relative.string();
}

bool same_layout(std::span<const Region> a, std::span<const Region> b) {
  return std::ranges::equal(a, b, [](const Region& one, const Region& other) {
    return one.id == other.id && one.range == other.range;
  });
}

}  // namespace

Status Take::look() {
  if (options_.path.empty() && options_.stream < 0) {
    return make_error(ErrorCode::kInvalidArgument,
                      "a checkpoint needs a path or a descriptor to go to");
  }
  MIGRATE_ASSIGN(description_.guest, guest_.describe());
  // What there is now counts: the description may be older.
  MIGRATE_ASSIGN(description_.guest.regions, guest_.pages().regions());
  description_.run_state = guest_.run_state();
  description_.host = host_text();
  // A guest that stands anyhow, or is not going to run on, is saved where it lies.
  live_wanted_ =
      options_.live && description_.run_state == RunState::kRunning && !options_.leave_paused;
  holes_ = pages_ = PageBitmap(description_.guest.regions);
  return {};
}

Status Take::open_base() {
  if (options_.base.empty()) return {};
  MIGRATE_ASSIGN(base_, ImageChain::open(options_.base, options_.search));
  const GuestDescription& guest = description_.guest;
  const bool same = same_layout(base_->regions(), guest.regions);
  if (!same && !may_change_layout(guest.kind, base_->top().description().guest.kind)) {
    return make_error(ErrorCode::kIncompatible,
                      "the guest's memory is laid out otherwise than in " + options_.base)
        .advise(kTakeFull);
  }
  for (const auto& file : base_->files()) {
    std::error_code error;
    if (!options_.path.empty() && std::filesystem::equivalent(file->path(), options_.path, error)) {
      return make_error(ErrorCode::kInvalidArgument,
                        "the image would replace " + file->path() + ", which it is based on")
          .advise("give it another path, or " + std::string(kTakeFull));
    }
  }
  description_.parent_path = parent_path(options_.base, options_.path);
  by_log_ = same && log_.since() == to_text(base_->top().header().id);
  report_.changed_by = by_log_ ? "tracker" : "hashes";
  return {};
}

Status Take::open_output() {
  MIGRATE_ASSIGN(header_, new_header(base_.get()));
  MIGRATE_ASSIGN(auto output, make_output_());
  MIGRATE_ASSIGN(writer_, ImageWriter::create(std::move(output), header_, description_,
                                              {options_.compress, base_}));
  stop_.on_cancel([this] {
    ended_.store(true);
    writer_->interrupt();
  });
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  // More than that are held up by the disk or by memory.
  constexpr unsigned kLanesMax = 8;
  constexpr unsigned kLanesAsked = 64;
  const unsigned count =
      options_.lanes != 0 ? std::min(options_.lanes, kLanesAsked) : std::min(cores, kLanesMax);
  MIGRATE_ASSIGN(lanes_, SaveLanes::create(*writer_, count));
  return {};
}

Status Take::arm() {
  const std::vector<Region>& regions = description_.guest.regions;
  use_log_ = options_.keep_tracking || by_log_;
  if (use_log_) {
    MIGRATE_TRY(log_.follow(regions));
    // A tracker that had to begin anew knows of nothing before.
    if (by_log_ && log_.since().empty()) by_log_ = false;
    if (base_ != nullptr && !by_log_) report_.changed_by = "hashes";
  }
  if (!live_wanted_) return {};
  PageBitmap pages(regions);
  if (by_log_) {
    pages.merge(log_.written());
  } else {
    pages.set_all();
  }
  return arm_live(pages);
}

Status Take::arm_live(const PageBitmap& pages) {
  const std::vector<Region>& regions = description_.guest.regions;
  std::vector<MappedRegion> mapped;
  for (const Region& region : regions) {
    const auto memory = guest_.pages().mapped(region.id);
    if (memory.size() < region.range.bytes()) {
      return make_error(ErrorCode::kUnsupported, "memory of region " + to_text(region.id) +
                                                     " cannot be saved while the guest runs: it is "
                                                     "not mapped in this process")
          .advise("take the checkpoint without --live");
    }
    // The kernel keeps writers from it; nothing here writes.
    mapped.push_back({region, const_cast<std::byte*>(memory.data())});
  }
  MIGRATE_ASSIGN(live_, LiveMemory::create(mapped));
  stop_.on_cancel(
      [this] { end_lanes(make_error(ErrorCode::kCancelled, "the checkpoint was cancelled")); });
  MIGRATE_TRY(live_->arm(pages));
  // After it was protected: what is written to a hole from now on is noted.
  for (const Region& region : regions) MIGRATE_TRY(guest_.pages().holes(region.id, holes_));
  live_->leave_out(holes_);
  std::uint64_t before = ~std::uint64_t{0};
  for (int round = 0; round < kArmRoundsMax; ++round) {
    MIGRATE_ASSIGN(const std::uint64_t written, live_->arm_written());
    if (written <= kLeftPages || written >= before) break;
    before = written;
  }
  say("checkpoint-armed", std::to_string(live_->pages().count()) + " pages");
  return {};
}

}  // namespace migrate::checkpoint
