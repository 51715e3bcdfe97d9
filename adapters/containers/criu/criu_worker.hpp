// CriuWorker: one `criu swrk` process, asked by CRIU's RPC (https://criu.org/RPC).
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "migrate/containers.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

using Deadline = std::chrono::steady_clock::time_point;

struct CriuVersion {
  int major = 0;
  int minor = 0;
  int sublevel = 0;
  std::string text;  ///< "4.2.1", as CRIU says it.
  friend bool operator==(const CriuVersion&, const CriuVersion&) = default;
};

/// FEATURE_CHECK: what the kernel lets CRIU do.
struct CriuFeatures {
  bool lazy_pages = false;
  bool mem_track = false;
  bool pidfd_store = false;
};

struct CriuLaunch {
  CriuProgram program;
  /// hidden_areas.hpp's list, for the shim; -1: the shim is not loaded.
  int hidden_areas_fd = -1;
  /// Written to before the program runs, so that all it makes is born there: files named
  /// cgroup.procs. Empty: none.
  std::vector<std::string> cgroup_procs;
  /// Descriptors that the program inherits: ours, and the number that it finds it under (>= 100).
  std::vector<std::pair<int, int>> descriptors;
};

/// How CRIU keeps packets from connections that it copies: by libnftables, which it must have been
/// built with, or by the program iptables-restore. kNone where there are none: making and removing
/// nftables' rules takes 10 to 40 ms at either side.
enum class CriuNetworkLock : std::uint8_t { kNftables, kIptables, kNone };

struct CriuDump {
  pid_t root = 0;
  /// A folder; stays the caller's, open until the end. CRIU's log is in it, too (kCriuLog).
  int images_fd = -1;
  std::string freeze_cgroup;
  ContainerTcp tcp = ContainerTcp::kEstablished;
  CriuNetworkLock network_lock = CriuNetworkLock::kNftables;  ///< A restore's is in the images.
  std::vector<std::string> externals;
  /// Memory that may be filled lazily stays in CRIU and is not written to the images: without the
  /// shim. CRIU then serves it on this port of 127.0.0.1 after post-dump, positive or not (hook
  /// "status-ready"), until it is told to close; CriuWorker does so by itself.
  std::uint16_t lazy_port = 0;
};

struct CriuRestore {
  int images_fd = -1;
  std::string root;
  ContainerTcp tcp = ContainerTcp::kEstablished;
  std::vector<std::string> externals;
  /// Descriptor (as CriuLaunch::descriptors numbers it) and key of what stood outside the tree.
  std::vector<std::pair<int, std::string>> inherited;
  /// "lazy-pages.socket" in the images' folder answers: memory is filled by userfaultfd.
  bool lazy_pages = true;
};

/// What a worker tells, in its order.
struct CriuEvent {
  enum class Kind : std::uint8_t {
    kHook,  ///< It waits for answer(): "pre-dump", "network-lock", "query-ext-files", "post-dump";
            ///< "pre-restore", "setup-namespaces", "post-setup-namespaces", "post-restore",
            ///< "network-unlock", "pre-resume", "post-resume", ...
    kEnd,   ///< The request is over.
  };
  Kind kind = Kind::kEnd;
  std::string hook;
  pid_t pid = 0;  ///< The restored tree's first process, where the event knows it; or 0.
  bool success = false;
};

/// A worker does one dump or one restore. One thread at a time, except kill(), which any may call.
class CriuWorker {
 public:
  /// kNotFound without the program, with a remedy. Does not wait for it: the first that is asked of
  /// a program that does not speak RPC gives kUnsupported. It has nothing of this process's but the
  /// descriptors named in `launch`; what it writes to standard error may be part of an error.
  static Result<std::unique_ptr<CriuWorker>> launch(const CriuLaunch& launch);
  /// Kills the process where it still runs, and reaps it. A tree that a restore began and did not
  /// finish is not killed, see begin_restore().
  virtual ~CriuWorker() = default;

  /// Before a dump or restore only. Errors as next().
  virtual Result<CriuVersion> version(Deadline deadline) = 0;
  virtual Result<CriuFeatures> features(Deadline deadline) = 0;

  virtual Status begin_dump(const CriuDump& dump) = 0;
  /// The restored tree's first process becomes a child of this process, not CRIU's: it does not see
  /// its parent die when CRIU ends (pdeath_signal), and whoever called can wait for it, and has to
  /// (waitid by its pidfd) once kEnd said success. Before that it is the worker's to wait for, but
  /// for a restore that is cut short (kill()) the caller's to kill, by the tree's cgroup.
  virtual Status begin_restore(const CriuRestore& restore) = 0;
  /// Waits for the next event. kTimeout, after which it may be called again; kGuest where the
  /// process has ended without a word (crashed, killed), with the last errors of its log; kProtocol
  /// for what is no message of CRIU's. A kEnd without success is no error here: failure() tells of
  /// it. `interrupt_fd`: readable ends the wait with kCancelled; -1: none.
  virtual Result<CriuEvent> next(Deadline deadline, int interrupt_fd = -1) = 0;
  /// To the hook that next() gave. False makes a dump or restore fail in order: the tasks of a dump
  /// go on as they were, those of a restore are killed.
  virtual Status answer(bool go_on) = 0;

  /// Why the request failed, by CRIU's own words (the errors in its log) and code, with `what`
  /// ahead: "CRIU did not dump the tree: ...".
  [[nodiscard]] virtual Error failure(const std::string& what) const = 0;
  /// At once, whatever it does. The tasks that it traced run on unless their cgroup is frozen.
  virtual void kill() noexcept = 0;
  [[nodiscard]] virtual pid_t pid() const = 0;
};

/// Whether `version` is one that this adapter works with; the error says which is needed.
[[nodiscard]] Status check_criu_version(const CriuVersion& version);
/// Whether hiding memory from it (the shim) was tried with `version`.
[[nodiscard]] bool shim_works_with(const CriuVersion& version);

}  // namespace migrate::containers
