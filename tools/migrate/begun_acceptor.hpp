// BegunAcceptor: gives out a channel that is there already, then those of another acceptor.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "migrate/channel.hpp"

namespace migrate::tool {

class BegunAcceptor final : public Acceptor {
 public:
  BegunAcceptor(std::unique_ptr<Channel> first, std::unique_ptr<Acceptor> others)
      : first_(std::move(first)), others_(std::move(others)) {}

  Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) override {
    if (first_ != nullptr) return std::move(first_);
    return others_->accept(timeout);
  }
  void interrupt() noexcept override { others_->interrupt(); }
  [[nodiscard]] std::string address() const override { return others_->address(); }

 private:
  std::unique_ptr<Channel> first_;  // Of the accepting thread.
  const std::unique_ptr<Acceptor> others_;
};

}  // namespace migrate::tool
