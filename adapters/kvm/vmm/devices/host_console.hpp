// HostConsole: where a guest's serial port ends at the host.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>

#include "base/event_fd.hpp"
#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::vmm {

enum class ConsoleKind : std::uint8_t {
  kStandard = 1,  ///< Standard output, and input where it is asked for.
  kFile = 2,      ///< Appended to; no input.
  kTerminal = 3,  ///< A pseudo terminal that somebody may open, or nobody.
};

/// Output never waits: what the host does not take at once is dropped and counted, because a vCPU
/// stands behind it. Input comes from a thread of its own.
class HostConsole {
 public:
  struct Options {
    ConsoleKind kind = ConsoleKind::kStandard;
    std::string path;         ///< Of a file.
    bool takes_input = true;  ///< Of standard input; terminals always do, files never.
  };
  /// Takes what was typed and returns how much of it; the rest is offered again shortly after.
  using Input = std::function<std::size_t(std::span<const std::byte>)>;

  /// kPermission, kNotFound or kIo for a file that cannot be written, kIo without pseudo terminals.
  static Result<std::unique_ptr<HostConsole>> open(const Options& options);
  ~HostConsole();
  HostConsole(const HostConsole&) = delete;
  HostConsole& operator=(const HostConsole&) = delete;

  /// From vCPU threads, one at a time.
  void write(std::span<const std::byte> bytes);
  [[nodiscard]] std::uint64_t dropped_bytes() const { return dropped_bytes_.load(); }
  /// What to open to see a terminal's other end, such as "/dev/pts/3"; empty for the other kinds.
  [[nodiscard]] const std::string& terminal() const { return terminal_; }

  /// Begins to read input, once; what `input` refers to must outlive this. Does nothing for a
  /// console without.
  Status start_input(Input input);

 private:
  explicit HostConsole(EventFd stop) : stop_(std::move(stop)) {}
  Status open_file(const std::string& path);
  Status open_terminal();
  void read_input();
  bool offer(std::span<const std::byte> bytes);

  EventFd stop_;
  Fd own_;    ///< The file, or the terminal's near end; none for standard input and output.
  Fd other_;  ///< The terminal's far end, so that nobody's opening and closing it is an error here.
  int output_ = -1;
  int input_fd_ = -1;
  std::string terminal_;
  std::atomic<std::uint64_t> dropped_bytes_{0};
  Input input_;
  std::thread thread_;
};

}  // namespace migrate::vmm
