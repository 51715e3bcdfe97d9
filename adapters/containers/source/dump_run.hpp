// DumpRun: one CRIU dump of the tree, from its standing to its end, step by step.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>

#include "adapters/containers/criu/criu_worker.hpp"
#include "adapters/containers/criu/hidden_areas.hpp"
#include "adapters/containers/criu/ready_breakpoints.hpp"
#include "adapters/containers/network/leaving_network.hpp"
#include "adapters/containers/source/dump_folder.hpp"
#include "adapters/containers/source/freeze_guard.hpp"
#include "adapters/containers/source/lock_tables.hpp"
#include "adapters/containers/source/smaps_reader.hpp"
#include "adapters/containers/tree_cgroup.hpp"
#include "migrate/containers.hpp"
#include "migrate/guest.hpp"

namespace migrate::containers {

/// One thread at a time, but kill_worker().
class DumpRun {
 public:
  /// `group` must outlive it.
  DumpRun(const ContainerSourceOptions& options, TreeCgroup& group)
      : options_(options), group_(group) {}
  ~DumpRun();
  DumpRun(const DumpRun&) = delete;
  DumpRun& operator=(const DumpRun&) = delete;

  /// What comes for the tree is held by it, from its standing on until it runs here again; it must
  /// outlive this. Before stop().
  void hold_network(LeavingNetwork& network) { network_ = &network; }

  /// Begins a CRIU, so that this is not part of the downtime, and looks whether it is one to work
  /// with. Nothing where one waits already.
  Status arm();
  /// While the tree runs: learns of its mappings what CRIU would have to ask for in the stop.
  void learn_mappings();
  [[nodiscard]] const CriuVersion& version() const { return version_; }

  /// The tree stands: frozen, held by CRIU, packets locked. Gives a time before that. After an
  /// error it runs on.
  Result<SteadyTime> stop();
  /// CRIU goes on to copy kernel objects, and the memory that is not in `areas`.
  Status go_on(std::span<const HiddenArea> areas);
  /// From now on the tree stays frozen, should this process die.
  void committing() noexcept;
  /// Waits until all images are there. The tree is frozen from then on, whatever becomes of CRIU.
  Status finish();
  /// From any of these states back to a tree that runs as before.
  Status give_up();
  /// As give_up(), but the tree stays frozen: it may run elsewhere.
  Status leave_frozen();
  /// After the tree was killed: nothing of the dump is left.
  void drop();

  /// Between stop() and the end, also where that is still to be cleaned up.
  [[nodiscard]] bool stands() const { return stage_ != Stage::kIdle; }
  [[nodiscard]] const DumpFolder& images() const { return *images_; }

  /// For tests: a hook is about to be answered.
  using HookSeen = void (*)(CriuWorker&, const std::string& hook);
  static void watch_hooks(HookSeen seen);

 private:
  enum class Stage {
    kIdle,
    kBegun,    ///< CRIU was asked; the tree may be frozen.
    kStands,   ///< query-ext-files waits for its answer.
    kDumping,  ///< It was answered.
    kHeld,     ///< post-dump waits for its answer.
  };

  Result<CriuEvent> next_event(Deadline deadline);
  Status answer(bool go_on);
  /// hook_ is one then; that it ended is an error.
  Status next_hook(Deadline deadline);
  Status begin();
  /// The tree's connections come to an end or to the tree; false where packets will not be held.
  bool settle_network();
  Result<SteadyTime> stop_steps();
  Status finish_steps();
  /// Only the tree's own processes stand in its group.
  Status check_members() const;
  [[nodiscard]] Status check_sockets() const;
  Status check_held() const;
  /// CRIU is gone, and what it did undone; the tree is frozen where it was.
  Status end();
  /// CRIU ends by its own doing; false where it did not.
  bool end_in_order();
  /// What CRIU would have done, had it not died: everything but to let the tree run.
  Status clean_up();
  [[nodiscard]] std::set<std::string> own_tables() const;
  void forget();

  const ContainerSourceOptions options_;
  TreeCgroup& group_;
  const Fd breakpoints_ = keep_breakpoints_ready();
  CriuVersion version_;
  bool hides_ = false;
  std::optional<HiddenAreas> hidden_;
  SmapsKeeper mappings_;
  std::optional<SmapsReader> smaps_;  ///< From the tree's standing to the end of the dump.
  LeavingNetwork* network_ = nullptr;
  std::unique_ptr<FreezeGuard> guard_;
  bool locks_network_ = false;  ///< There were sockets when the dump began.
  std::unique_ptr<CriuWorker> worker_;
  std::optional<DumpFolder> images_;
  std::optional<LockTables> tables_;
  std::set<std::string> tables_before_;
  std::optional<std::set<std::string>> tables_made_;  ///< By this dump.
  bool ended_ = false;                                ///< CRIU has said so.
  bool lost_ = false;                                 ///< It does not hear or answer any more.
  std::string hook_;                                  ///< Waits for its answer; empty: none.
  Stage stage_ = Stage::kIdle;
};

}  // namespace migrate::containers
