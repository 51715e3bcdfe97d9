// RawArray: a growing array on the kernel's pages, for the filler: a process forked off one with
// threads may not use their heap.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>

namespace migrate::containers {

/// Of plain values. Methods that may need memory say whether there was any; nothing throws.
template <typename T>
class RawArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  RawArray() = default;
  ~RawArray() {
    if (data_ != nullptr) ::munmap(data_, bytes_);
  }
  RawArray(const RawArray&) = delete;
  RawArray& operator=(const RawArray&) = delete;

  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] bool empty() const { return size_ == 0; }
  T& operator[](std::size_t i) { return data_[i]; }
  const T& operator[](std::size_t i) const { return data_[i]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  [[nodiscard]] const T* begin() const { return data_; }
  [[nodiscard]] const T* end() const { return data_ + size_; }

  [[nodiscard]] bool push_back(T value) {
    if (!reserve(size_ + 1)) return false;
    data_[size_++] = value;
    return true;
  }
  /// Puts `count` values of `with` (not of this) in the place of [first, last).
  [[nodiscard]] bool replace(std::size_t first, std::size_t last, const T* with,
                             std::size_t count) {
    const std::size_t after = size_ - last;
    if (!reserve(first + count + after)) return false;
    if (after > 0) std::memmove(data_ + first + count, data_ + last, after * sizeof(T));
    if (count > 0) std::memcpy(data_ + first, with, count * sizeof(T));
    size_ = first + count + after;
    return true;
  }
  void erase(std::size_t at) { (void)replace(at, at + 1, nullptr, 0); }
  void clear() { size_ = 0; }

 private:
  bool reserve(std::size_t count) {
    if (count * sizeof(T) <= bytes_) return true;
    std::size_t bytes = bytes_ == 0 ? 4096 : bytes_ * 2;
    while (bytes < count * sizeof(T)) bytes *= 2;
    void* grown = bytes_ == 0 ? ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
                              : ::mremap(data_, bytes_, bytes, MREMAP_MAYMOVE);
    if (grown == MAP_FAILED) return false;
    data_ = static_cast<T*>(grown);
    bytes_ = bytes;
    return true;
  }

  T* data_ = nullptr;
  std::size_t size_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace migrate::containers
