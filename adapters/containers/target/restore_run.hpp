// RestoreRun: one attempt to restore a tree: CRIU from its start to the hold before the tree runs,
// and on to where it runs.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "adapters/containers/criu/criu_worker.hpp"
#include "adapters/containers/criu/ready_breakpoints.hpp"
#include "adapters/containers/network/arriving_network.hpp"
#include "adapters/containers/target/lazy_fill.hpp"
#include "adapters/containers/target/restore_folder.hpp"
#include "adapters/containers/target/restore_plan.hpp"
#include "adapters/containers/target/staged_memory.hpp"
#include "adapters/containers/tree_cgroup.hpp"
#include "migrate/containers.hpp"
#include "migrate/guest.hpp"

namespace migrate::containers {

/// One thread.
class RestoreRun {
 public:
  /// Starts CRIU in `group` and the filler, and asks CRIU what it can do, which warms it: nothing
  /// of that is left for the downtime. `options`, `group` and `network` must live as long as
  /// this. Without `network` the link is put up when CRIU unlocks it.
  static Result<std::unique_ptr<RestoreRun>> prepare(const ContainerTargetOptions& options,
                                                     TreeCgroup& group, ArrivingNetwork* network);
  /// Unless started(): all of the tree is killed, and nothing of it is left.
  ~RestoreRun();
  RestoreRun(const RestoreRun&) = delete;
  RestoreRun& operator=(const RestoreRun&) = delete;

  [[nodiscard]] const CriuVersion& version() const { return version_; }
  /// Up to where the tree stands restored and would run on.
  Status load(StateReader& reader, StagedMemory& staging, const TreeDescription& tree);
  /// An error without kGuestLost: nothing has run. `complete`: all of the staging is there.
  Status start(RunState state, bool complete);
  /// CRIU's files and the mount for it; what the tree needs stays.
  void clean_up();

  [[nodiscard]] bool loaded() const { return loaded_; }
  [[nodiscard]] bool started() const { return started_; }
  [[nodiscard]] pid_t root() const { return root_; }
  [[nodiscard]] LazyFill& fill() { return *fill_; }
  /// Once started.
  [[nodiscard]] std::unique_ptr<LazyFill> take_fill() { return std::move(fill_); }
  /// The pipes that the tree writes to and that are to be read here.
  [[nodiscard]] std::vector<Fd> take_outputs() { return std::move(outputs_); }

 private:
  RestoreRun(const ContainerTargetOptions& options, TreeCgroup& group, ArrivingNetwork* network)
      : options_(options), group_(group), arriving_(network) {}
  Status launch();
  Status mount_root();
  Status mount_empty_folder();
  Status begin(const TreeDescription& tree);
  Status run_to_hold();
  Status let_worker_out();
  Status run_to_end(RunState state, bool complete, bool& may_run);
  Status before_resume(RunState state, bool complete, bool& may_run);
  void abandon();

  const ContainerTargetOptions& options_;
  TreeCgroup& group_;
  const Fd breakpoints_ = keep_breakpoints_ready();
  ArrivingNetwork* const arriving_;
  std::unique_ptr<RestoreFolder> images_;
  std::unique_ptr<LazyFill> fill_;
  Fd network_;
  std::vector<Fd> outputs_;  ///< To read from; the first so many are the tree's.
  std::unique_ptr<CriuWorker> worker_;
  CriuVersion version_;
  std::string mounted_root_;
  std::string empty_folder_;  ///< In place of what is hidden, or not here.
  std::string root_path_;
  bool at_hook_ = false;
  bool loaded_ = false;
  bool started_ = false;
  bool link_up_ = false;
  pid_t root_ = 0;
};

}  // namespace migrate::containers
