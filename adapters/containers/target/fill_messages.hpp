// What the filler and the process that it serves tell each other: one datagram a message, with
// descriptors. Nothing here needs a heap.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace migrate::containers {

enum class FillWord : std::uint32_t {
  // To the filler.
  kPlan = 1,  ///< Descriptors: the plan, the staging, cgroup.kill and cgroup.events.
  kSpace,     ///< The userfaultfd of process `value`; `id` names it.
  kRestored,  ///< The tree's memory map is as it will be; the tree does not run yet.
  kStarted,   ///< The tree runs, or is about to.
  kComplete,  ///< All of the staging is there.
  kFetched,   ///< What kFetch asked for is there now (id 1) or is not going to be (0).
  kClosed,    ///< The answer to kFilled: end.
  kQuit,      ///< There is no tree any more: end.
  // From it.
  kReady,   ///< First of all. `id`: its pid.
  kFetch,   ///< The page at `value` of the staging is waited for.
  kForked,  ///< A process has a child: its userfaultfd, named `id`.
  kGone,    ///< Process `id` has ended.
  kFilled,  ///< Nothing is missing any more. Everything is served until kClosed comes.
  kLost,    ///< Memory cannot be filled (`value`: the errno); the tree has been killed.
};

struct FillMessage {
  FillWord word{};
  std::uint32_t id = 0;
  std::uint64_t value = 0;
};

/// An extent of the plan: ascending by process and address.
struct PlannedExtent {
  std::uint64_t pid = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::uint64_t source = 0;
  std::uint64_t wiped = 0;  ///< 1: a child begins with zeros there.
};

constexpr std::size_t kFillDescriptorsMax = 4;

/// 0 or an errno. Without `wait` EAGAIN where the peer takes none now.
int send_fill_message(int socket, const FillMessage& message, std::span<const int> descriptors,
                      bool wait);

struct ReceivedFill {
  FillMessage message;
  std::array<int, kFillDescriptorsMax> descriptors{-1, -1, -1, -1};  ///< The caller's to close.
};
/// 0, an errno, or -1: the peer is gone. Without `wait` EAGAIN when there is none.
int receive_fill_message(int socket, ReceivedFill& into, bool wait);

}  // namespace migrate::containers
