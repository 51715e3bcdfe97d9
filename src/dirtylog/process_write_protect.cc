// The write-protect tracker over the memory of another process. Its userfaultfd is made inside that
// process and registered from here, and its pages are looked at from here: once started, nothing
// runs in the process on our behalf. If this process dies, the descriptor closes with it, and the
// tracked process goes on as if it had never been there.
//
// The kernel drops the registration of what is unmapped, moved or mapped anew. So a region whose
// memory is found without one has new content: it gets a new generation. Regions are armed by the
// collect that finds them, which is before anybody can learn of them and read them; where somebody
// else looked earlier, they count as written. Memory that has lost its registration is never taken
// for what it was, not even if it can be registered again: the marks in it are not to be trusted.
#include <algorithm>
#include <cerrno>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "memory/pagemap.hpp"
#include "memory/remote_call.hpp"
#include "memory/uffd_abi.hpp"
#include "memory/userfault.hpp"
#include "migrate/trackers.hpp"

namespace migrate {
namespace {

constexpr std::string_view kOwner = "write tracking of another process";

// Looks at a process that maps its memory anew while it is looked at. What still changes then
// counts as written, and is tried again by the next collect.
constexpr int kLooksMax = 3;

class ProcessWriteProtect final : public DirtyTracker {
 public:
  explicit ProcessWriteProtect(std::shared_ptr<ProcessMemory> memory)
      : memory_(std::move(memory)) {}
  ~ProcessWriteProtect() override { (void)stop(); }
  ProcessWriteProtect(const ProcessWriteProtect&) = delete;
  ProcessWriteProtect& operator=(const ProcessWriteProtect&) = delete;

  [[nodiscard]] std::string_view name() const override { return "process-write-protect"; }
  [[nodiscard]] DirtyCoverage covers() const override {
    return {.guest_cpu = true, .kernel = true, .vmm = true};
  }
  [[nodiscard]] bool rearms_in_collect() const override { return true; }
  [[nodiscard]] std::vector<std::uint64_t> written_by_vcpu() const override { return {}; }

  Status start() override;
  Status collect(PageBitmap& round_set) override;
  Status rearm(const PageBitmap&, const RegionId&, PageRange) override { return {}; }
  Status peek(PageBitmap& again) override;
  Status stop() override;

 private:
  enum class State {
    kUnarmed,     ///< Its writes are not seen: all of it counts as written.
    kRegistered,  ///< Likewise, but it only has to be protected.
    kArmed,       ///< Registered and protected.
    kReadOnly,    ///< The process cannot write it, nor ever make it writable.
    kRefused,     ///< Cannot be registered, and is not tried again: all of it counts as written.
  };
  struct Tracked {
    Region region;
    State state = State::kUnarmed;
    bool told = false;  ///< Others may know it, and have read it, while it is not armed yet.
  };

  /// Looks at the mappings again: lets go of regions that are no more and arms the new ones. Those
  /// among them that are in `known` may have been read already and count as written. Gives the
  /// first reason for which a region could not be armed.
  Result<std::optional<Error>> follow(const std::vector<Region>& known);
  /// Takes on the regions as of the latest look; states of those that stay are kept.
  void replace_tracked(const std::vector<Region>& known);
  /// Tries whether what the process could not write is still that.
  void doubt_read_only();
  /// Registers what is not registered yet, with the process stopped.
  Status register_new(const std::vector<Region>& known);
  Status register_one(Tracked& tracked);
  /// Gives a new generation to what was mapped anew beside memory that is new, though its place is
  /// the same. With the process stopped.
  Status renew_beside_new(const std::vector<Region>& known);
  std::vector<const Tracked*> beside_new() const;
  [[nodiscard]] Result<bool> is_registered(const Region& region);
  Status protect(Tracked& tracked);
  /// Adds what was written to pending_ and protects it again. False where the memory is not the one
  /// that was armed.
  Result<bool> take(Tracked& tracked);

  std::shared_ptr<ProcessMemory> memory_;
  std::optional<Pagemap> pagemap_;
  std::optional<Userfault> userfault_;  ///< While tracking.
  std::vector<Tracked> tracked_;
  PageBitmap pending_;  ///< Taken from the kernel and not handed out yet.
};

AddressRange addresses_of(const Region& region) {
  return {region.range.first.number * kPageSize, region.range.end().number * kPageSize};
}

PageRange pages_of(AddressRange addresses) {
  return {GuestAddr{addresses.begin}.page(), (addresses.end - addresses.begin) / kPageSize};
}

bool contains(const std::vector<Region>& regions, const RegionId& id) {
  return std::any_of(regions.begin(), regions.end(),
                     [&](const Region& region) { return region.id == id; });
}

Status ProcessWriteProtect::start() {
  if (userfault_) {
    return make_error(ErrorCode::kBusy, "the writes of process " + std::to_string(memory_->pid()) +
                                            " are being tracked already");
  }
  MIGRATE_ASSIGN(pagemap_, Pagemap::open(memory_->pid()));
  MIGRATE_ASSIGN(Fd fd, userfaultfd_of(memory_->pid()));
  auto adopted = Userfault::adopt(std::move(fd), abi::kUffdWriteTracking, kOwner);
  if (!adopted) return std::move(adopted).error();
  userfault_.emplace(*std::move(adopted));
  for (int looks = 1;; ++looks) {
    auto refused = follow({});
    if (refused && !*refused) break;
    Error error = refused ? *std::move(*refused) : std::move(refused).error();
    if (looks < kLooksMax && error.code != ErrorCode::kBusy) continue;
    // A process that maps anew faster than it is armed: what is not armed counts as written, and is
    // armed by a collect.
    if (error.code == ErrorCode::kNotFound) break;
    (void)stop();
    return error;
  }
  pending_.clear_all();
  return {};
}

Result<std::optional<Error>> ProcessWriteProtect::follow(const std::vector<Region>& known) {
  MIGRATE_TRY(memory_->refresh());
  replace_tracked(known);
  doubt_read_only();
  std::optional<Error> refused;
  const auto keep_first = [&](Status status) {
    if (!status && !refused) refused = std::move(status).error();
  };
  if (std::any_of(tracked_.begin(), tracked_.end(),
                  [](const Tracked& tracked) { return tracked.state == State::kUnarmed; })) {
    keep_first(register_new(known));
  }
  for (Tracked& tracked : tracked_) {
    if (tracked.state != State::kUnarmed && tracked.state != State::kRegistered) continue;
    if (tracked.told) pending_.set(tracked.region.id, tracked.region.range);
    if (tracked.state == State::kRegistered) keep_first(protect(tracked));
    // If it could not be armed, others get to know it before its writes are seen.
    tracked.told = true;
  }
  return refused;
}

// Shared memory that was opened for reading may be mapped anew from a descriptor that can write, in
// the same place: it is the same object, and looks alike until it is made writable.
void ProcessWriteProtect::doubt_read_only() {
  for (Tracked& tracked : tracked_) {
    if (tracked.state != State::kReadOnly) continue;
    tracked.told = true;
    // Not done for good by a failure: another state has its writes count, whichever it is.
    static_cast<void>(register_one(tracked));
    if (tracked.state != State::kReadOnly) continue;
    const std::vector<ProcessMapping> mappings = memory_->mappings(tracked.region.id);
    const bool in_part = std::any_of(mappings.begin(), mappings.end(),
                                     [](const ProcessMapping& one) { return one.writable; });
    if (in_part) tracked.state = State::kRefused;
  }
}

// The kernel splits a mapping of which a part is registered, and refuses to move (mremap) memory of
// two mappings at once. A process that maps while it is registered by what it had a moment ago
// would see that. So it stands still for as long as it takes to look and to register.
Status ProcessWriteProtect::register_new(const std::vector<Region>& known) {
  std::optional<Error> refused;
  Status stopped = with_process_stopped(memory_->pid(), [&]() -> Status {
    MIGRATE_TRY(memory_->refresh());
    replace_tracked(known);
    MIGRATE_TRY(renew_beside_new(known));
    for (Tracked& tracked : tracked_) {
      if (tracked.state != State::kUnarmed) continue;
      if (Status added = register_one(tracked); !added && !refused) {
        refused = std::move(added).error();
      }
    }
    return {};
  });
  // Once it has ended, nothing writes.
  if (!stopped && stopped.error().code != ErrorCode::kNotFound) return stopped;
  return refused ? Status(*std::move(refused)) : Status();
}

// It would be found by the collect, too, but then the process could run meanwhile, with memory that
// it mapped at once registered by halves.
Status ProcessWriteProtect::renew_beside_new(const std::vector<Region>& known) {
  bool anew = false;
  for (const Tracked* tracked : beside_new()) {
    MIGRATE_ASSIGN(const bool same, is_registered(tracked->region));
    if (same) continue;
    memory_->renew(tracked->region.id);
    anew = true;
  }
  if (anew) replace_tracked(known);
  return {};
}

std::vector<const ProcessWriteProtect::Tracked*> ProcessWriteProtect::beside_new() const {
  std::vector<const Tracked*> all;
  for (const Tracked& tracked : tracked_) all.push_back(&tracked);
  std::sort(all.begin(), all.end(), [](const Tracked* a, const Tracked* b) {
    return a->region.range.first < b->region.range.first;
  });
  std::vector<const Tracked*> result;
  for (auto begin = all.begin(); begin != all.end();) {
    auto end = begin + 1;
    while (end != all.end() && (*(end - 1))->region.range.end() == (*end)->region.range.first)
      ++end;
    if (std::any_of(begin, end, [](const Tracked* one) { return one->state == State::kUnarmed; })) {
      std::copy_if(begin, end, std::back_inserter(result), [](const Tracked* one) {
        return one->state == State::kArmed || one->state == State::kRegistered;
      });
    }
    begin = end;
  }
  return result;
}

/// A mapping is registered as a whole or not at all: one page of each is looked at.
Result<bool> ProcessWriteProtect::is_registered(const Region& region) {
  for (const ProcessMapping& mapping : memory_->mappings(region.id)) {
    MIGRATE_ASSIGN(const bool registered, pagemap_->registered_at(mapping.begin));
    if (!registered) return false;
  }
  return true;
}

Status ProcessWriteProtect::register_one(Tracked& tracked) {
  Status added = userfault_->add(addresses_of(tracked.region), Userfault::Use::kWriteProtect);
  if (added) {
    tracked.state = State::kRegistered;
    return {};
  }
  if (added.error().sys_errno == EPERM) {
    // Shared memory that was opened for reading only.
    tracked.state = State::kReadOnly;
    return {};
  }
  // Memory with a userfaultfd of the process's own, say, has it for good; each try stops the
  // process.
  tracked.state = added.error().code == ErrorCode::kNotFound ? State::kUnarmed : State::kRefused;
  return added;
}

void ProcessWriteProtect::replace_tracked(const std::vector<Region>& known) {
  const std::vector<Region> now = memory_->known_regions();
  if (std::equal(
          now.begin(), now.end(), tracked_.begin(), tracked_.end(),
          [](const Region& region, const Tracked& tracked) { return region == tracked.region; })) {
    return;
  }
  std::map<RegionId, Tracked> old;
  for (const Tracked& tracked : tracked_) old.emplace(tracked.region.id, tracked);
  tracked_.clear();
  for (const Region& region : now) {
    const auto same = old.find(region.id);
    if (same == old.end()) {
      tracked_.push_back({region, State::kUnarmed, contains(known, region.id)});
    } else {
      tracked_.push_back(same->second);
      old.erase(same);
    }
  }
  for (const auto& [id, tracked] : old) {
    if (tracked.state == State::kArmed || tracked.state == State::kRegistered) {
      userfault_->forget(addresses_of(tracked.region));
    }
  }
  pending_.reshape(now, false);
}

Status ProcessWriteProtect::protect(Tracked& tracked) {
  const AddressRange addresses = addresses_of(tracked.region);
  MIGRATE_ASSIGN(const ScanOutcome outcome, pagemap_->protect(addresses, &*userfault_));
  if (outcome != ScanOutcome::kUnregistered) {
    tracked.state = State::kArmed;
    return {};
  }
  userfault_->forget(addresses);
  tracked.state = State::kUnarmed;
  return make_error(ErrorCode::kNotFound, "process " + std::to_string(memory_->pid()) +
                                              " mapped region " + to_text(tracked.region.id) +
                                              " anew while it was armed")
      .advise("start again");
}

Result<bool> ProcessWriteProtect::take(Tracked& tracked) {
  if (tracked.state == State::kReadOnly) return true;
  if (tracked.state != State::kArmed) {
    pending_.set(tracked.region.id, tracked.region.range);
    return true;
  }
  MIGRATE_ASSIGN(
      const ScanOutcome outcome,
      pagemap_->take_written(
          addresses_of(tracked.region),
          [&](AddressRange written) { pending_.set(tracked.region.id, pages_of(written)); },
          &*userfault_));
  return outcome != ScanOutcome::kUnregistered;
}

Status ProcessWriteProtect::collect(PageBitmap& round_set) {
  if (!userfault_) {
    return make_error(ErrorCode::kInvalidArgument, "collect from a tracker that was not started");
  }
  const std::vector<Region> known = memory_->known_regions();
  MIGRATE_TRY(follow(known));
  for (int looks = 0; looks < kLooksMax; ++looks) {
    bool anew = false;
    for (Tracked& tracked : tracked_) {
      MIGRATE_ASSIGN(const bool same, take(tracked));
      if (same) continue;
      memory_->renew(tracked.region.id);
      anew = true;
    }
    if (!anew) break;
    MIGRATE_TRY(follow(known));
  }
  // Handed out only when all was taken: a failure before loses nothing.
  pending_.hand_over(round_set);
  return {};
}

Status ProcessWriteProtect::peek(PageBitmap& again) {
  if (!userfault_) return {};
  for (const Tracked& tracked : tracked_) {
    const Region& region = tracked.region;
    if (tracked.state == State::kReadOnly || again.find(region.id) == nullptr) continue;
    ScanOutcome outcome = ScanOutcome::kUnregistered;
    if (tracked.state == State::kArmed) {
      MIGRATE_ASSIGN(outcome,
                     pagemap_->look(
                         addresses_of(region),
                         [&](AddressRange written) { again.set(region.id, pages_of(written)); },
                         &*userfault_));
    }
    if (outcome == ScanOutcome::kUnregistered) again.set(region.id, region.range);
  }
  again.merge(pending_);
  return {};
}

Status ProcessWriteProtect::stop() {
  // Closing takes back all registrations at once: one by one, mappings would be split meanwhile.
  userfault_.reset();
  tracked_.clear();
  pending_ = PageBitmap();
  pagemap_.reset();
  return {};
}

}  // namespace

Result<std::unique_ptr<DirtyTracker>> make_process_write_protect_tracker(
    std::shared_ptr<ProcessMemory> memory) {
  MIGRATE_CHECK(memory != nullptr);
#if defined(__x86_64__)
  return std::unique_ptr<DirtyTracker>(std::make_unique<ProcessWriteProtect>(std::move(memory)));
#else
  return make_error(ErrorCode::kUnsupported,
                    "writes of another process can be tracked by write protection on x86-64 only");
#endif
}

}  // namespace migrate
