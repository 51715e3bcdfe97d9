// Live migration of process trees: memory moves by the engine, kernel objects by CRIU. Library
// migrate::containers.
//
// CRIU is a separate program (https://criu.org), 4.1 or newer; it is asked by its documented RPC
// (`criu swrk`). The tree has, or gets, a cgroup of its own (version 2), by which it is frozen,
// killed as one, and held still should CRIU die.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "migrate/guest.hpp"
#include "migrate/result.hpp"
#include "migrate/tracker_choice.hpp"

namespace migrate {

/// The CRIU to use. The same or a newer one is needed at the target.
struct CriuProgram {
  std::string path = "criu";  ///< Looked up in PATH unless it has a slash.
  /// The library that keeps CRIU from reading memory which the engine moves
  /// (libmigrate-criu-shim.so, installed beside this one). Empty, or a CRIU that is not known to
  /// work with it: CRIU reads all memory while the tree is frozen.
  std::string shim;
};

/// What becomes of the tree's established TCP connections.
enum class ContainerTcp : std::uint8_t {
  kEstablished = 1,  ///< They go on at the target, which must have the same address.
  kClose = 2,        ///< They are closed at the target; the tree sees a reset.
};

struct ContainerSourceOptions {
  pid_t root = 0;    ///< The tree's first process, as numbered in this process's pid namespace.
  std::string name;  ///< What the guest is called in reports; at most 64 bytes.
  CriuProgram criu;
  ContainerTcp tcp = ContainerTcp::kEstablished;
  /// Passed to CRIU as its --external: "mnt[/etc/resolv.conf]:resolv", "file[...]", "unix[...]".
  /// What else is mounted in the tree from outside of it is called by where it is mounted
  /// ("mnt[/etc/hosts]:/etc/hosts"), and needs a place at the target; cgroups are found there.
  /// The tree's network namespace is external by itself where it is not this process's.
  std::vector<std::string> externals;
  /// A network interface of this host, such as the host's end of the tree's veth pair: taken down
  /// once the tree is frozen, and put up again if it goes on here. Empty: none.
  std::string link;
  /// A folder on a tmpfs of this process's own, mode 0700, where CRIU's images stand for the length
  /// of the migration. What this makes there it removes.
  std::string folder;
  TrackerKind tracker = TrackerKind::kProcessWriteProtect;
};

/// A process tree that may leave. Until COMMIT nothing of it is changed for good: after a failure
/// it runs on as if nothing had happened.
///
/// kNotFound without such a process; kUnsupported, with the list of reasons and a remedy, for what
/// cannot be moved; kPermission without root.
[[nodiscard]] Result<std::unique_ptr<SourceGuest>> make_container_source(
    const ContainerSourceOptions& options);

struct ContainerTargetOptions {
  CriuProgram criu;
  ContainerTcp tcp = ContainerTcp::kEstablished;
  /// Folder or mount that is the tree's root file system here; needed where the tree has a mount
  /// namespace of its own. Empty: none.
  std::string root;
  /// As CRIU's --external of a restore: "mnt[resolv]:/etc/resolv.conf".
  std::vector<std::string> externals;
  /// Path of the network namespace (/run/netns/NAME, /proc/PID/ns/net) where a tree that had one of
  /// its own is going to live. Empty: none.
  std::string network;
  /// Put up when the restored sockets may be heard (CRIU's network-unlock). Empty: none.
  std::string link;
  /// What the tree writes to pipes that were read outside of it at its source, such as a runtime's
  /// log, is appended to this file. Empty: it is thrown away.
  std::string output;
  std::string folder;  ///< As in ContainerSourceOptions.
  /// Of the cgroup that the tree gets, under this process's own; the guest's name where empty.
  std::string cgroup;
};

/// A process tree that may arrive. Restoring one runs what the peer sent: only from peers that are
/// trusted with root.
///
/// Its memory is staged in this process, and fills the tree's once it runs, what it touches first;
/// destroying this while has_all_memory() is false leaves that to a process of its own, which ends
/// when it is done.
class ContainerTarget : public TargetGuest {
 public:
  /// The tree's first process here; 0 before start().
  [[nodiscard]] virtual pid_t root_pid() const = 0;
  /// Readable when the tree's first process has ended; -1 before start(). Stays this object's.
  [[nodiscard]] virtual int ended_fd() const = 0;
  /// Tells that every page is staged here (after post-copy: that the rest has come).
  virtual void memory_complete() = 0;
  /// The tree needs nothing of this object any more. Any thread.
  [[nodiscard]] virtual bool has_all_memory() const = 0;
  /// Ends all processes of the tree and waits until they are gone. Any thread.
  virtual Status kill() = 0;
  /// Stops the tree and lets it run on, by its cgroup's freezer. Any thread.
  virtual Status freeze(bool frozen) = 0;
  /// For ContainerSourceOptions::externals when it leaves again: what its source had named.
  [[nodiscard]] virtual std::vector<std::string> externals_to_leave() const = 0;
};

/// kUnsupported where CRIU, its version or this kernel does not do; kPermission without root.
[[nodiscard]] Result<std::unique_ptr<ContainerTarget>> make_container_target(
    const ContainerTargetOptions& options);

/// One thing that speaks against moving a tree, or is worth knowing.
struct ContainerFinding {
  bool blocks = false;
  std::string what;    ///< "process 4711 has a terminal from outside the tree open (fd 0)".
  std::string remedy;  ///< What to do about it; may be empty.
};

/// What stands in a migration's way, by looking only: nothing is stopped or changed.
/// kNotFound without such a process.
[[nodiscard]] Result<std::vector<ContainerFinding>> check_container(
    const ContainerSourceOptions& options);

}  // namespace migrate
