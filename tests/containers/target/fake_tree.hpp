// A process as a CRIU leaves it: its memory is missing, and a userfaultfd for it has been sent to
// lazy-pages.socket. Then it does what a test says, and ends with the number of what was wrong.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "adapters/containers/target/staged_memory.hpp"
#include "base/fd.hpp"

namespace migrate::containers {

inline constexpr std::uint64_t kFakeAddress = 0x2000'0000'0000;

/// What page `page` of the fake process holds: every seventh is zeros, every word of the others is
/// different.
[[nodiscard]] std::uint64_t word_of(std::uint64_t page, std::uint64_t word);
[[nodiscard]] bool is_right(const void* at, std::uint64_t page);
[[nodiscard]] bool is_zero(const void* at);
/// Writes that to the staging, as the engine would.
void stage(std::span<std::byte> memory);

class FakeProcess {
 public:
  struct Life {
    std::byte* memory;  ///< At kFakeAddress.
    std::uint64_t pages;
    /// Waits until the test has called go() once more.
    std::function<void()> wait;
    /// The test's note() sees it.
    std::function<void()> tell;
  };
  /// Born when this is made; to be made before there are threads. `live` returns how much was
  /// wrong. Nothing happens before connect().
  FakeProcess(std::uint64_t pages, std::function<int(const Life&)> live);
  ~FakeProcess();
  FakeProcess(const FakeProcess&) = delete;
  FakeProcess& operator=(const FakeProcess&) = delete;

  /// Gives its userfaultfd away on `folder`/lazy-pages.socket as process `pid`.
  void connect(const std::string& folder, pid_t pid);
  void go();
  /// False when it has not told within a minute.
  bool told();
  /// Until it has ended: what `live` returned; -1 where it had to be killed.
  int end();
  void kill();
  [[nodiscard]] pid_t pid() const { return pid_; }

 private:
  pid_t pid_ = 0;
  Fd socket_;
};

/// A region of `pages` pages at kFakeAddress, of space 0.
[[nodiscard]] Region fake_region(std::uint64_t pages);

}  // namespace migrate::containers
