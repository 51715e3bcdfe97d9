// ForwardingSource: a SourceGuest that is another one, with something done beside.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "migrate/guest.hpp"

namespace migrate::tool {

class ForwardingSource : public SourceGuest {
 public:
  explicit ForwardingSource(std::unique_ptr<SourceGuest> inner) : inner_(std::move(inner)) {}

  Result<GuestDescription> describe() override { return inner_->describe(); }
  PageSource& pages() override { return inner_->pages(); }
  DirtyTracker& tracker() override { return inner_->tracker(); }
  RunState run_state() override { return inner_->run_state(); }
  Result<PauseResult> pause() override { return inner_->pause(); }
  std::optional<SwitchoverCost> expected_cost() override { return inner_->expected_cost(); }
  Status resume() override { return inner_->resume(); }
  Status save_state(StateWriter& writer) override { return inner_->save_state(writer); }
  Status throttle(std::uint32_t vcpu, double share) override {
    return inner_->throttle(vcpu, share);
  }
  Status relinquish() override { return inner_->relinquish(); }
  void committing() override { inner_->committing(); }
  Status reclaim() override { return inner_->reclaim(); }
  Status release() override { return inner_->release(); }
  Status first_pages(PageBitmap& pages) override { return inner_->first_pages(pages); }
  Status release_pages(const RegionId& region, PageRange range) override {
    return inner_->release_pages(region, range);
  }
  PacketSource* waiting_packets() override { return inner_->waiting_packets(); }

 protected:
  const std::unique_ptr<SourceGuest> inner_;
};

}  // namespace migrate::tool
