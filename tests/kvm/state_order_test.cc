// The orders of saving and loading hold all their reasons, and the checker would notice if not.
#include "adapters/kvm/state_order.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace migrate::kvm {
namespace {

struct Table {
  const char* name;
  std::vector<Part> order;
  std::vector<Edge> edges;
};

std::vector<Table> tables() {
  const auto vector_of = [](auto span) { return std::vector(span.begin(), span.end()); };
  return {{"save", vector_of(save_order()), vector_of(save_edges())},
          {"load", vector_of(load_order()), vector_of(load_edges())}};
}

TEST(StateOrder, HoldsEveryReason) {
  for (const Table& table : tables()) {
    const auto faults = order_faults(table.order, table.edges);
    EXPECT_TRUE(faults.empty()) << table.name << ": " << faults.front();
  }
}

TEST(StateOrder, CoversEveryPart) {
  EXPECT_EQ(load_order().size(), kPartCount);
  // TSC_DEADLINE is read with the other MSRs.
  EXPECT_EQ(save_order().size(), kPartCount - 1);
  EXPECT_EQ(std::count(save_order().begin(), save_order().end(), Part::kTscDeadline), 0);
}

TEST(StateOrder, APermutedOrderIsRefusedWithTheReason) {
  for (const Table& table : tables()) {
    for (const Edge& edge : table.edges) {
      std::vector<Part> permuted = table.order;
      std::swap(*std::find(permuted.begin(), permuted.end(), edge.before),
                *std::find(permuted.begin(), permuted.end(), edge.after));
      const auto faults = order_faults(permuted, table.edges);
      const bool named = std::any_of(faults.begin(), faults.end(), [&](const std::string& fault) {
        return fault.find(edge.reason) != std::string::npos &&
               fault.find(to_string(edge.before)) != std::string::npos;
      });
      EXPECT_TRUE(named) << table.name << ": " << to_string(edge.before) << " before "
                         << to_string(edge.after);
    }
  }
}

TEST(StateOrder, APartTwiceOrMissingIsRefused) {
  for (const Table& table : tables()) {
    std::vector<Part> twice = table.order;
    twice.push_back(Part::kRegs);
    EXPECT_FALSE(order_faults(twice, table.edges).empty());
    std::vector<Part> missing = table.order;
    missing.erase(std::find(missing.begin(), missing.end(), Part::kEvents));
    EXPECT_FALSE(order_faults(missing, table.edges).empty());
  }
}

TEST(StateOrder, RunsSplitWhereVmAndVcpusAlternate) {
  std::vector<std::size_t> lengths;
  ASSERT_TRUE(in_runs(load_order(), [&](std::span<const Part> run) -> Status {
    for (const Part part : run) EXPECT_EQ(of_vm(part), of_vm(run.front()));
    lengths.push_back(run.size());
    return {};
  }));
  EXPECT_EQ(lengths, (std::vector<std::size_t>{1, 15, 2}));
}

}  // namespace
}  // namespace migrate::kvm
