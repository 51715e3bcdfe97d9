// A process tree that leaves: memory by the engine, kernel objects by CRIU.
//
//   pause()          the tree's cgroup frozen, its tasks held by CRIU at the hook query-ext-files;
//                    that is answered, and CRIU copies kernel objects
//   save_state()     post-dump: frozen again and held. Only now memory is final, for CRIU runs code
//                    in the tasks, and the kernel notes in their memory which processor ran it
//                    (rseq); the last collect, and the images leave beside the last pages
//   resume()         a negative answer: CRIU undoes what it did, and then the group is thawed
//   release()        the frozen tree is killed, and with it goes what CRIU has left
#include <fcntl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapters/containers/link_state.hpp"
#include "adapters/containers/network/leaving_network.hpp"
#include "adapters/containers/source/container_memory.hpp"
#include "adapters/containers/source/container_tracker.hpp"
#include "adapters/containers/source/dump_run.hpp"
#include "adapters/containers/source/obstacles.hpp"
#include "adapters/containers/source/process_tree.hpp"
#include "adapters/containers/source/tree_facts.hpp"
#include "adapters/containers/tree_cgroup.hpp"
#include "adapters/containers/tree_state.hpp"
#include "base/guarded.hpp"
#include "base/log.hpp"
#include "migrate/cgroup_throttle.hpp"
#include "migrate/containers.hpp"
#include "migrate/trackers.hpp"

namespace migrate::containers {
namespace {

/// Killed processes are gone at once, but for those in uninterruptible sleep.
constexpr std::chrono::seconds kKillMax{60};

// What a switchover takes, by the phases of reports with CRIU 4.2.1 on two cores: from the stop to
// the held hook 7 ms for a tree of one process and 64 MiB, 12 ms with 1 GiB (25 where its mappings
// change all the time, for then the kernel counts what is in them), and 36 ms for eight processes
// of 64 MiB. A restore takes 6 and 19 ms for one and eight, whatever their memory, as much as
// saving: what grows with memory is counted with the pause, for forecasts take what saving takes
// for loading, too. Shared memory is copied to the images by 1 byte a nanosecond.
constexpr std::chrono::microseconds kPauseCost{1000};
constexpr std::chrono::microseconds kPauseCostOfProcess{800};
constexpr std::chrono::nanoseconds kPauseCostOfMib{5'000};
constexpr std::chrono::microseconds kSaveCost{3500};
constexpr std::chrono::microseconds kSaveCostOfProcess{2000};
constexpr std::uint64_t kCopiedBytesEachNanosecond = 1;
constexpr std::uint64_t kImageBytesOfProcess = 64 * 1024;

Error began_asynchronous_io(pid_t pid) {
  return make_error(ErrorCode::kUnsupported,
                    "process " + std::to_string(pid) +
                        " has begun to do asynchronous I/O (io_setup), which writes to its memory "
                        "unseen")
      .advise("make the program use read and write, or migrate before it begins");
}

class ContainerSource final : public SourceGuest {
 public:
  ContainerSource(ContainerSourceOptions options, const TreeProcess& root,
                  std::unique_ptr<TreeCgroup> group)
      : options_(std::move(options)),
        root_(root),
        group_(std::move(group)),
        memory_([this] { return list_tree(); }),
        dump_(std::make_unique<DumpRun>(options_, *group_)) {}
  ~ContainerSource() override;
  ContainerSource(const ContainerSource&) = delete;
  ContainerSource& operator=(const ContainerSource&) = delete;

  Status set_up();

  Result<GuestDescription> describe() override;
  PageSource& pages() override { return hashed_pages_ ? *hashed_pages_ : memory_; }
  DirtyTracker& tracker() override { return *tracker_; }
  [[nodiscard]] RunState run_state() override;
  Result<PauseResult> pause() override;
  std::optional<SwitchoverCost> expected_cost() override;
  Status resume() override;
  Status save_state(StateWriter& writer) override;
  Status throttle(std::uint32_t vcpu, double share) override;
  Status relinquish() override;
  void committing() override {
    committed_ = true;
    dump_->committing();
  }
  Status reclaim() override;
  Status release() override;
  Status first_pages(PageBitmap&) override { return {}; }
  Status release_pages(const RegionId&, PageRange) override { return {}; }
  PacketSource* waiting_packets() override { return network_.get(); }

 private:
  [[nodiscard]] std::vector<TreeProcess> list_tree() const;
  Status make_tracker();
  /// What comes for the tree while it stands is kept, where that can be done.
  Status open_network();
  /// Whoever ends this does not know its owner: nothing lets it run.
  void leave_standing();
  /// CRIU copies what is not memory, and what memory the engine does not move.
  Status let_criu_copy();

  const ContainerSourceOptions options_;
  const TreeProcess root_;
  std::unique_ptr<TreeCgroup> group_;
  ContainerMemory memory_;
  std::unique_ptr<PageSource> hashed_pages_;  ///< Of the tracker by hash; else none.
  std::unique_ptr<DirtyTracker> tracker_;
  std::unique_ptr<LeavingNetwork> network_;  ///< Empty: the link is switched, and nothing kept.
  std::unique_ptr<DumpRun> dump_;
  std::unique_ptr<CgroupThrottle> throttle_;
  std::vector<SpaceOwner> owners_;
  std::vector<EmptyArea> empty_;
  bool link_down_ = false;
  bool committed_ = false;  ///< And not resumed: it may run at the target.
  bool released_ = false;
};

ContainerSource::~ContainerSource() {
  if (committed_ && dump_->stands()) {
    leave_standing();
  } else if (!released_ && dump_->stands()) {
    if (const Status back = dump_->give_up(); !back) {
      log_line(LogLevel::kError, back.error().to_text());
    }
  }
  if (!committed_ && !released_ && link_down_) (void)reclaim();
  throttle_.reset();
  // What tracks writes is let go of before the processes change their group.
  tracker_.reset();
  dump_.reset();
}

std::vector<TreeProcess> ContainerSource::list_tree() const {
  std::vector<TreeProcess> tree = list_descendants(root_.pid);
  const bool same = !tree.empty() && tree.front().start_time == root_.start_time;
  return same ? tree : std::vector<TreeProcess>();
}

Status ContainerSource::make_tracker() {
  switch (options_.tracker) {
    case TrackerKind::kProcessWriteProtect:
    case TrackerKind::kSoftDirty:
      tracker_ = std::make_unique<ContainerTracker>(
          memory_, options_.tracker, [this] { return dump_->stands(); },
          [this] { dump_->learn_mappings(); });
      return {};
    case TrackerKind::kContentHash: {
      ContentHashTracking hash = make_content_hash_tracking(memory_);
      hashed_pages_ = std::move(hash.pages);
      tracker_ = std::move(hash.tracker);
      return {};
    }
    default:
      return make_error(ErrorCode::kInvalidArgument, "the tracker " +
                                                         std::string(to_string(options_.tracker)) +
                                                         " is none for process trees")
          .advise("use process-write-protect, soft-dirty or content-hash");
  }
}

Status ContainerSource::set_up() {
  MIGRATE_TRY(make_tracker());
  if (!options_.link.empty()) MIGRATE_TRY(open_network());
  return dump_->arm();
}

Status ContainerSource::open_network() {
  MIGRATE_TRY(link_is_up(options_.link));
  const std::string path = proc_path(root_.pid, "ns/net");
  const Fd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  auto network = LeavingNetwork::open(space.get(), options_.link);
  if (network) {
    network_ = *std::move(network);
    dump_->hold_network(*network_);
    return {};
  }
  log_line(LogLevel::kWarning, "packets that come for the tree while it stands will be lost: " +
                                   network.error().to_text());
  return {};
}

Result<GuestDescription> ContainerSource::describe() {
  return guarded([&]() -> Result<GuestDescription> {
    MIGRATE_TRY(dump_->arm());
    MIGRATE_ASSIGN(const TreeDescription tree, describe_tree(options_, dump_->version()));
    GuestDescription description;
    description.kind = GuestKind::kContainer;
    description.name = options_.name;
    description.vcpus = 1;
    MIGRATE_TRY(memory_.follow());
    MIGRATE_ASSIGN(description.regions, pages().regions());
    description.properties.push_back(to_property(tree));
    if (!tree.mounts.empty()) description.properties.push_back(to_property(tree.mounts));
    if (!tree.outputs.empty()) description.properties.push_back(to_property(tree.outputs));
    return description;
  });
}

RunState ContainerSource::run_state() {
  if (dump_->stands()) return RunState::kPaused;
  const std::string events = read_proc(group_->path() + "/cgroup.events").value_or("");
  return events.find("frozen 1") == std::string::npos ? RunState::kRunning : RunState::kPaused;
}

Result<PauseResult> ContainerSource::pause() {
  if (dump_->stands()) return PauseResult{RunState::kPaused, std::chrono::steady_clock::now()};
  if (run_state() == RunState::kPaused) {
    return make_error(ErrorCode::kUnsupported, "the tree is frozen by its cgroup " + group_->path())
        .advise("let it run (echo 0 > cgroup.freeze) and migrate it then");
  }
  return guarded([&]() -> Result<PauseResult> {
    MIGRATE_ASSIGN(const SteadyTime stopped_at, dump_->stop());
    Status copying = let_criu_copy();
    if (copying) return PauseResult{RunState::kRunning, stopped_at};
    if (const Status back = resume(); !back) copying.error().message += "; " + back.error().message;
    return std::move(copying).error();
  });
}

std::optional<SwitchoverCost> ContainerSource::expected_cost() {
  const std::vector<TreeProcess> tree = list_tree();
  std::uint64_t shared_bytes = 0;
  std::uint64_t resident_kb = 0;
  for (const TreeProcess& process : tree) {
    const auto facts = process_facts(process.pid);
    if (!facts) continue;
    shared_bytes += (facts->shared_kb + facts->locked_kb + facts->hugetlb_kb) * 1024;
    resident_kb += facts->resident_kb;
  }
  SwitchoverCost cost;
  cost.pause =
      kPauseCost + kPauseCostOfProcess * tree.size() + kPauseCostOfMib * (resident_kb / 1024);
  cost.save = kSaveCost + kSaveCostOfProcess * tree.size() +
              std::chrono::nanoseconds(shared_bytes / kCopiedBytesEachNanosecond);
  cost.state_bytes = shared_bytes + kImageBytesOfProcess * tree.size();
  return cost;
}

Status ContainerSource::let_criu_copy() {
  MIGRATE_TRY(memory_.refresh());
  MIGRATE_ASSIGN(owners_, memory_.owners());
  empty_ = memory_.empty_areas();
  memory_.hold();
  return dump_->go_on(memory_.areas());
}

Status ContainerSource::save_state(StateWriter& writer) {
  return guarded([&]() -> Status {
    // Another tracker's look at everything would cost more than it saves.
    if (options_.tracker == TrackerKind::kProcessWriteProtect) MIGRATE_TRY(writer.memory_settled());
    // Beside CRIU's work. Rings of io_uring that came since the start it refuses by itself.
    for (const TreeMember& member : memory_.members()) {
      if (does_asynchronous_io(member.process.pid))
        return began_asynchronous_io(member.process.pid);
    }
    MIGRATE_TRY(dump_->finish());
    MIGRATE_TRY(writer.memory_final());
    MIGRATE_TRY(writer.section({std::string(kSpacesSection), 1, true}, encode_spaces(owners_)));
    MIGRATE_TRY(writer.section({std::string(kEmptySection), 1, true}, encode_empty(empty_)));
    return dump_->images().send(writer);
  });
}

Status ContainerSource::resume() {
  if (released_) {
    return make_error(ErrorCode::kInvalidArgument, "a tree that was given away does not run on");
  }
  committed_ = false;
  // The link first: what comes by it waits for what CRIU locked to be unlocked, and CRIU without
  // the shim is told of its end through a connection.
  Status up = reclaim();
  Status back = dump_->give_up();
  if (back && !up) back = std::move(up);
  memory_.let_change();
  MIGRATE_TRY(std::move(back));
  // For the next attempt, so that it is not part of that one's downtime.
  if (const Status armed = dump_->arm(); !armed) {
    log_line(LogLevel::kWarning, armed.error().to_text());
  }
  return {};
}

Status ContainerSource::throttle(std::uint32_t vcpu, double share) {
  if (vcpu != 0) {
    return make_error(ErrorCode::kInvalidArgument, "a process tree counts as one processor");
  }
  if (throttle_ == nullptr) {
    if (share == 0) return {};
    MIGRATE_ASSIGN(const std::string folder, cpu_group(root_.pid, group_->path()));
    MIGRATE_ASSIGN(throttle_, CgroupThrottle::create(folder));
  }
  return throttle_->withhold(share);
}

Status ContainerSource::relinquish() {
  if (options_.link.empty()) return {};
  // What comes waits here, to be sent after the tree, and nothing of it is answered.
  if (network_ != nullptr && network_->holds()) return {};
  MIGRATE_TRY(set_link(options_.link, false));
  link_down_ = true;
  return {};
}

Status ContainerSource::reclaim() {
  if (!link_down_) return {};
  MIGRATE_TRY(set_link(options_.link, true));
  link_down_ = false;
  return {};
}

Status ContainerSource::release() {
  released_ = true;
  // Whatever lets go of it below, nothing of it is left to run; or it stands for good.
  Status killed = group_->kill(std::chrono::steady_clock::now() + kKillMax);
  if (!killed) group_->keep();
  throttle_.reset();
  dump_->drop();
  if (network_ == nullptr || !network_->holds()) return killed;
  // What has no owner here any more would be answered by a reset.
  if (Status down = set_link(options_.link, false); !down) {
    network_->leave_closed();
    return killed ? std::move(down) : std::move(killed);
  }
  network_->end();
  return killed;
}

void ContainerSource::leave_standing() {
  group_->keep();
  if (network_ != nullptr) network_->leave_closed();
  if (const Status left = dump_->leave_frozen(); !left) {
    log_line(LogLevel::kError, left.error().to_text());
  }
  log_line(LogLevel::kError,
           "the tree may run at the target: it stays frozen here, in the cgroup " + group_->path());
}

}  // namespace
}  // namespace migrate::containers

namespace migrate {

Result<std::unique_ptr<SourceGuest>> make_container_source(const ContainerSourceOptions& options) {
  using namespace containers;  // NOLINT: all that this function is made of.
  return guarded([&]() -> Result<std::unique_ptr<SourceGuest>> {
    const auto root = look_at_process(options.root);
    if (!root || root->zombie) {
      return make_error(ErrorCode::kNotFound,
                        "there is no process " + std::to_string(options.root));
    }
    MIGRATE_TRY(refuse_obstacles(options));
    MIGRATE_ASSIGN(auto group, TreeCgroup::of_tree(options.root));
    auto source = std::make_unique<ContainerSource>(options, *root, std::move(group));
    MIGRATE_TRY(source->set_up());
    return std::unique_ptr<SourceGuest>(std::move(source));
  });
}

}  // namespace migrate
