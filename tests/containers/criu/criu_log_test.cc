#include "adapters/containers/criu/criu_log.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace migrate::containers {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(CriuLog, ErrorsAreTheLastOnesWithoutNoise) {
  const std::string log =
      "Warn  (criu/kerndat.c:1103): $XDG_RUNTIME_DIR not set\n"
      "Error (criu/a.c:1): first\n"
      "(00.012)      7: Error (criu/sk-tcp.c:99): inet: Connected TCP socket\n"
      "pie: 12: Error (criu/b.c:2): third \n"
      "Error (criu/b.c:3): third\n"
      "Error (criu/cr-dump.c:2112): Dumping FAILED.\n";
  EXPECT_THAT(criu_errors(log, 2), ElementsAre("inet: Connected TCP socket", "third"));
  EXPECT_THAT(criu_errors(log, 9), ElementsAre("first", "inet: Connected TCP socket", "third"));
}

TEST(CriuLog, LinesWithoutAnErrorOrWithoutAnEndGiveNone) {
  EXPECT_THAT(criu_errors("", 3), IsEmpty());
  EXPECT_THAT(criu_errors("\n\n", 3), IsEmpty());
  EXPECT_THAT(criu_errors("Error (criu/a.c", 3), IsEmpty());
  EXPECT_THAT(criu_errors("Error (criu/a.c:1): ", 3), IsEmpty());
}

TEST(CriuLog, AGuestsNamesCannotWriteToTheTerminal) {
  EXPECT_THAT(criu_errors("Error (a.c:1): file \x1b[2J\x07", 3), ElementsAre("file ?[2J?"));
  EXPECT_EQ(criu_errors("Error (a.c:1): " + std::string(5000, 'x'), 1).at(0).size(), 300u);
}

}  // namespace
}  // namespace migrate::containers
