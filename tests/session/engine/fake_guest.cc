#include "tests/session/engine/fake_guest.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

namespace migrate::testing {
namespace {

Status scripted(ErrorCode code, const char* what) {
  if (code == ErrorCode{}) return {};
  return make_error(code, std::string("scripted failure of ") + what);
}

void raise_to(std::atomic<int>& maximum, int value) {
  int seen = maximum.load();
  while (seen < value && !maximum.compare_exchange_weak(seen, value)) {
  }
}

std::span<std::byte> slice(std::span<std::byte> bytes, const Region& region, PageRange range) {
  return bytes.subspan((range.first - region.range.first) * kPageSize, range.bytes());
}

}  // namespace

void World::run() { raise_to(running_max, ++running); }
bool World::try_lock() {
  int free = 0;
  return locks.compare_exchange_strong(free, 1);
}

FakeMemory::FakeMemory(std::vector<Region> regions) {
  for (const Region& region : regions) add(region);
}

void FakeMemory::add(const Region& region) {
  regions_.push_back(region);
  const std::size_t bytes = region.range.bytes();
  void* const at = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  MIGRATE_CHECK(at != MAP_FAILED);
  content_[region.id] =
      std::unique_ptr<std::byte[], Unmap>(static_cast<std::byte*>(at), Unmap{bytes});
}

void FakeMemory::remove(const RegionId& region) {
  std::erase_if(regions_, [&](const Region& r) { return r.id == region; });
  content_.erase(region);
}

void FakeMemory::set_backing(const RegionId& region, Backing backing) {
  for (Region& r : regions_) {
    if (r.id == region) r.backing = backing;
  }
}

std::span<std::byte> FakeMemory::bytes(const RegionId& region) {
  const auto found = content_.find(region);
  if (found == content_.end()) return {};
  return {found->second.get(), found->second.get_deleter().bytes};
}

void FakeMemory::Unmap::operator()(std::byte* at) const { ::munmap(at, bytes); }

bool FakeMemory::operator==(const FakeMemory& other) const {
  return std::equal(content_.begin(), content_.end(), other.content_.begin(), other.content_.end(),
                    [](const auto& a, const auto& b) {
                      const std::size_t bytes = a.second.get_deleter().bytes;
                      return a.first == b.first && bytes == b.second.get_deleter().bytes &&
                             std::memcmp(a.second.get(), b.second.get(), bytes) == 0;
                    });
}

std::vector<std::byte> fake_state(std::size_t bytes) {
  std::vector<std::byte> state(bytes);
  for (std::size_t i = 0; i < bytes; ++i) state[i] = static_cast<std::byte>(i * 7 + 1);
  return state;
}

FakeSource::FakeSource(World& world, std::vector<Region> regions, Script script)
    : world_(world), memory_(std::move(regions)), script_(std::move(script)) {
  running_ = script_.run_state == RunState::kRunning;
  if (running_) world_.run();
  holds_lock_ = true;
  MIGRATE_CHECK(world_.try_lock());
}

FakeSource::~FakeSource() {
  if (running_) world_.halt();
  if (holds_lock_) world_.unlock();
}

void FakeSource::fill_page(const RegionId& region, GuestPage page, std::uint8_t value) {
  std::lock_guard lock(memory_.mutex());
  for (const Region& r : memory_.regions()) {
    if (r.id != region) continue;
    auto bytes = slice(memory_.bytes(region), r, {page, 1});
    std::memset(bytes.data(), value, bytes.size());
    if (value != 0) {
      std::memcpy(bytes.data() + 64, &page.number, sizeof page.number);  // Pages are unique.
    }
  }
  touched_.insert({region, page});
  if (tracking_ && log_.find(region) != nullptr) log_.set(region, page);
}

void FakeSource::write(const RegionId& region, GuestPage page, std::uint8_t value) {
  if (running_ || !tracking_) fill_page(region, page, value);
}

void FakeSource::write_zeros(const RegionId& region, GuestPage page) { write(region, page, 0); }

void FakeSource::write_as_device(const RegionId& region, GuestPage page, std::uint8_t value) {
  fill_page(region, page, value);
}

void FakeSource::corrupt(const RegionId& region, GuestPage page) {
  std::lock_guard lock(memory_.mutex());
  for (const Region& r : memory_.regions()) {
    if (r.id == region) slice(memory_.bytes(region), r, {page, 1})[100] ^= std::byte{1};
  }
}

void FakeSource::hook(const char* where) {
  if (script_.writes) script_.writes(*this, where);
}

Result<GuestDescription> FakeSource::describe() {
  GuestDescription description;
  description.name = "fake";
  description.vcpus = 1;
  description.regions = memory_.regions();
  description.properties.push_back({{"fake.machine", 1, true}, fake_state(10)});
  return description;
}

Result<PauseResult> FakeSource::pause() {
  MIGRATE_TRY(scripted(script_.fail_pause, "pause"));
  ++pauses_;
  PauseResult result{running_ ? RunState::kRunning : RunState::kPaused,
                     std::chrono::steady_clock::now()};
  if (running_) world_.halt();
  running_ = false;
  return result;
}

Status FakeSource::resume() {
  MIGRATE_CHECK(!running_ && !released_);
  running_ = true;
  world_.run();
  ++world_.resumed;
  hook("resume");
  return {};
}

Status FakeSource::save_state(StateWriter& writer) {
  MIGRATE_CHECK(!running_);
  hook("save");
  MIGRATE_TRY(scripted(script_.fail_save, "save_state"));
  if (script_.settles) {
    MIGRATE_TRY(writer.memory_settled());
    hook("settled");
  }
  MIGRATE_TRY(writer.section({"fake.cpu", 2, true}, fake_state(script_.state_bytes)));
  MIGRATE_TRY(writer.memory_final());
  return writer.section({"fake.optional", 1, false}, fake_state(5));
}

Status FakeSource::throttle(std::uint32_t, double share) {
  throttle_ = share;
  throttle_max_ = std::max(throttle_max_, share);
  return {};
}

Status FakeSource::relinquish() {
  if (holds_lock_) world_.unlock();
  holds_lock_ = false;
  return {};
}

Status FakeSource::reclaim() {
  hook("reclaim");
  MIGRATE_TRY(scripted(script_.fail_reclaim, "reclaim"));
  if (!holds_lock_ && !world_.try_lock()) {
    return make_error(ErrorCode::kBusy, "the target holds the lock");
  }
  holds_lock_ = true;
  return {};
}

Status FakeSource::release() {
  MIGRATE_CHECK(!released_ && !running_);
  released_ = true;
  ++world_.released;
  return {};
}

Result<ReadOutcome> FakeSource::read(const RegionId& region, PageRange range,
                                     std::span<std::byte> into) {
  if (script_.on_read) script_.on_read();
  std::lock_guard lock(memory_.mutex());
  for (const Region& r : memory_.regions()) {
    if (r.id != region) continue;
    auto bytes = slice(memory_.bytes(region), r, range);
    std::memcpy(into.data(), bytes.data(), bytes.size());
    return ReadOutcome::kRead;
  }
  return ReadOutcome::kGone;
}

std::span<const std::byte> FakeSource::mapped(const RegionId& region) {
  if (!script_.mapped) return {};
  return memory_.bytes(region);
}

Status FakeSource::holes(const RegionId& region, PageBitmap& holes) {
  std::lock_guard lock(memory_.mutex());
  for (const Region& r : memory_.regions()) {
    if (r.id != region) continue;
    for (std::uint64_t i = 0; i < r.range.count; ++i) {
      const GuestPage page = r.range.first + i;
      if (!touched_.contains({region, page})) holes.set(region, page);
    }
  }
  return {};
}

Status FakeSource::start() {
  std::lock_guard lock(memory_.mutex());
  log_ = PageBitmap(memory_.regions());
  tracking_ = true;
  return {};
}

Status FakeSource::collect(PageBitmap& round_set) {
  hook("collect");
  if (script_.collects_before_failure-- <= 0) {
    MIGRATE_TRY(scripted(script_.fail_collect, "collect"));
  }
  std::lock_guard lock(memory_.mutex());
  log_.reshape(memory_.regions(), true);
  round_set.merge(log_);
  if (rearms_in_collect()) {
    log_.clear_all();
  } else {
    taken_ = log_;
  }
  return {};
}

Status FakeSource::rearm(const PageBitmap& set, const RegionId& region, PageRange range) {
  if (rearms_in_collect()) return {};
  std::lock_guard lock(memory_.mutex());
  auto* log = log_.find(region);
  auto* taken = taken_.find(region);
  const auto* wanted = set.find(region);
  MIGRATE_CHECK(log != nullptr && taken != nullptr && wanted != nullptr);
  const std::uint64_t first = range.first - log->region.range.first;
  MIGRATE_CHECK(first % 64 == 0 &&
                (range.count % 64 == 0 || range.end() == log->region.range.end()));
  for (std::uint64_t word = first / 64; word < (first + range.count + 63) / 64; ++word) {
    // The contract: only bits that the latest collect gave, each at most once.
    MIGRATE_CHECK((wanted->words[word] & ~taken->words[word]) == 0);
    log->words[word] &= ~wanted->words[word];
    taken->words[word] &= ~wanted->words[word];
  }
  return {};
}

Status FakeSource::peek(PageBitmap& again) {
  hook("peek");
  std::lock_guard lock(memory_.mutex());
  PageBitmap seen = log_;
  if (!rearms_in_collect()) seen.subtract(taken_);
  again.merge(seen);
  return {};
}

Status FakeSource::stop() {
  tracking_ = false;
  return {};
}

FakeTarget::FakeTarget(World& world, Script script)
    : world_(world), memory_({}), script_(std::move(script)) {
  if (script_.on_target) script_.on_target(*this);
}

FakeTarget::~FakeTarget() {
  if (running_) world_.halt();
  if (holds_lock_) world_.unlock();
}

void FakeTarget::hook(const char* where) {
  if (script_.hook) script_.hook(where);
}

Status FakeTarget::prepare(const GuestDescription& description) {
  MIGRATE_TRY(scripted(script_.fail_prepare, "prepare"));
  for (const Region& region : description.regions) memory_.add(region);
  return {};
}

Status FakeTarget::load_state(StateReader& reader) {
  hook("load");
  MIGRATE_TRY(scripted(script_.fail_load, "load_state"));
  if (script_.scribble) script_.scribble(memory_, loads_++);
  bool seen = false;
  for (;;) {
    MIGRATE_ASSIGN(auto section, reader.next());
    if (!section) break;
    if (section->name == "fake.cpu" && section->version == 2) {
      MIGRATE_ASSIGN(auto body, reader.read_all(1 << 20));
      if (body != fake_state(script_.state_bytes)) {
        return make_error(ErrorCode::kGuest, "the state is not what was saved");
      }
      seen = true;
    } else {
      MIGRATE_TRY(StateReader::skip_unknown(*section));
    }
  }
  if (!seen && script_.state_bytes > 0) {
    return make_error(ErrorCode::kGuest, "no fake.cpu section");
  }
  return {};
}

Status FakeTarget::acquire() {
  hook("acquire");
  MIGRATE_TRY(scripted(script_.fail_acquire, "acquire"));
  if (!holds_lock_ && !world_.try_lock()) {
    return make_error(ErrorCode::kBusy, "the target holds the lock");
  }
  holds_lock_ = true;
  return {};
}

Status FakeTarget::yield() {
  if (holds_lock_) world_.unlock();
  holds_lock_ = false;
  return {};
}

Status FakeTarget::start(RunState state) {
  hook("start");
  MIGRATE_CHECK(!started_ && !discarded_);
  MIGRATE_TRY(scripted(script_.fail_start, "start"));
  started_ = true;
  running_ = state == RunState::kRunning;
  if (running_) world_.run();
  return {};
}

void FakeTarget::discard() {
  MIGRATE_CHECK(!started_);
  discarded_ = true;
  static_cast<void>(yield());
}

Status FakeTarget::update_regions(const RegionDelta& delta) {
  for (const RegionId& region : delta.removed) memory_.remove(region);
  for (const Region& region : delta.added) {
    if (std::none_of(memory_.regions().begin(), memory_.regions().end(),
                     [&](const Region& r) { return r.id == region.id; })) {
      memory_.add(region);
    }
  }
  return {};
}

Status FakeTarget::write(const RegionId& region, PageRange range,
                         std::span<const std::byte> bytes) {
  for (const Region& r : memory_.regions()) {
    if (r.id == region) {
      std::memcpy(slice(memory_.bytes(region), r, range).data(), bytes.data(), bytes.size());
    }
  }
  hook("written");
  return {};
}

Status FakeTarget::zero(const RegionId& region, PageRange range) {
  for (const Region& r : memory_.regions()) {
    if (r.id == region) {
      auto bytes = slice(memory_.bytes(region), r, range);
      std::memset(bytes.data(), 0, bytes.size());
    }
  }
  return {};
}

Status FakeTarget::read(const RegionId& region, PageRange range, std::span<std::byte> into) {
  for (const Region& r : memory_.regions()) {
    if (r.id == region) {
      std::memcpy(into.data(), slice(memory_.bytes(region), r, range).data(), into.size());
    }
  }
  return {};
}

std::span<std::byte> FakeTarget::mapped(const RegionId& region) {
  if (!script_.mapped) return {};
  return memory_.bytes(region);
}

Status FakeSource::first_pages(PageBitmap& pages) {
  EXPECT_FALSE(running_);
  if (script_.first_pages) script_.first_pages(pages);
  return {};
}

Status FakeSource::release_pages(const RegionId& region, PageRange range) {
  EXPECT_FALSE(running_) << "memory of a guest that runs is given away";
  if (script_.on_release) script_.on_release(range);
  const std::lock_guard lock(memory_.mutex());
  const auto bytes = memory_.bytes(region);
  for (const Region& known : memory_.regions()) {
    if (!(known.id == region)) continue;
    const auto first = (range.first - known.range.first) * kPageSize;
    std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(first), range.bytes(), std::byte{0xEE});
    for (std::uint64_t i = 0; i < range.count; ++i)
      released_pages_.insert({region, range.first + i});
  }
  return {};
}

Result<std::vector<GuestFrame>> FakeSource::take_waiting(std::size_t frames_max,
                                                         std::size_t /*bytes_max*/) {
  EXPECT_FALSE(running_) << "frames are taken from a guest that runs";
  EXPECT_FALSE(released_) << "frames are taken from a guest that is gone";
  if (waiting_.empty()) {
    for (GuestFrame& frame : script_.packets()) waiting_.push_back(std::move(frame));
  }
  std::vector<GuestFrame> frames;
  while (!waiting_.empty() && frames.size() < frames_max) {
    frames.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
  return frames;
}

void FakeSource::give_back(std::vector<GuestFrame> frames) {
  EXPECT_FALSE(running_) << "what was taken comes first";
  if (script_.fail_give_back) throw std::bad_alloc();
  given_back_ = std::move(frames);
}

bool FakeTarget::deliver(const GuestFrame& frame) {
  EXPECT_TRUE(started_) << "frames come to a guest that does not run";
  if (delivered_.size() == script_.frames_max) return false;
  delivered_.push_back(frame);
  return true;
}

}  // namespace migrate::testing
