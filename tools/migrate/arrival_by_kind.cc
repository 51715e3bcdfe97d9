#include "arrival_by_kind.hpp"

#include <utility>

#include "forwarding_target.hpp"

namespace migrate::tool {
namespace {

/// Is nobody until it has heard what comes.
class TargetByKind final : public ForwardingTarget {
 public:
  TargetByKind(std::unique_ptr<TargetGuest> vm, std::unique_ptr<TargetGuest> container)
      : ForwardingTarget(nullptr), vm_(std::move(vm)), container_(std::move(container)) {}

  Status prepare(const GuestDescription& description) override {
    const bool vm = description.kind == GuestKind::kVm;
    inner_ = std::move(vm ? vm_ : container_);
    return inner_->prepare(description);
  }
  void discard() override {
    if (inner_) inner_->discard();
  }
  /// Asked before it is known what comes.
  PacketSink* packet_sink() override {
    const bool some = (vm_ && vm_->packet_sink() != nullptr) ||
                      (container_ && container_->packet_sink() != nullptr);
    return inner_ || some ? &sink_ : nullptr;
  }

 private:
  /// Of whoever it turns out to be, who may have none.
  class Sink final : public PacketSink {
   public:
    explicit Sink(std::unique_ptr<TargetGuest>& guest) : guest_(guest) {}
    void source_stands() override {
      if (PacketSink* const sink = guest_->packet_sink()) sink->source_stands();
    }
    bool deliver(const GuestFrame& frame) override {
      PacketSink* const sink = guest_->packet_sink();
      return sink != nullptr && sink->deliver(frame);
    }

   private:
    std::unique_ptr<TargetGuest>& guest_;
  };

  Sink sink_{inner_};
  std::unique_ptr<TargetGuest> vm_;
  std::unique_ptr<TargetGuest> container_;
};

}  // namespace

std::unique_ptr<TargetGuest> ArrivalByKind::make_target(std::function<void()> on_discard) {
  return std::make_unique<TargetByKind>(vm_ ? vm_->make_target(on_discard) : nullptr,
                                        container_ ? container_->make_target(on_discard) : nullptr);
}

Result<std::unique_ptr<HostedGuest>> ArrivalByKind::make_guest(const GuestDescription& description,
                                                               const std::string& name) {
  chosen_ = of_kind(description.kind);
  if (chosen_ != nullptr) return chosen_->make_guest(description, name);
  return make_error(
             ErrorCode::kIncompatible,
             "guests of kind " + std::string(to_string(description.kind)) + " are not taken here")
      .advise(description.kind == GuestKind::kVm
                  ? "add vm to the --accept of `migrate recv`"
                  : "start `migrate recv` with --accept container, for sources that are trusted "
                    "with root: a container arrives by running what its source sends");
}

std::vector<vmm::NetConfig> ArrivalByKind::cards(const GuestDescription& description) const {
  Arrival* const arrival = of_kind(description.kind);
  return arrival != nullptr ? arrival->cards(description) : std::vector<vmm::NetConfig>();
}

}  // namespace migrate::tool
