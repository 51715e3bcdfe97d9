// Journal: what a target has decided, where any process of its host can read it later.
//
// One file a session, <runtime_dir>/sessions/<session>.journal, one fixed-size record, overwritten
// in place by a single write and never flushed: the folder is a tmpfs, and a reboot ends the guest
// as well as the record. The process that would run the guest holds a lock on the file; when the
// lock is free, that process is gone.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "session/handover.hpp"
#include "wire/ids.hpp"

namespace migrate::session {

/// The target's own record. Used by one thread. To be kept for as long as the guest runs: without
/// its lock the guest counts as gone. Not shared with a child process: fork before create(), or the
/// child keeps the lock as well.
class Journal {
 public:
  /// Begins the record of `session` with kReceiving, makes the folders (0700) where needed, and
  /// removes records that are of no use any more. kBusy when the session has a record already.
  [[nodiscard]] static Result<Journal> create(const std::string& runtime_dir,
                                              const wire::SessionId& session, const BootId& boot);

  Journal(Journal&&) noexcept = default;
  Journal& operator=(Journal&&) noexcept = default;

  /// Overwrites the record; a few microseconds. A step that may_follow() forbids ends the process.
  [[nodiscard]] Status record(RecordState state, std::uint32_t attempt, nanoseconds lease_end);

  /// The source has confirmed (RELEASED): nobody will ask any more. record() must not follow.
  void remove() noexcept;

  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Journal(Fd file, std::string path, const wire::SessionId& session, const BootId& boot)
      : file_(std::move(file)), path_(std::move(path)), session_(session), boot_(boot) {}

  Fd file_;
  std::string path_;
  wire::SessionId session_;
  BootId boot_;
  RecordState state_ = RecordState::kUnknown;
};

/// What a host that is asked about a session can say.
struct Consultation {
  /// The process lives and has not come to an end: hand the connection to it, or say that there is
  /// no answer; `answer` says nothing.
  bool hand_over = false;
  pid_t owner = 0;  ///< Of the record, 0 when unknown; it may be gone or another process by now.
  Answer answer;
  /// Why the record could not be read; the answer is then kUnknown. Absent when there is none.
  std::optional<Error> problem;
};

/// Answers from the journal, for a process that is gone or has come to its end. A record of kReady
/// or kReceiving is turned into kDiscarded, under the lock, before it is answered. Any process, any
/// number at once.
[[nodiscard]] Consultation consult_journal(const std::string& runtime_dir,
                                           const wire::SessionId& session, const BootId& boot);

}  // namespace migrate::session
