// HeldFile: a file whose direct reads complete when the test says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <future>
#include <string>
#include <thread>

#include "base/fd.hpp"

namespace migrate::testing {

/// A file system of one file, served by a thread of this test (FUSE, mounted nowhere). Reads are
/// direct I/O: the kernel pins the reader's pages, asks this server, and puts the answer into the
/// pinned pages. A read of any length is answered with one page of `kFill` bytes.
class HeldFile {
 public:
  static constexpr std::byte kFill{0x5a};

  HeldFile();
  ~HeldFile();
  HeldFile(const HeldFile&) = delete;
  HeldFile& operator=(const HeldFile&) = delete;

  /// Why this host has no such file; empty when it has.
  [[nodiscard]] const std::string& why_not() const { return why_not_; }
  [[nodiscard]] int fd() const { return file_.get(); }

  /// Returns when a read has pinned its pages and waits for its content; false if none comes.
  bool wait_for_read();
  /// Lets it complete.
  void answer();

 private:
  void serve();
  void reply(std::uint64_t unique, int error, const void* body, std::size_t bytes);

  Fd device_;
  Fd mount_;
  Fd file_;
  std::string why_not_;
  std::promise<void> pinned_;
  std::promise<void> answered_;
  std::thread server_;
};

}  // namespace migrate::testing
