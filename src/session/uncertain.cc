#include "session/uncertain.hpp"

#include <utility>

namespace migrate::session {
namespace {

using Kind = SourceEvent::Kind;

class Handle final : public UncertainHandover {
 public:
  explicit Handle(std::unique_ptr<SourceDriver> driver) : driver_(std::move(driver)) {}

  const std::string& session() const override { return driver_->keys().id_text; }

  Status resume(Connector& connector, bool force) override {
    return resolve(connector, Kind::kOperatorResume, force, SourceState::kKept);
  }
  Status release(Connector& connector, bool force) override {
    return resolve(connector, Kind::kOperatorRelease, force, SourceState::kReleased);
  }

 private:
  Status resolve(Connector& connector, Kind wish, bool force, SourceState wanted) {
    driver_->use(connector);
    SourceEvent event = driver_->event(wish);
    event.force = force;
    driver_->drive(event);
    driver_->settle();
    // The target runs the guest and may need pages that are only here; nobody serves them any more.
    if (driver_->machine().state() == SourceState::kServing) {
      driver_->drive(Kind::kServeWindowOver);
    }
    if (driver_->machine().state() == wanted) return {};
    const Refusal refusal = driver_->refusal();
    Error error =
        make_error(ErrorCode::kUncertain,
                   std::string(refusal == Refusal::kNone ? to_text(driver_->machine().doubt())
                                                         : to_text(refusal)));
    if (driver_->error()) error.message += " (" + driver_->error()->message + ")";
    return std::move(error)
        .advise("see on the target's host (`migrate ps`) whether the guest runs there")
        .at(Phase::kHandover)
        .on(Side::kSource);
  }

  std::unique_ptr<SourceDriver> driver_;
};

}  // namespace

std::unique_ptr<UncertainHandover> make_uncertain(std::unique_ptr<SourceDriver> driver) {
  return std::make_unique<Handle>(std::move(driver));
}

}  // namespace migrate::session
