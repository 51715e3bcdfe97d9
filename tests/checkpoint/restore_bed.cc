#include "tests/checkpoint/restore_bed.hpp"

#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <random>

namespace migrate::checkpoint::testing {
namespace {

constexpr std::size_t kStateBytes = 300;

std::vector<std::byte> state_body() {
  std::vector<std::byte> body(kStateBytes);
  for (std::size_t i = 0; i < body.size(); ++i) body[i] = static_cast<std::byte>(i * 7 + 1);
  return body;
}

Status scripted(ErrorCode code, const char* what) {
  if (code == ErrorCode{}) return {};
  return make_error(code, std::string("scripted failure of ") + what);
}

}  // namespace

Folder::Folder() {
  std::string name = ::testing::TempDir() + "restore-XXXXXX";
  MIGRATE_CHECK(::mkdtemp(name.data()) != nullptr);
  path_ = name;
}
Folder::~Folder() { std::filesystem::remove_all(path_); }

std::vector<std::byte> page_content(std::uint32_t region, std::uint64_t page, unsigned version) {
  std::vector<std::byte> content(kPageSize);
  if (page % 11 == 5 || (page / 64) % 5 == 3) return content;
  if (version > 0 && !page_changed(page)) version = 0;
  const std::uint64_t of = page % 13 == 7 ? 7 : page;  // Some are equal.
  std::mt19937_64 random(of * 1000003 + (page % 13 == 7 ? 0 : region) + version * 77);
  const std::size_t step = (page / 32) % 2 == 0 ? 8 : 256;  // Random, or mostly zeros.
  for (std::size_t at = 0; at < kPageSize; at += step) {
    const std::uint64_t word = random() | 1;
    std::memcpy(content.data() + at, &word, 8);
  }
  return content;
}

bool page_changed(std::uint64_t page) { return page % 4 == 1 || (page / 128) % 3 == 2; }

std::vector<Region> regions_of(std::vector<std::uint64_t> pages) {
  std::vector<Region> regions;
  for (std::uint32_t i = 0; i < pages.size(); ++i) {
    regions.push_back({{0, i + 1, 0}, {{16 + i * 1'000'000ull}, pages[i]}, Backing::kAnonymous});
  }
  return regions;
}

void write_image(const std::string& path, const ImageSpec& spec) {
  ImageWriter::Options options{spec.compress, nullptr};
  if (!spec.base.empty()) {
    auto base = ImageChain::open(spec.base);
    ASSERT_TRUE(base) << base.error().to_text();
    options.base = *base;
  }
  auto output = make_file_output(path);
  ASSERT_TRUE(output) << output.error().to_text();
  auto header = new_header(options.base.get());
  ASSERT_TRUE(header);
  ImageDescription description;
  description.guest.name = "bed";
  description.guest.vcpus = 1;
  description.guest.regions = spec.regions;
  description.run_state = spec.run_state;
  description.parent_path = spec.base;
  auto writer = ImageWriter::create(*std::move(output), *header, description, options);
  ASSERT_TRUE(writer) << writer.error().to_text();
  {
    auto lane = (*writer)->make_lane();
    ASSERT_TRUE(lane) << lane.error().to_text();
    for (std::uint16_t region = 0; region < spec.regions.size(); ++region) {
      for (std::uint64_t page = 0; page < spec.regions[region].range.count; ++page) {
        if (!spec.base.empty() && !page_changed(page)) continue;
        const auto content = page_content(region, page, spec.version);
        ASSERT_TRUE((*lane)->add(region, page, content.data()));
      }
    }
    ASSERT_TRUE((*lane)->flush());
  }
  const std::vector<Section> sections = {{{"bed.cpu", 2, true}, state_body()},
                                         {{"bed.unknown", 1, false}, std::vector<std::byte>(50)}};
  ASSERT_TRUE((*writer)->state(sections));
  auto written = (*writer)->finish();
  ASSERT_TRUE(written) << written.error().to_text();
}

Status BedTarget::prepare(const GuestDescription& description) {
  hook("prepare");
  MIGRATE_TRY(scripted(script_.fail_prepare, "prepare"));
  regions_ = description.regions;
  for (const Region& region : regions_) {
    rams_.push_back(std::make_unique<GuestRam>(script_.kind, region.range.count));
    if (!rams_.back()->valid()) return make_error(ErrorCode::kNoMemory, "no memory of that kind");
  }
  hook("prepared");
  return {};
}

Status BedTarget::load_state(StateReader& reader) {
  hook("load");
  MIGRATE_TRY(scripted(script_.fail_load, "load_state"));
  bool seen = false;
  for (;;) {
    MIGRATE_ASSIGN(auto section, reader.next());
    if (!section) break;
    if (section->name != "bed.cpu") {
      MIGRATE_TRY(StateReader::skip_unknown(*section));
      continue;
    }
    MIGRATE_ASSIGN(auto body, reader.read_all(1 << 20));
    if (body != state_body()) return make_error(ErrorCode::kGuest, "the state is another one");
    seen = true;
  }
  return seen ? Status() : make_error(ErrorCode::kGuest, "there is no state");
}

Result<std::chrono::nanoseconds> BedTarget::rehearse_load() {
  return make_error(ErrorCode::kUnsupported, "loading is not rehearsed here");
}

Status BedTarget::acquire() {
  hook("acquire");
  MIGRATE_TRY(scripted(script_.fail_acquire, "acquire"));
  locked_ = true;
  return {};
}

Status BedTarget::yield() {
  locked_ = false;
  return {};
}

Status BedTarget::start(RunState state) {
  MIGRATE_CHECK(!started_ && !discarded_ && locked_);
  MIGRATE_TRY(scripted(script_.fail_start, "start"));
  started_ = true;
  running_ = state == RunState::kRunning;
  hook("start");
  return {};
}

void BedTarget::discard() {
  MIGRATE_CHECK(!started_ && !discarded_);
  discarded_ = true;
  locked_ = false;
}

std::span<std::byte> BedTarget::place(const RegionId& region, PageRange range) {
  for (std::size_t i = 0; i < regions_.size(); ++i) {
    if (!(regions_[i].id == region)) continue;
    MIGRATE_CHECK(regions_[i].range.contains(range));
    return rams_[i]->bytes().subspan((range.first - regions_[i].range.first) * kPageSize,
                                     range.bytes());
  }
  MIGRATE_CHECK(false);
  return {};
}

Status BedTarget::write(const RegionId& region, PageRange range, std::span<const std::byte> bytes) {
  std::memcpy(place(region, range).data(), bytes.data(), range.bytes());
  hook("written");
  return {};
}

Status BedTarget::zero(const RegionId& region, PageRange range) {
  std::memset(place(region, range).data(), 0, range.bytes());
  return {};
}

Status BedTarget::read(const RegionId& region, PageRange range, std::span<std::byte> into) {
  std::memcpy(into.data(), place(region, range).data(), range.bytes());
  return {};
}

std::span<std::byte> BedTarget::mapped(const RegionId& region) {
  if (!script_.mapped) return {};
  for (std::size_t i = 0; i < regions_.size(); ++i) {
    if (regions_[i].id == region) return rams_[i]->bytes();
  }
  return {};
}

Restoring::Restoring(RestoreOptions options, BedTarget::Script script) {
  auto target = std::make_unique<BedTarget>(std::move(script));
  target_ = target.get();
  restore_ = std::make_unique<Restore>(std::move(target), std::move(options), *this, this);
}

Restoring::~Restoring() {
  // Before memory is unmapped, and before the host goes.
  result_.waiting_memory.reset();
}

RestoreResult& Restoring::run() {
  result_ = restore_->run();
  EXPECT_EQ(result_.guest.get(), target_);
  EXPECT_EQ(target_->started(), !target_->discarded());
  return result_;
}

Status Restoring::open(const GuestDescription& guest) {
  EXPECT_EQ(guest.name, "bed");
  EXPECT_FALSE(target_->started());
  ++opened_;
  return scripted(fail_open, "open");
}

void Restoring::on_memory(Memory memory, const std::string& reason) {
  const MutexLock lock(mutex_);
  memory_.push_back(memory);
  reason_ = reason;
  if (memory == Memory::kLost) lost_ = true;
}

void Restoring::on_event(const Event& event) {
  events_.insert(event.name);
  if (hear) hear(event.name);
}

std::vector<Restore::Host::Memory> Restoring::memory() {
  const MutexLock lock(mutex_);
  return memory_;
}

std::string Restoring::reason() {
  const MutexLock lock(mutex_);
  return reason_;
}

std::string Restoring::text() const {
  const auto& error = result_.report.error;
  return std::string(to_string(result_.outcome)) + (error ? ": " + error->to_text() : "");
}

std::uint64_t Restoring::wrong_pages(unsigned version) {
  std::uint64_t wrong = 0;
  for (std::uint32_t region = 0; region < target_->regions().size(); ++region) {
    const auto memory = target_->bytes(region);
    for (std::uint64_t page = 0; page < memory.size() / kPageSize; ++page) {
      const auto content = page_content(region, page, version);
      if (std::memcmp(memory.data() + page * kPageSize, content.data(), kPageSize) != 0) ++wrong;
    }
  }
  return wrong;
}

}  // namespace migrate::checkpoint::testing
