// A client's and a guest's network namespace, joined by a pair of interfaces: the one that a
// host would have ("port", in `host`) and the guest's ("eth0").
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "adapters/containers/network/link_peer.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"
#include "tests/net-takeover/net_space.hpp"

namespace migrate::containers {

inline constexpr const char* kGuestIp = "10.79.0.2";
inline constexpr std::uint16_t kPort = 8000;

class PairTest : public ::testing::Test {
 protected:
  void SetUp() override;
  /// A fresh descriptor of a namespace.
  static Fd space(const testing::NetSpace& of);
  /// Of the guest's end, as the host sees it.
  LinkPeer peer() const;
  /// UDP, numbered from `first` on: the client's to the guest.
  void send_numbers(int first, int count, std::size_t bytes = 64) const;
  /// A socket of the guest's that gets them.
  Fd open_receiver() const;
  /// What has come to it, all of it that comes before it is silent for a while when `count` is
  /// there.
  static std::vector<int> numbers_at(const Fd& receiver, std::size_t count);
  /// Filters and their places at an interface.
  static std::string filters(const testing::NetSpace& at, const std::string& name);

  testing::NetSpace host_;
  testing::NetSpace guest_;
};

/// Fails the test where it does not hold before long.
void expect_soon(const std::function<bool()>& holds, const std::string& what);
std::vector<int> numbers(int first, int count);

}  // namespace migrate::containers
