// What a tree writes to pipes whose readers stayed at its source: read here, so that it can go on
// writing.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/fd.hpp"
#include "migrate/result.hpp"

namespace migrate::containers {

/// Standard output and standard error are two; CRIU is given as many before it is known how many
/// there are.
inline constexpr std::size_t kOutputsMax = 8;

struct OutputPipes {
  std::vector<Fd> read_ends;
  std::vector<Fd> write_ends;
};
[[nodiscard]] Result<OutputPipes> make_output_pipes();

/// Appends to a file what comes from the pipes, in a thread of its own, until this is destroyed.
/// From then on who writes to them gets SIGPIPE.
class OutputReader {
 public:
  /// `file`: -1 throws it all away.
  static Result<std::unique_ptr<OutputReader>> begin(std::vector<Fd> pipes, Fd file);
  ~OutputReader();
  OutputReader(const OutputReader&) = delete;
  OutputReader& operator=(const OutputReader&) = delete;

 private:
  OutputReader(std::vector<Fd> pipes, Fd file, Fd stop)
      : pipes_(std::move(pipes)), file_(std::move(file)), stop_(std::move(stop)) {}
  void run();
  /// False at its end.
  bool take_from(const Fd& pipe);

  std::vector<Fd> pipes_;
  Fd file_;
  Fd stop_;
  std::thread thread_;
};

/// The file that output is appended to, made where it is not there; an empty name: none.
[[nodiscard]] Result<Fd> open_output(const std::string& path);

}  // namespace migrate::containers
