#include "adapters/kvm/vmm/devices/frame_backlog.hpp"

#include <utility>

namespace migrate::vmm {

bool FrameBacklog::put(std::span<const std::byte> frame) {
  MutexLock lock(mutex_);
  if (frames_.size() == kFramesMax || frame.size() > kBytesMax - bytes_) return false;
  frames_.emplace_back(frame.begin(), frame.end());
  bytes_ += frame.size();
  return true;
}

bool FrameBacklog::take(std::vector<std::byte>& frame) {
  MutexLock lock(mutex_);
  if (frames_.empty()) return false;
  frame = std::move(frames_.front());
  frames_.pop_front();
  bytes_ -= frame.size();
  return true;
}

}  // namespace migrate::vmm
