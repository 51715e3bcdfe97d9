#include "tools/migrate/report_json.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "tools/migrate/report_text.hpp"

namespace migrate::tool {
namespace {

std::vector<std::string> keys(const Json& json) {
  std::vector<std::string> names;
  for (const auto& [name, value] : json.items()) names.push_back(name);
  return names;
}

using Names = std::vector<std::string>;

Report full_report() {
  Report report;
  report.outcome = Outcome::kDone;
  report.strategy = "precopy";
  report.session = "0123456789abcdef0123456789abcdef";
  report.options = {{"max-downtime", "50ms"}, {"lanes", "2"}};
  report.guest = {"web", "vm", 2, 1u << 30, "running", "kvm-bitmap"};
  report.attempts = 1;
  report.total_ms = 1234.5;
  report.downtime_ms = 12.25;
  report.phases_ms.rounds = 1200;
  report.phases_ms.handover = 0.5;
  for (const double start_ms : {1.5, 801.5}) {
    RoundReport& round = report.rounds.emplace_back();
    round.round = static_cast<std::uint32_t>(report.rounds.size() - 1);
    round.start_ms = start_ms;
    round.pages = 1000;
    round.bytes = 4096000;
    round.ms = 800;
    round.dirty_after = 50;
    round.dirty_rate = 2e8;
    round.throttle = 0.5;
  }
  report.pages = {262144, 900, 100, 1, 2, 3, 4, 5, 6, 7};
  report.bytes = {1u << 30, 500u << 20};
  report.bandwidth_mib_s = 900;
  report.cpu_s = 1.5;
  report.predicted = {{11, 14}, {1200, 1300}};
  report.faults = {3, 20, 90, 120, 7, {1.5}};
  report.integrity = {"equal", "off", "equal"};
  report.missing = {3, {"0:0.0 4-5", "0:1.0 9-9"}};
  report.reconnects = {2, 310.5};
  report.capacity_mib_s = 119.5;
  report.failed_attempts = {{1, 900.5, 20.5, 31.5, "state-load", 77}};
  report.rounds.front().throttle_by_vcpu = {0.5, 0};
  report.rounds.front().hot_after = 12;
  report.rounds.front().predicted_downtime_ms = {9.5, 14.5};
  report.rounds.front().predicted_total_ms = {1300, 1500};
  return report;
}

TEST(ReportJson, HasTheKeysOfTheContractInTheirOrder) {
  const Json json = to_json(full_report(), {"Linux 6.1", "A processor"});
  EXPECT_EQ(
      keys(json),
      (Names{"schema",  "version",   "outcome",  "strategy",        "session",         "options",
             "guest",   "host",      "attempts", "total_ms",        "downtime_ms",     "phases_ms",
             "rounds",  "pages",     "bytes",    "bandwidth_mib_s", "cpu_s",           "predicted",
             "faults",  "integrity", "error",    "capacity_mib_s",  "failed_attempts", "reconnects",
             "missing", "takeover",  "forwarded"}));
  EXPECT_EQ(keys(json["host"]), (Names{"kernel", "cpu"}));
  EXPECT_EQ(keys(json["phases_ms"]),
            (Names{"setup", "rounds", "quiesce", "final_sync", "state_save", "final_pages",
                   "state_load", "handover", "start", "verify", "postcopy"}));
  EXPECT_EQ(keys(json["rounds"][0]),
            (Names{"round", "start_ms", "pages", "bytes", "ms", "dirty_after", "dirty_rate",
                   "throttle", "throttle_by_vcpu", "hot_after", "predicted"}));
  EXPECT_EQ(keys(json["pages"]), (Names{"total", "raw", "zero", "delta", "duplicate", "compressed",
                                        "unchanged", "redirtied", "demand", "pushed"}));
  EXPECT_EQ(keys(json["bytes"]), (Names{"guest", "wire"}));
  EXPECT_EQ(keys(json["predicted"]),
            (Names{"downtime_ms", "downtime_p95_ms", "total_ms", "total_p95_ms"}));
  EXPECT_EQ(keys(json["rounds"][0]["predicted"]), keys(json["predicted"]));
  EXPECT_EQ(keys(json["failed_attempts"][0]),
            (Names{"attempt", "start_ms", "stood_ms", "cost_ms", "phase", "pages"}));
  EXPECT_EQ(keys(json["faults"]),
            (Names{"count", "p50_us", "p99_us", "max_us", "local", "stall_ms"}));
  EXPECT_EQ(keys(json["missing"]), (Names{"pages", "ranges"}));
  EXPECT_EQ(keys(json["integrity"]), (Names{"digest", "full", "sampled"}));
  EXPECT_EQ(keys(json["reconnects"]), (Names{"count", "ms"}));
  EXPECT_TRUE(json["error"].is_null());
}

TEST(ReportJson, HasTheSameKeysWhateverTheOutcome) {
  const Names expected = keys(to_json(full_report(), {}));
  for (const Outcome outcome : {Outcome::kFailed, Outcome::kRefused, Outcome::kCancelled,
                                Outcome::kUncertain, Outcome::kLost}) {
    const Report report =
        report_of(outcome, Side::kSource, make_error(ErrorCode::kLinkLost, "gone"));
    const Json json = to_json(report, {});
    EXPECT_EQ(keys(json), expected);
    EXPECT_EQ(json["outcome"], to_string(outcome));
    EXPECT_EQ(keys(json["error"]), (Names{"code", "phase", "side", "message", "remedy"}));
    EXPECT_TRUE(json["downtime_ms"].is_null());
  }
}

TEST(ReportJson, SurvivesTheWayToAClient) {
  const Json json = to_json(full_report(), {});
  EXPECT_EQ(to_json(report_from_json(json), {}), json);
}

TEST(ReportJson, ErrorsSurviveTheWayToAClientWithTheirErrno) {
  const Error error = make_errno_error(ErrorCode::kIo, ENOSPC, "cannot write")
                          .advise("make room")
                          .at(Phase::kStateSave)
                          .on(Side::kTarget);
  const Error back = error_from_json(to_json(error));
  EXPECT_EQ(back.code, ErrorCode::kIo);
  EXPECT_EQ(back.phase, Phase::kStateSave);
  EXPECT_EQ(back.side, Side::kTarget);
  EXPECT_NE(back.message.find("No space left"), std::string::npos);
  EXPECT_EQ(back.remedy, "make room");
}

TEST(ReportJson, FiguresThatAreNoNumbersDoNotApply) {
  Report report;
  report.bandwidth_mib_s = std::numeric_limits<double>::infinity();
  report.predicted.total_ms.p50 = std::numeric_limits<double>::quiet_NaN();
  const Json json = to_json(report, {});
  EXPECT_EQ(json["bandwidth_mib_s"], 0);
  EXPECT_EQ(json["predicted"]["total_ms"], 0);
}

TEST(ReportJson, AnotherShapeIsReadAsFarAsItGoes) {
  const Report report = report_from_json(
      Json::parse(R"({"outcome":"done","total_ms":"soon","rounds":[1,{"round":7}],"pages":[]})"));
  EXPECT_EQ(report.outcome, Outcome::kDone);
  EXPECT_EQ(report.total_ms, 0);
  ASSERT_EQ(report.rounds.size(), 1u);
  EXPECT_EQ(report.rounds[0].round, 7u);
}

TEST(ReportText, SaysWhatHappenedAndWhatToDo) {
  Report report = full_report();
  report.error = make_error(ErrorCode::kLinkLost, "the link was lost").advise("try again");
  const std::string text = report_text(report);
  for (const char* word : {"done", "web", "12.2 ms", "round", "digest equal", "try again"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
  }
}

}  // namespace
}  // namespace migrate::tool
