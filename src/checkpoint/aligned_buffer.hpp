// AlignedBuffer: memory for blocks, as O_DIRECT wants it.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>

#include "checkpoint/image_format.hpp"
#include "migrate/result.hpp"

namespace migrate::checkpoint {

/// Grows, and then has lost what was in it.
class AlignedBuffer {
 public:
  /// At least `bytes`. kNoMemory.
  Status reserve(std::size_t bytes) {
    if (bytes <= bytes_) return {};
    bytes = aligned_up(bytes);
    memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kBlockAlign, bytes)));
    bytes_ = memory_ ? bytes : 0;
    if (memory_) return {};
    return make_error(ErrorCode::kNoMemory,
                      "no memory for " + std::to_string(bytes) + " bytes of an image")
        .advise("free memory on this host");
  }
  [[nodiscard]] std::span<std::byte> bytes() const { return {memory_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t bytes_ = 0;
};

}  // namespace migrate::checkpoint
