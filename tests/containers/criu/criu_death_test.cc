// A CRIU that dies, wherever it is.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "tests/containers/criu/criu_bed.hpp"

namespace migrate::containers {
namespace {

using testing::HasSubstr;

class CriuDeath : public testing::TestWithParam<const char*> {};

TEST_P(CriuDeath, IsToldWithItsLastErrorWhereverItWas) {
  const std::string place = GetParam();
  const bool restores =
      place.find("restore") != std::string::npos || place.find("namespaces") != std::string::npos;
  const CriuBed bed("log=out_of_luck at=" + place + ":crash");
  auto worker = bed.worker();
  ASSERT_TRUE(restores ? worker->begin_restore(bed.restore()) : worker->begin_dump(bed.dump()));
  const auto event = run_to_end(*worker);
  ASSERT_FALSE(event);
  EXPECT_EQ(event.error().code, ErrorCode::kGuest) << event.error().to_text();
  EXPECT_THAT(event.error().message, HasSubstr("was killed by signal 9"));
  EXPECT_THAT(event.error().message, HasSubstr(": out of luck"));
}

INSTANTIATE_TEST_SUITE_P(Everywhere, CriuDeath,
                         testing::Values("begin", "pre-dump", "network-lock", "query-ext-files",
                                         "post-dump", "end", "pre-restore", "setup-namespaces",
                                         "post-restore"),
                         [](const auto& place) {
                           std::string name = place.param;
                           std::erase(name, '-');
                           return name;
                         });

TEST(CriuDeaths, AnEndWithoutAnAnswerIsToldWithItsStatus) {
  const CriuBed bed("at=query-ext-files:exit");
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  const auto event = run_to_end(*worker);
  ASSERT_FALSE(event);
  EXPECT_EQ(event.error().code, ErrorCode::kGuest);
  EXPECT_THAT(event.error().message, HasSubstr("ended with status 1"));
}

TEST(CriuDeaths, IsSeenThoughSomebodyElseHoldsTheSocket) {
  const CriuBed bed("at=post-dump:heir");
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  const auto event = run_to_end(*worker);
  ASSERT_FALSE(event);
  EXPECT_EQ(event.error().code, ErrorCode::kGuest) << event.error().to_text();
}

TEST(CriuDeaths, KillingFromAnotherThreadEndsTheWait) {
  const CriuBed bed("at=post-dump:silent");
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  std::thread other([&worker] { worker->kill(); });
  const auto event = run_to_end(*worker);
  other.join();
  ASSERT_FALSE(event);
  EXPECT_EQ(event.error().code, ErrorCode::kGuest);
  EXPECT_THAT(event.error().message, HasSubstr("was killed by signal 9"));
}

TEST(CriuDeaths, AnAnswerToTheDeadIsAnErrorAndNoSignal) {
  const CriuBed bed;
  auto worker = bed.worker();
  ASSERT_TRUE(worker->begin_dump(bed.dump()));
  ASSERT_TRUE(worker->next(soon()));
  worker->kill();
  // The answer may still be taken by a socket whose reader is not gone yet.
  Status answered = worker->answer(true);
  if (answered) {
    const auto event = run_to_end(*worker);
    ASSERT_FALSE(event);
    answered = event.error();
  }
  EXPECT_EQ(answered.error().code, ErrorCode::kGuest) << answered.error().to_text();
}

}  // namespace
}  // namespace migrate::containers
