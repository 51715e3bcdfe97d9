#include "session/journal.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <type_traits>

#include "session/file_lock.hpp"

namespace migrate::session {
namespace {

/// The file's whole content. Read and written on one host only, so in its byte order.
struct Record {
  std::array<char, 8> magic;
  std::uint32_t state;
  std::uint32_t attempt;
  wire::SessionId session;
  BootId boot;
  std::int64_t lease_end_ns;
  std::int32_t pid;
  std::uint32_t reserved;
  std::uint64_t checksum;  ///< XXH3 of what is before it.
};
static_assert(std::is_trivially_copyable_v<Record> && sizeof(Record) == 72);
// A single record, no second slot to fall back on: when STARTING is unreadable, an older READY
// would be answered as DISCARDED.

constexpr std::array<char, 8> kMagic = {'M', 'I', 'G', 'J', 'R', 'N', 'L', '1'};

/// Held by the process of the guest, for as long as it lives.
constexpr std::int64_t kOwnerLock = 0;
/// Held while a record is consulted, so that two who consult do not take each other for the owner.
constexpr std::int64_t kConsultLock = 1;
/// To consult takes well under a millisecond; longer waits mean a stopped process.
constexpr std::chrono::milliseconds kConsultPatience{2'000};

/// A record of a process that is gone serves a source that is still in doubt, over a long weekend.
/// After that --resume needs --force. A record takes one page of memory.
constexpr std::chrono::hours kUsefulFor{4 * 24};

std::uint64_t checksum_of(const Record& record) {
  return XXH3_64bits(&record, offsetof(Record, checksum));
}

std::string folder_of(const std::string& runtime_dir) { return runtime_dir + "/sessions"; }
std::string path_of(const std::string& runtime_dir, const wire::SessionId& session) {
  return folder_of(runtime_dir) + "/" + to_text(session) + ".journal";
}

Status make_folder(const std::string& path) {
  if (mkdir(path.c_str(), 0700) == 0 || errno == EEXIST) return {};
  return make_errno_error(ErrorCode::kIo, errno, "cannot make the folder " + path)
      .advise("choose a runtime folder that can be written to");
}

Status write_record(int fd, const Record& record, const std::string& path) {
  const ssize_t written = pwrite(fd, &record, sizeof record, 0);
  if (written == static_cast<ssize_t>(sizeof record)) return {};
  return make_errno_error(ErrorCode::kIo, written < 0 ? errno : ENOSPC,
                          "cannot write the journal " + path)
      .advise("make room in the runtime folder");
}

Result<Record> read_record(int fd, const wire::SessionId& session, const std::string& path) {
  Record record{};
  const ssize_t got = pread(fd, &record, sizeof record, 0);
  if (got < 0) return make_errno_error(ErrorCode::kIo, errno, "cannot read the journal " + path);
  const char* flaw = nullptr;
  if (got != static_cast<ssize_t>(sizeof record)) {
    flaw = "is too short";
  } else if (record.magic != kMagic) {
    flaw = "is no journal of this version";
  } else if (record.checksum != checksum_of(record)) {
    flaw = "has a wrong checksum";
  } else if (record.session != session) {
    flaw = "is of another session";
  } else if (record.state < static_cast<std::uint32_t>(RecordState::kReceiving) ||
             record.state > static_cast<std::uint32_t>(RecordState::kWithdrawn)) {
    flaw = "has an unknown state";
  }
  if (flaw == nullptr) return record;
  return make_error(ErrorCode::kIntegrity, "the journal " + path + " " + flaw)
      .advise(
          "find out on this host whether the guest runs, then use migrate resolve at the source");
}

/// Removes `name` when its process is gone and it is too old to be asked for.
void remove_if_useless(int folder, const char* name, std::time_t now) {
  const Fd file(openat(folder, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  struct stat status = {};
  if (!file || fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) return;
  if (std::chrono::seconds(now - status.st_mtim.tv_sec) < kUsefulFor) return;
  // Whoever consults it meanwhile must not take this for the owner.
  const auto alone = try_lock_byte(file.get(), kConsultLock);
  if (!alone || !*alone) return;
  const auto gone = try_lock_byte(file.get(), kOwnerLock);
  if (gone && *gone) unlinkat(folder, name, 0);
}

void remove_useless(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(opendir(folder.c_str()), closedir);
  if (entries == nullptr) return;
  const std::time_t now = time(nullptr);
  while (const dirent* entry = readdir(entries.get())) {
    if (std::strstr(entry->d_name, ".journal") == nullptr) continue;
    remove_if_useless(dirfd(entries.get()), entry->d_name, now);
  }
}

}  // namespace

Result<Journal> Journal::create(const std::string& runtime_dir, const wire::SessionId& session,
                                const BootId& boot) {
  MIGRATE_TRY(make_folder(runtime_dir));
  MIGRATE_TRY(make_folder(folder_of(runtime_dir)));
  remove_useless(folder_of(runtime_dir));

  // Complete and locked before it gets its name: nobody ever sees it otherwise.
  const std::string path = path_of(runtime_dir, session);
  const std::string draft = path + "." + std::to_string(getpid());
  unlink(draft.c_str());
  Fd file(open(draft.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) {
    return make_errno_error(ErrorCode::kIo, errno, "cannot create the journal " + draft)
        .advise("choose a runtime folder that can be written to");
  }
  Journal journal(std::move(file), path, session, boot);
  const auto published = [&]() -> Status {
    MIGRATE_ASSIGN(const bool locked, try_lock_byte(journal.file_.get(), kOwnerLock));
    MIGRATE_CHECK(locked);
    MIGRATE_TRY(journal.record(RecordState::kReceiving, 0, nanoseconds::zero()));
    if (link(draft.c_str(), path.c_str()) == 0) return {};
    if (errno == EEXIST) {
      return make_error(ErrorCode::kBusy, "session " + to_text(session) + " was here before")
          .advise("start a new migration");
    }
    return make_errno_error(ErrorCode::kIo, errno, "cannot create the journal " + path);
  }();
  unlink(draft.c_str());
  if (!published) return published.error();
  return journal;
}

Status Journal::record(RecordState state, std::uint32_t attempt, nanoseconds lease_end) {
  MIGRATE_CHECK(file_.valid() && may_follow(state_, state));
  Record record{};
  record.magic = kMagic;
  record.state = static_cast<std::uint32_t>(state);
  record.attempt = attempt;
  record.session = session_;
  record.boot = boot_;
  record.lease_end_ns = lease_end.count();
  record.pid = getpid();
  record.checksum = checksum_of(record);
  MIGRATE_TRY(write_record(file_.get(), record, path_));
  state_ = state;
  return {};
}

void Journal::remove() noexcept {
  if (file_) unlink(path_.c_str());
  file_.reset();
}

namespace {

Consultation unreadable(Consultation consultation, Error problem) {
  consultation.answer.state = RecordState::kUnknown;
  consultation.problem = std::move(problem);
  return consultation;
}

/// With the consult lock held.
Consultation answer_from(int fd, const std::string& path, const wire::SessionId& session,
                         const BootId& boot, Consultation consultation) {
  const auto free = try_lock_byte(fd, kOwnerLock);
  if (!free) return unreadable(std::move(consultation), free.error());
  const bool owner_lives = !*free;
  auto record = read_record(fd, session, path);
  if (!record && owner_lives) {
    consultation.hand_over = true;  // It may be writing at this moment.
    return consultation;
  }
  if (!record) return unreadable(std::move(consultation), std::move(record).error());

  const auto recorded = static_cast<RecordState>(record->state);
  const Verdict verdict = judge<AllRules>(recorded, owner_lives, record->boot == boot);
  consultation.owner = record->pid;
  consultation.hand_over = verdict.hand_over;
  if (verdict.hand_over) return consultation;
  consultation.answer.process_lives = owner_lives;
  consultation.answer.attempt = record->attempt;
  consultation.answer.state = verdict.answer;
  if (verdict.record == recorded) return consultation;
  record->state = static_cast<std::uint32_t>(verdict.record);
  record->checksum = checksum_of(*record);
  if (Status written = write_record(fd, *record, path); !written) {
    return unreadable(std::move(consultation), std::move(written).error());
  }
  return consultation;
}

}  // namespace

Consultation consult_journal(const std::string& runtime_dir, const wire::SessionId& session,
                             const BootId& boot) {
  Consultation consultation;
  consultation.answer.boot = boot;
  consultation.answer.process_lives = false;
  const std::string path = path_of(runtime_dir, session);
  const Fd file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!file) {
    if (errno == ENOENT) return consultation;
    return unreadable(std::move(consultation),
                      make_errno_error(ErrorCode::kIo, errno, "cannot open the journal " + path)
                          .advise("run the listener as the user whose runtime folder it is"));
  }
  if (Status locked = lock_byte(file.get(), kConsultLock, kConsultPatience); !locked) {
    return unreadable(std::move(consultation), std::move(locked).error());
  }
  return answer_from(file.get(), path, session, boot, std::move(consultation));
}

}  // namespace migrate::session
