#include "postcopy/lazy_source.hpp"

#include <utility>

#include "base/guarded.hpp"
#include "postcopy/source_lanes.hpp"
#include "postcopy/source_work.hpp"

namespace migrate::postcopy {

class LazySource::Impl {
 public:
  Impl(Context context, const Work& work) : context_(std::move(context)), work_(context_, work) {}

  Status attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                std::unique_ptr<RecordChannel> urgent, std::uint32_t round) {
    MIGRATE_CHECK(lanes_ == nullptr);
    lanes_ =
        std::make_unique<SourceLanes>(context_, work_, std::move(bulk), std::move(urgent), round);
    Status started = lanes_->start();
    if (!started) lanes_.reset();
    return started;
  }
  void detach() { lanes_.reset(); }
  [[nodiscard]] bool attached() const { return lanes_ != nullptr; }
  SourceWork& work() { return work_; }

 private:
  const Context context_;
  SourceWork work_;
  std::unique_ptr<SourceLanes> lanes_;
};

LazySource::LazySource(Context context, Work work)
    : impl_(std::make_unique<Impl>(std::move(context), work)) {}
LazySource::~LazySource() = default;

Status LazySource::attach(std::vector<std::unique_ptr<RecordChannel>> bulk,
                          std::unique_ptr<RecordChannel> urgent, std::uint32_t round) {
  return guarded([&] { return impl_->attach(std::move(bulk), std::move(urgent), round); });
}

void LazySource::stands(const PageBitmap& missing) { impl_->work().stands(missing); }
void LazySource::lead(const PageBitmap& first) { impl_->work().lead(first); }
void LazySource::push() { impl_->work().open(); }
void LazySource::detach() { impl_->detach(); }

void LazySource::still_missing(const PageBitmap& missing) {
  MIGRATE_CHECK(!impl_->attached());
  impl_->work().set_missing(missing);
}

std::optional<Error> LazySource::failure() { return impl_->work().failure(); }
std::uint64_t LazySource::pages_left() const { return impl_->work().left(); }
SourceFigures LazySource::figures() const { return impl_->work().figures(); }

}  // namespace migrate::postcopy
