// A folder for images, and a fake CRIU that follows a script.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/containers/criu/criu_worker.hpp"
#include "base/fd.hpp"

namespace migrate::containers {

/// Long enough for a machine ten times slower; what a test waits for comes far earlier.
inline Deadline soon() { return std::chrono::steady_clock::now() + std::chrono::seconds(60); }

/// Sets FAKE_CRIU for its life, and has a folder that goes with it.
class CriuBed {
 public:
  explicit CriuBed(const std::string& script = "");
  ~CriuBed();
  CriuBed(const CriuBed&) = delete;
  CriuBed& operator=(const CriuBed&) = delete;

  /// To launch the fake by.
  [[nodiscard]] static CriuLaunch launch();
  /// Launched, which must succeed.
  [[nodiscard]] std::unique_ptr<CriuWorker> worker() const;
  [[nodiscard]] int images() const { return images_.get(); }
  [[nodiscard]] const std::string& folder() const { return folder_; }
  [[nodiscard]] CriuDump dump() const;
  [[nodiscard]] CriuRestore restore() const;
  /// The line of the fake's report that begins with `name`, without it.
  [[nodiscard]] std::string report(std::string_view name) const;

 private:
  std::string folder_;
  Fd images_;
};

/// Of 127.0.0.1, where nobody listens.
std::uint16_t free_port();

/// Answers every hook until the end, or an error; `refuse` with no. The hooks are added to `seen`.
Result<CriuEvent> run_to_end(CriuWorker& worker, const std::string& refuse = "",
                             std::vector<std::string>* seen = nullptr);

}  // namespace migrate::containers
