#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "guest_page.hpp"

namespace migrate::rig {

// Checked memory of one kind. A page is written by one thread at a time; whoever checks it has
// stopped the writers.
class Area {
 public:
  Area(std::string kind, uint64_t first_number) : kind_(std::move(kind)), first_(first_number) {}
  virtual ~Area() = default;

  const std::string& kind() const { return kind_; }
  size_t pages() const { return pages_.size(); }
  // How many pages, from the first on, may be written.
  size_t writable() const { return writable_; }

  void Write(size_t page);
  bool IsRight(size_t page) const;
  // What this kind does between writes, once a tick, by one thread. `random` is any number.
  virtual void Change(uint64_t random) { (void)random; }

 protected:
  void Add(std::byte* base, size_t pages);
  void ClearGeneration(size_t page) { generations_[page] = 0; }
  void FillAll();

  std::vector<std::byte*> pages_;
  size_t writable_ = 0;

 private:
  std::string kind_;
  uint64_t first_;
  std::vector<uint32_t> generations_;
};

// The kinds' names, for who asks.
std::vector<std::string> AreaKinds();

// An area of `pages` pages, filled; null with the reason in `problem` where this host has none.
// Files are made in `folder`.
std::unique_ptr<Area> MakeArea(const std::string& kind, size_t pages, uint64_t first_number,
                               const std::string& folder, std::string* problem);

// Calls `bottom` with an area that lies in the calling thread's stack, as deep as it is large.
void WithStackArea(size_t pages, uint64_t first_number, void (*bottom)(std::unique_ptr<Area> area));

}  // namespace migrate::rig
