// ContainerGuest: a process tree of this host, hosted by the command.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/fd.hpp"
#include "base/mutex.hpp"
#include "hosted_guest.hpp"
#include "migrate/containers.hpp"
#include "synced_folders.hpp"

namespace migrate::tool {

class ContainerGuest final : public HostedGuest {
 public:
  /// A tree that is here and that nobody of this process made, to be sent as `options` say.
  /// `folders` follow it.
  static Result<std::unique_ptr<ContainerGuest>> create(const ContainerSourceOptions& options,
                                                        std::vector<SyncedFolder> folders);
  /// A tree that is on its way: only facts() is known until set_tree(). `options`: how it leaves
  /// again, but for the root.
  ContainerGuest(GuestFacts facts, ContainerSourceOptions options)
      : facts_(std::move(facts)), options_(std::move(options)) {}
  /// It runs. `tree` must outlive this.
  void set_tree(ContainerTarget& tree) MIGRATE_EXCLUDES(mutex_);

  GuestFacts facts() const override { return facts_; }
  GuestState state() const override MIGRATE_EXCLUDES(mutex_);
  std::optional<Error> failure() const override { return std::nullopt; }
  int ended_fd() const override MIGRATE_EXCLUDES(mutex_);
  Status pause() override MIGRATE_EXCLUDES(mutex_);
  Status resume() override MIGRATE_EXCLUDES(mutex_);
  void stop() override MIGRATE_EXCLUDES(mutex_);
  Result<Json> stats() const override MIGRATE_EXCLUDES(mutex_);
  Result<ConsoleView> console() const override;
  Result<std::unique_ptr<SourceGuest>> make_source() override MIGRATE_EXCLUDES(mutex_);

 private:
  [[nodiscard]] bool has_ended() const MIGRATE_REQUIRES(mutex_);
  Status freeze(bool frozen) MIGRATE_REQUIRES(mutex_);

  const GuestFacts facts_;
  mutable Mutex mutex_;
  ContainerSourceOptions options_ MIGRATE_GUARDED_BY(mutex_);
  Fd process_ MIGRATE_GUARDED_BY(mutex_);  ///< Of the tree's first process.
  std::vector<SyncedFolder> folders_ MIGRATE_GUARDED_BY(mutex_);
  ContainerTarget* tree_ MIGRATE_GUARDED_BY(mutex_) = nullptr;  ///< Of one that has arrived.
  bool frozen_ MIGRATE_GUARDED_BY(mutex_) = false;
  /// Shared with sources, which tell that the tree has left.
  std::shared_ptr<std::atomic<bool>> left_ = std::make_shared<std::atomic<bool>>(false);
};

}  // namespace migrate::tool
