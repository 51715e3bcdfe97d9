// FillerLoop: what the filler does, in the process that it is. Uses no heap.
#pragma once

#include <linux/userfaultfd.h>
#include <poll.h>
#include <time.h>

#include <cstddef>
#include <cstdint>

#include "adapters/containers/target/fill_messages.hpp"
#include "adapters/containers/target/fill_table.hpp"
#include "adapters/containers/target/raw_array.hpp"
#include "adapters/containers/target/staging_view.hpp"
#include "adapters/containers/target/uffd_calls.hpp"

namespace migrate::containers {

/// The memory of one process.
struct FillSpace {
  std::uint32_t id = 0;
  std::uint64_t pid = 0;  ///< As the plan has it; 0 for children since.
  int uffd = -1;          ///< -1 once the process is gone.
  /// Of a process and its children: whose content is staged only once.
  std::uint32_t family = 0;
  FillTable table;
};

inline std::int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

/// Who waited for a page a moment ago is likely to wait for the next one soon.
inline constexpr std::int64_t kFaultingNs = 2'000'000;

class FillerLoop {
 public:
  explicit FillerLoop(int socket) : socket_(socket) {}
  /// Until there is nothing to do any more; what the process exits with.
  int run();

 private:
  /// A thread of the tree waits for a page of the staging that is not there yet.
  struct Waiting {
    std::uint32_t space;  // Index.
    std::uint64_t address;
    std::uint64_t source;
  };

  // filler_loop.cc: the other process.
  void take_messages();
  void take(ReceivedFill& received);
  void take_plan(ReceivedFill& received);
  void take_space(const FillMessage& message, int uffd);
  void other_is_gone();
  void say(FillWord word, std::uint32_t id, std::uint64_t value, int descriptor = -1);
  [[nodiscard]] bool may_fill() const { return started_ && complete_ && !told_filled_; }
  [[nodiscard]] bool may_warm() const { return restored_ && !started_ && !warm_; }
  void finish();
  void lose(int error);
  int poll_all(std::int64_t timeout_ns);
  [[nodiscard]] std::int64_t wait_ns() const;

  // filler_events.cc: what the processes do.
  void take_events(std::uint32_t index);
  void take_event(std::uint32_t index, const uffd_msg& message);
  void forked(std::uint32_t index, int uffd);
  void serve(std::uint32_t index, std::uint64_t address);
  void fetch(std::uint32_t index, std::uint64_t address, std::uint64_t source);
  void fetched(std::uint64_t source, bool there);
  void serve_all_again();

  // filler_fill.cc: filling.
  void fill_piece();
  void warm_piece();
  [[nodiscard]] FillSpace* space_of(std::uint64_t pid);
  std::uint32_t pick_space();
  std::uint64_t fill_run(FillSpace& space, std::uint64_t address, std::uint64_t source,
                         std::uint64_t bytes);
  void give_back(const FillSpace& space, const FillExtent& piece);
  bool settle(FillSpace& space, int error, std::uint64_t address);
  void gone(FillSpace& space);
  [[nodiscard]] bool all_filled() const;
  FillSpace* add_space(std::uint32_t id, int uffd, std::uint32_t family);

  int socket_;
  int kill_ = -1;
  int events_ = -1;
  StagingView staging_;
  const PlannedExtent* plan_ = nullptr;
  std::size_t planned_ = 0;
  RawArray<FillSpace*> spaces_;
  RawArray<pollfd> polled_;
  RawArray<Waiting> waiting_;
  std::uint32_t next_fork_ = 1u << 30;  // Names of children, apart from the other process's.
  bool restored_ = false;
  bool started_ = false;
  bool complete_ = false;
  bool told_filled_ = false;
  bool alone_ = false;
  bool ended_ = false;
  int status_ = 0;
  // Where filling goes on: behind the last fault.
  std::uint32_t cursor_space_ = 0;
  std::uint64_t cursor_ = 0;
  std::int64_t faulted_ns_ = 0;   // When a thread last waited for a page.
  bool warm_ = false;             // All is there that is filled before the start.
  std::size_t warm_at_ = 0;       // Extent of the plan.
  std::uint64_t warm_done_ = 0;   // Bytes of its end, or of all of it, that are dealt with.
  bool stuck_ = false;            // The last piece could not go on yet.
  std::uint64_t starved_ms_ = 0;  // For how long in one go there has been no memory.
};

}  // namespace migrate::containers
