// ReaderPool: readers of one chain, lent to whoever reads for a while.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "base/mutex.hpp"
#include "checkpoint/image_chain.hpp"

namespace migrate::checkpoint {

/// Any thread. As many are made as are lent at a time.
class ReaderPool {
 public:
  explicit ReaderPool(std::shared_ptr<const ImageChain> chain) : chain_(std::move(chain)) {
    idle_.reserve(kIdleMax);
  }

  class Loan {
   public:
    Loan(ReaderPool& pool, std::unique_ptr<ImageReader> reader)
        : pool_(&pool), reader_(std::move(reader)), read_before_(reader_->bytes_read()) {}
    Loan(Loan&&) = default;
    Loan& operator=(Loan&&) = delete;
    ~Loan() {
      if (reader_ != nullptr) pool_->give_back(std::move(reader_), read_before_);
    }
    ImageReader* operator->() const { return reader_.get(); }

   private:
    ReaderPool* pool_;
    std::unique_ptr<ImageReader> reader_;
    std::uint64_t read_before_;
  };
  Result<Loan> take() MIGRATE_EXCLUDES(mutex_) {
    std::unique_ptr<ImageReader> reader;
    {
      const MutexLock lock(mutex_);
      if (!idle_.empty()) {
        reader = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (reader == nullptr) {
      MIGRATE_ASSIGN(reader, ImageReader::create(chain_));
    }
    return Loan(*this, std::move(reader));
  }
  [[nodiscard]] const ImageChain& chain() const { return *chain_; }
  /// By readers that have been given back.
  [[nodiscard]] std::uint64_t bytes_read() MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    return bytes_read_;
  }

 private:
  void give_back(std::unique_ptr<ImageReader> reader, std::uint64_t read_before)
      MIGRATE_EXCLUDES(mutex_) {
    const MutexLock lock(mutex_);
    bytes_read_ += reader->bytes_read() - read_before;
    if (idle_.size() < kIdleMax) idle_.push_back(std::move(reader));
  }
  static constexpr std::size_t kIdleMax = 32;

  const std::shared_ptr<const ImageChain> chain_;
  Mutex mutex_;
  std::vector<std::unique_ptr<ImageReader>> idle_ MIGRATE_GUARDED_BY(mutex_);
  std::uint64_t bytes_read_ MIGRATE_GUARDED_BY(mutex_) = 0;
};

}  // namespace migrate::checkpoint
