// Instead of a last round: what is dirty follows the guest by post-copy.
#include <utility>

#include "precopy/rounds.hpp"
#include "precopy/void_pages.hpp"

namespace migrate::precopy {

const PageBitmap& Rounds::begin_lazy(const Widen& widen) {
  PageBitmap set = std::exchange(set_, PageBitmap(set_.regions()));
  widen(set);
  lazy_set_ = PageBitmap(set.regions());
  // Its lanes have another trade from now on.
  context_.senders = nullptr;
  make_lazy(set);
  return lazy_set_;
}

Result<PageBitmap> Rounds::finish_lazy(const Widen& widen) {
  stable_ = true;
  final_ = {};
  if (tracking_) MIGRATE_TRY(collect());
  final_.collect = tracking_ ? last_collect_ : nanoseconds{0};
  auto regions = context_.pages.regions();
  if (!regions) return std::move(regions).error().on(Side::kSource);
  if (*regions != set_.regions()) {
    return make_error(ErrorCode::kUnsupported,
                      "regions of the guest's memory came or went as it was about to leave")
        .on(Side::kSource)
        .advise("the guest goes on here; send it again");
  }
  PageBitmap fresh = std::exchange(set_, PageBitmap(*regions));
  fresh.subtract(lazy_set_);
  widen(fresh);
  fresh.subtract(lazy_set_);
  make_lazy(fresh);
  holes_.merge(lazy_set_);
  return fresh;
}

void Rounds::make_lazy(const PageBitmap& set) {
  digest_ -= take_void(context_.ledger, context_.digest, set);
  holes_.subtract(set);
  lazy_set_.merge(set);
}

}  // namespace migrate::precopy
