// Breadth-first over all states of a World.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <string>
#include <vector>

#include "tests/session/handover/world.hpp"

namespace migrate::session::model {

struct Exploration {
  Violation violation = Violation::kNone;
  std::string trace;  ///< The shortest way to the violation.
  std::size_t states = 0;
  std::size_t steps = 0;
  std::size_t settled = 0;
};

/// Numbers keys in the order in which they come. Open addressing: a look-up is two cache misses.
class KeyTable {
 public:
  struct Found {
    std::uint32_t number;
    bool is_new;
  };

  Found find_or_add(const Key& key) {
    if (2 * keys_.size() >= slots_.size()) grow();
    const std::uint64_t hash = hash_of(key);
    std::size_t at = hash % slots_.size();
    for (; slots_[at].number != kFree; at = (at + 1) % slots_.size()) {
      if (slots_[at].tag == tag_of(hash) && keys_[slots_[at].number] == key) {
        return {slots_[at].number, false};
      }
    }
    const auto number = static_cast<std::uint32_t>(keys_.size());
    slots_[at] = {tag_of(hash), number};
    keys_.push_back(key);
    return {number, true};
  }
  [[nodiscard]] const Key& operator[](std::uint32_t number) const { return keys_[number]; }
  [[nodiscard]] std::size_t size() const { return keys_.size(); }

 private:
  static constexpr std::uint32_t kFree = ~std::uint32_t{0};
  struct Slot {
    std::uint32_t tag = 0;
    std::uint32_t number = kFree;
  };

  static std::uint64_t hash_of(const Key& key) {
    std::uint64_t hash = 0;
    for (std::size_t i = 0; i < key.size(); i += 8) {
      std::uint64_t word;
      std::memcpy(&word, key.data() + i, 8);
      hash = (hash ^ word) * 0x9e3779b97f4a7c15ull;
      hash ^= hash >> 32;
    }
    return hash;
  }
  static std::uint32_t tag_of(std::uint64_t hash) { return static_cast<std::uint32_t>(hash >> 32); }

  void grow() {
    slots_.assign(std::max<std::size_t>(1 << 16, 2 * slots_.size()), Slot{});
    for (std::uint32_t number = 0; number < keys_.size(); ++number) {
      const std::uint64_t hash = hash_of(keys_[number]);
      std::size_t at = hash % slots_.size();
      while (slots_[at].number != kFree) at = (at + 1) % slots_.size();
      slots_[at] = {tag_of(hash), number};
    }
  }

  std::vector<Slot> slots_;
  std::vector<Key> keys_;
};

template <typename Rules>
class Explorer {
 public:
  explicit Explorer(const Config& config) : config_(config) {}

  /// Until the first violation, or through all states.
  Exploration run() {
    add(World<Rules>(config_), 0, Step{Step::Kind::kTick});
    std::vector<Step> steps;
    while (!frontier_.empty() && result_.violation == Violation::kNone) {
      const World<Rules> world = std::move(frontier_.front());
      frontier_.pop_front();
      world.steps(config_, steps);
      for (const Step& step : steps) {
        ++result_.steps;
        World<Rules> next = world.after(step);
        if (next.violation() != Violation::kNone) {
          result_.violation = next.violation();
          result_.trace = trace_to(expanding_, &step);
          break;
        }
        const std::uint32_t number = add(std::move(next), expanding_, step);
        if (step.fair && number != expanding_) exits_.push_back({number, expanding_});
      }
      ++expanding_;
    }
    if (result_.violation == Violation::kNone) find_dead_ends();
    result_.states = keys_.size();
    return result_;
  }

 private:
  struct Node {
    std::uint32_t parent;
    Step via;
  };
  struct Edge {
    std::uint32_t to, from;
  };

  std::uint32_t add(World<Rules>&& world, std::uint32_t parent, const Step& via) {
    const Key key = world.key();
    // Most of what arrives late changes nothing.
    if (keys_.size() > parent && key == keys_[parent]) return parent;
    const auto [number, is_new] = keys_.find_or_add(key);
    if (!is_new) return number;
    nodes_.push_back({parent, via});
    if (world.settled()) settled_.push_back(number);
    frontier_.push_back(std::move(world));
    return number;
  }

  /// A state from which a fair world cannot come to an end.
  void find_dead_ends() {
    result_.settled = settled_.size();
    std::vector<std::uint32_t> first(nodes_.size() + 1, 0);
    for (const Edge& edge : exits_) ++first[edge.to + 1];
    for (std::size_t i = 1; i < first.size(); ++i) first[i] += first[i - 1];
    std::vector<std::uint32_t> sources(exits_.size());
    std::vector<std::uint32_t> fill = first;
    for (const Edge& edge : exits_) sources[fill[edge.to]++] = edge.from;

    std::vector<bool> has_exit(nodes_.size(), false);
    std::vector<std::uint32_t> reached = settled_;
    for (const std::uint32_t node : reached) has_exit[node] = true;
    while (!reached.empty()) {
      const std::uint32_t node = reached.back();
      reached.pop_back();
      for (std::uint32_t i = first[node]; i < first[node + 1]; ++i) {
        if (has_exit[sources[i]]) continue;
        has_exit[sources[i]] = true;
        reached.push_back(sources[i]);
      }
    }
    for (std::uint32_t node = 0; node < nodes_.size(); ++node) {
      if (has_exit[node]) continue;
      result_.violation = Violation::kNoExit;
      result_.trace = trace_to(node, nullptr);
      return;
    }
  }

  std::string trace_to(std::uint32_t number, const Step* last) const {
    std::vector<Step> path;
    if (last != nullptr) path.push_back(*last);
    for (; number != 0; number = nodes_[number].parent) path.push_back(nodes_[number].via);
    World<Rules> world(config_);
    std::string text;
    for (auto step = path.rbegin(); step != path.rend(); ++step) {
      text += "  " + world.describe(*step) + "\n";
      world = world.after(*step);
      text += "      -> " + world.to_text() + "\n";
    }
    return text;
  }

  const Config config_;
  Exploration result_;
  KeyTable keys_;
  std::vector<Node> nodes_;
  std::deque<World<Rules>> frontier_;
  std::uint32_t expanding_ = 0;
  std::vector<Edge> exits_;
  std::vector<std::uint32_t> settled_;
};

}  // namespace migrate::session::model
