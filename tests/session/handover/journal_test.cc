// The journal, with real processes that die.
#include "session/journal.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <list>
#include <vector>

#include "tests/session/handover/processes.hpp"

namespace migrate::session {
namespace {

using S = RecordState;
using test::Child;

BootId boot(int number) {
  BootId id;
  id.bytes[3] = static_cast<std::byte>(number);
  return id;
}

wire::SessionId session(int number) {
  wire::SessionId id;
  id.bytes[15] = static_cast<std::byte>(number);
  return id;
}

class JournalTest : public testing::Test {
 protected:
  /// A process that leads its journal through `states` and then stays, holding it.
  Child owner(const std::vector<S>& states) {
    return Child([this, states](const std::function<void()>& ready) -> int {
      Result<Journal> journal = Journal::create(folder_.path(), session(1), boot(1));
      if (!journal) return 1;
      for (const S state : states) {
        if (!journal->record(state, 3, nanoseconds(77))) return 2;
      }
      ready();
      test::sleep_for_ever();
    });
  }
  /// A journal whose process was killed after these states.
  void leave_behind(const std::vector<S>& states) {
    Child process = owner(states);
    ASSERT_TRUE(process.wait_ready());
    process.kill_hard();
  }
  Consultation consult(int boot_number = 1) {
    return consult_journal(folder_.path(), session(1), boot(boot_number));
  }
  [[nodiscard]] std::string path() const {
    return folder_.path() + "/sessions/" + to_text(session(1)) + ".journal";
  }

  test::TempFolder folder_;
};

TEST_F(JournalTest, ALivingProcessAnswersForItself) {
  for (const auto& states : std::vector<std::vector<S>>{{S::kReady}, {S::kReady, S::kStarting}}) {
    Child process = owner(states);
    ASSERT_TRUE(process.wait_ready());
    for (int again = 0; again < 2; ++again) {
      const Consultation said = consult();
      EXPECT_TRUE(said.hand_over);
      EXPECT_EQ(said.owner, process.pid());
      EXPECT_FALSE(said.problem.has_value());
    }
    process.kill_hard();
    std::filesystem::remove(path());
  }
}

TEST_F(JournalTest, WhatALivingProcessEndedWithIsAnsweredForIt) {
  Child process = owner({S::kReady, S::kStarting, S::kStarted});
  ASSERT_TRUE(process.wait_ready());
  const Consultation said = consult();
  EXPECT_FALSE(said.hand_over);
  EXPECT_EQ(said.answer.state, S::kStarted);
  EXPECT_TRUE(said.answer.process_lives) << "the guest is not lost";
}

TEST_F(JournalTest, ReadyOfADeadProcessIsDiscardedForGood) {
  leave_behind({S::kReady});
  for (int again = 0; again < 2; ++again) {
    const Consultation said = consult();
    EXPECT_FALSE(said.hand_over);
    EXPECT_EQ(said.answer.state, S::kDiscarded);
    EXPECT_EQ(said.answer.attempt, 3u);
    EXPECT_EQ(said.answer.boot, boot(1));
    EXPECT_FALSE(said.answer.process_lives);
  }
  // Also for a reader that knows of no conversion.
  EXPECT_EQ(consult(2).answer.state, S::kDiscarded);
}

TEST_F(JournalTest, AProcessThatDiesBeforeReadyLeavesDiscarded) {
  leave_behind({});
  EXPECT_EQ(consult().answer.state, S::kDiscarded);
}

TEST_F(JournalTest, StartingOfADeadProcessStaysStarting) {
  leave_behind({S::kReady, S::kStarting});
  EXPECT_EQ(consult().answer.state, S::kStarting);
  EXPECT_EQ(consult().answer.state, S::kStarting);
  EXPECT_FALSE(consult().answer.process_lives);
}

TEST_F(JournalTest, StartedIsAnsweredAfterTheGuestIsGone) {
  leave_behind({S::kReady, S::kStarting, S::kStarted});
  EXPECT_EQ(consult().answer.state, S::kStarted);
  EXPECT_EQ(consult(2).answer.state, S::kStarted);
}

TEST_F(JournalTest, WithdrawnIsAnsweredAsDiscarded) {
  leave_behind({S::kReady, S::kStarting, S::kWithdrawn});
  EXPECT_EQ(consult().answer.state, S::kDiscarded);
}

TEST_F(JournalTest, ReadyOfAnEarlierBootIsNoAnswer) {
  leave_behind({S::kReady});
  const Consultation said = consult(2);
  EXPECT_EQ(said.answer.state, S::kUnknown);
  EXPECT_EQ(said.answer.boot, boot(2)) << "which tells the source of the reboot";
  EXPECT_EQ(consult(1).answer.state, S::kDiscarded) << "and it was not touched";
}

TEST_F(JournalTest, NoRecordIsUnknownWithoutAProblem) {
  const Consultation said = consult();
  EXPECT_FALSE(said.hand_over);
  EXPECT_EQ(said.answer.state, S::kUnknown);
  EXPECT_EQ(said.answer.boot, boot(1));
  EXPECT_FALSE(said.problem.has_value());
}

TEST_F(JournalTest, EveryDamagedByteIsUnknownWithWords) {
  leave_behind({S::kReady});
  const auto size = std::filesystem::file_size(path());
  for (std::uintmax_t at = 0; at < size; ++at) {
    const Fd file(open(path().c_str(), O_RDWR | O_CLOEXEC));
    std::uint8_t byte = 0;
    ASSERT_EQ(pread(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
    const std::uint8_t flipped = byte ^ 0x10;
    ASSERT_EQ(pwrite(file.get(), &flipped, 1, static_cast<off_t>(at)), 1);
    const Consultation said = consult();
    EXPECT_EQ(said.answer.state, S::kUnknown) << "byte " << at;
    ASSERT_TRUE(said.problem.has_value()) << "byte " << at;
    EXPECT_EQ(said.problem->code, ErrorCode::kIntegrity);
    EXPECT_NE(said.problem->message.find(path()), std::string::npos);
    EXPECT_FALSE(said.problem->remedy.empty());
    ASSERT_EQ(pwrite(file.get(), &byte, 1, static_cast<off_t>(at)), 1);
  }
  EXPECT_EQ(consult().answer.state, S::kDiscarded) << "and mended it is as before";
}

TEST_F(JournalTest, EveryTruncatedRecordIsUnknown) {
  leave_behind({S::kReady, S::kStarting, S::kStarted});
  for (auto size = std::filesystem::file_size(path()); size-- > 0;) {
    std::filesystem::resize_file(path(), size);
    const Consultation said = consult();
    EXPECT_EQ(said.answer.state, S::kUnknown);
    EXPECT_TRUE(said.problem.has_value());
  }
}

TEST_F(JournalTest, ManyWhoConsultAtOnceAgree) {
  leave_behind({S::kReady});
  std::list<Child> readers;
  for (int i = 0; i < 8; ++i) {
    readers.emplace_back([this](const std::function<void()>&) -> int {
      for (int round = 0; round < 50; ++round) {
        const Consultation said = consult();
        if (said.hand_over) return 1;  // Took another reader for the owner.
        if (said.answer.state != S::kDiscarded) return 2;
      }
      return 0;
    });
  }
  for (Child& reader : readers) EXPECT_EQ(reader.wait(), 0);
}

TEST_F(JournalTest, WhileItsProcessDiesItIsHandedOverOrDiscardedNeverReady) {
  for (int round = 0; round < 20; ++round) {
    Child process = owner({S::kReady});
    ASSERT_TRUE(process.wait_ready());
    Child reader([this](const std::function<void()>& ready) -> int {
      ready();
      const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
      while (std::chrono::steady_clock::now() < end) {
        const Consultation said = consult();
        if (said.problem) return 1;
        if (said.hand_over) continue;
        return said.answer.state == S::kDiscarded ? 0 : 2;
      }
      return 3;
    });
    ASSERT_TRUE(reader.wait_ready());
    process.kill_hard();
    EXPECT_EQ(reader.wait(), 0);
    std::filesystem::remove(path());
  }
}

TEST_F(JournalTest, ASessionHasOneJournal) {
  Result<Journal> first = Journal::create(folder_.path(), session(1), boot(1));
  ASSERT_TRUE(first);
  const Result<Journal> second = Journal::create(folder_.path(), session(1), boot(1));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kBusy);
  EXPECT_TRUE(first->record(S::kReady, 1, nanoseconds(1))) << "the first one is unharmed";
  EXPECT_TRUE(Journal::create(folder_.path(), session(2), boot(1)));
}

TEST_F(JournalTest, ARemovedJournalLeavesNothing) {
  Result<Journal> journal = Journal::create(folder_.path(), session(1), boot(1));
  ASSERT_TRUE(journal);
  journal->remove();
  EXPECT_TRUE(std::filesystem::is_empty(folder_.path() + "/sessions"));
}

TEST_F(JournalTest, OnlyOldJournalsOfDeadProcessesAreCleared) {
  const auto age = [](const std::string& file) {
    const timespec times[2] = {{time(nullptr) - 5 * 24 * 3600, 0},
                               {time(nullptr) - 5 * 24 * 3600, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, file.c_str(), times, 0), 0);
  };
  Result<Journal> alive = Journal::create(folder_.path(), session(2), boot(1));
  ASSERT_TRUE(alive);
  age(alive->path());
  leave_behind({S::kReady});
  Result<Journal> recent = Journal::create(folder_.path(), session(3), boot(1));
  ASSERT_TRUE(recent) << "clears what is useless";
  EXPECT_TRUE(std::filesystem::exists(alive->path()));
  EXPECT_TRUE(std::filesystem::exists(path())) << "it may still be asked for";

  age(path());
  Result<Journal> other = Journal::create(folder_.path(), session(4), boot(1));
  ASSERT_TRUE(other);
  EXPECT_TRUE(std::filesystem::exists(alive->path()));
  EXPECT_FALSE(std::filesystem::exists(path()));
}

TEST_F(JournalTest, AFolderThatCannotBeMadeIsAnErrorWithARemedy) {
  const std::string file = folder_.path() + "/file";
  std::ofstream(file) << "x";
  const Result<Journal> journal = Journal::create(file, session(1), boot(1));
  ASSERT_FALSE(journal);
  EXPECT_NE(journal.error().message.find(file), std::string::npos);
  EXPECT_FALSE(journal.error().remedy.empty());
}

TEST_F(JournalTest, FoldersAndFilesAreTheOwnersOnly) {
  const std::string runtime = folder_.path() + "/run";
  Result<Journal> journal = Journal::create(runtime, session(1), boot(1));
  ASSERT_TRUE(journal);
  const auto mode = [](const std::string& file) {
    struct stat status = {};
    EXPECT_EQ(stat(file.c_str(), &status), 0);
    return status.st_mode & 0777;
  };
  EXPECT_EQ(mode(runtime), 0700u);
  EXPECT_EQ(mode(runtime + "/sessions"), 0700u);
  EXPECT_EQ(mode(journal->path()), 0600u);
}

TEST_F(JournalTest, StartingCannotBeForgotten) {
  Result<Journal> journal = Journal::create(folder_.path(), session(1), boot(1));
  ASSERT_TRUE(journal);
  ASSERT_TRUE(journal->record(S::kReady, 1, nanoseconds(1)));
  ASSERT_TRUE(journal->record(S::kStarting, 1, nanoseconds(1)));
  EXPECT_DEATH(static_cast<void>(journal->record(S::kDiscarded, 1, nanoseconds(0))), "may_follow");
}

/// It is written inside the downtime. Printed, not asserted: machines differ.
TEST_F(JournalTest, PrintsWhatARecordCosts) {
  test::TempFolder on_tmpfs("/dev/shm");
  Result<Journal> journal = Journal::create(on_tmpfs.path(), session(1), boot(1));
  ASSERT_TRUE(journal);
  constexpr int kRounds = 2000;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < kRounds; ++i) {
    ASSERT_TRUE(journal->record(S::kReceiving, static_cast<std::uint32_t>(i), nanoseconds(i)));
  }
  const std::chrono::duration<double, std::micro> took = std::chrono::steady_clock::now() - begin;
  std::printf("a record takes %.2f us\n", took.count() / kRounds);
}

}  // namespace
}  // namespace migrate::session
