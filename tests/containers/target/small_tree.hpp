// A small process tree, dumped by a real CRIU, with its memory and its images as a source sends
// them.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/fd.hpp"
#include "migrate/containers.hpp"
#include "migrate/guest.hpp"

namespace migrate::containers {

/// Sections that have come, as the engine gives them.
class SectionList final : public StateReader {
 public:
  std::vector<std::pair<SectionInfo, std::vector<std::byte>>> sections;

  void rewind() { next_ = 0; }
  Result<std::optional<SectionInfo>> next() override;
  [[nodiscard]] std::uint64_t remaining() const override;
  Status read(std::span<std::byte> into) override;

 private:
  std::size_t next_ = 0;
  std::size_t read_ = 0;
};

/// Two processes that check memory over and over and count that in a file.
class SmallTree {
 public:
  /// `folder` is on a tmpfs. Starts it; it runs until dump().
  explicit SmallTree(std::string folder);
  ~SmallTree();
  SmallTree(const SmallTree&) = delete;
  SmallTree& operator=(const SmallTree&) = delete;

  /// Stops and dumps it: it is no more. Its processes arrive stopped: wake() them.
  Status dump(const CriuProgram& criu);
  void wake() const;

  [[nodiscard]] GuestDescription description() const;
  /// Its memory, to the sink of a target that has been prepared.
  Status send_memory(PageSink& sink) const;
  SectionList state;

  struct Figures {
    std::uint64_t checks[2] = {0, 0};
    std::uint64_t wrong = 0;
  };
  /// As the tree counts.
  [[nodiscard]] Figures figures() const;
  /// Until both processes have gone on from `before`; false when they do not.
  [[nodiscard]] bool goes_on_from(const Figures& before) const;
  [[nodiscard]] const std::vector<pid_t>& pids() const { return pids_; }

 private:
  struct Memory {
    Region region;
    std::vector<std::byte> content;
  };
  Status copy_memory();
  Status take_images(const CriuProgram& criu);

  std::string folder_;
  std::string version_;
  std::vector<pid_t> pids_;
  std::vector<Memory> memory_;
  bool runs_ = false;
};

}  // namespace migrate::containers
