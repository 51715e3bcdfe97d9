// What the data path is held to, each beside what was measured in the same run.
#pragma once

#include <string>
#include <vector>

#include "bench/transfer_matrix.hpp"

namespace migrate::bench {

/// One goal, measured.
struct Verdict {
  std::string goal;  ///< In words.
  double measured = 0;
  double bound = 0;
  bool at_most = false;  ///< `measured` shall be at most `bound`; else at least.
  [[nodiscard]] bool held() const { return at_most ? measured <= bound : measured >= bound; }
};

struct Findings {
  std::vector<Row> rows;
  std::vector<Verdict> verdicts;
  std::vector<std::string> notes;  ///< Figures without a goal.
};

struct GoalSetup {
  std::uint64_t memory_bytes = 2ull << 30;
  unsigned lanes = 2;
  unsigned repeats = 5;
  Strategy strategy = Strategy::kAuto;
};

/// Over loopback, beside the pump of the same run; what hashing costs, by the pump with and
/// without.
[[nodiscard]] Findings judge_raw(const GoalSetup& setup);
/// 8 GiB of zeros beside a zero scan on all cores.
[[nodiscard]] Findings judge_zeros(const GoalSetup& setup);
/// Every way of packing, over loopback.
[[nodiscard]] Findings judge_packing(const GoalSetup& setup);
/// `auto` beside the better of raw and zstd over links of 1 and 10 Gbit/s. Needs root.
[[nodiscard]] Findings judge_links(const GoalSetup& setup);
/// TLS beside the raw path of the same run and AES-GCM on one core of either side.
[[nodiscard]] Findings judge_tls(const GoalSetup& setup);
/// A guest that writes while it moves.
[[nodiscard]] Findings judge_writer(const GoalSetup& setup);
/// What is sent of pages of which 64 bytes changed.
[[nodiscard]] Findings judge_delta(const GoalSetup& setup);

}  // namespace migrate::bench
