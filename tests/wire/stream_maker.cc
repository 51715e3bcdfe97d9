#include "tests/wire/stream_maker.hpp"

#include <algorithm>
#include <string>

#include "tests/wire/sample_messages.hpp"
#include "wire/codec.hpp"
#include "wire/delta.hpp"

namespace migrate::wire::testing {
namespace {

constexpr std::uint64_t kSeed = 20261121;

template <std::size_t N>
void fill(std::array<std::byte, N>& bytes, std::mt19937_64& random) {
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
}

}  // namespace

std::array<std::byte, kPageSize> page_content(std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::array<std::byte, 64> line;
  fill(line, random);
  std::array<std::byte, kPageSize> page;
  for (std::size_t i = 0; i < page.size(); ++i) page[i] = line[i % line.size()];
  return page;
}

std::vector<std::byte> run_frame(std::span<const std::byte> content) {
  constexpr std::size_t kBlockBytesMax = std::size_t{128} << 10;
  constexpr std::uint32_t kRawBlock = 0;
  constexpr std::uint32_t kRleBlock = 1;
  std::vector<std::byte> frame(9);
  store_u32(frame.data(), 0xFD2FB528);
  frame[4] = std::byte{0xA0};  // A content size of four bytes, single segment.
  store_u32(frame.data() + 5, static_cast<std::uint32_t>(content.size()));
  const auto run_at = [&](std::size_t at) {
    std::size_t run = 1;
    while (at + run < content.size() && content[at + run] == content[at]) ++run;
    return std::min(run, kBlockBytesMax);
  };
  for (std::size_t at = 0; at < content.size();) {
    std::size_t size = run_at(at);
    const bool rle = size >= 16;
    while (!rle && at + size < content.size() && run_at(at + size) < 16) ++size;
    const std::uint32_t last = at + size == content.size() ? 1 : 0;
    const std::uint32_t header =
        last | (rle ? kRleBlock : kRawBlock) << 1 | static_cast<std::uint32_t>(size) << 3;
    for (const unsigned shift : {0, 8, 16}) {
      frame.push_back(static_cast<std::byte>(header >> shift));
    }
    const auto bytes = content.subspan(at, rle ? 1 : size);
    frame.insert(frame.end(), bytes.begin(), bytes.end());
    at += size;
  }
  return frame;
}

StreamMaker::StreamMaker(std::vector<Region> regions, std::uint16_t bulk_lanes)
    : next_connection_(static_cast<std::uint16_t>(bulk_lanes + 1)) {
  std::mt19937_64 random(kSeed);
  fill(hello_.session.bytes, random);
  fill(hello_.random.bytes, random);
  fill(hello_.boot.bytes, random);
  hello_.bulk_lanes = bulk_lanes;
  hello_.strategy = Strategy::kPrecopy;
  hello_.max_downtime_us = 50'000;
  hello_.host = "host-a";
  hello_.guest.name = "demo";
  hello_.guest.vcpus = 2;
  hello_.guest.regions = regions;
  hello_.guest.properties.resize(1);
  hello_.guest.properties[0].info = {"cpuid", 1, true};
  hello_.guest.properties[0].body.assign(12, std::byte{0x42});
  fill(welcome_.random.bytes, random);
  fill(welcome_.secret.bytes, random);
  fill(welcome_.boot.bytes, random);
  hello_.features = welcome_.features = kFeatureVerifyFull;
  welcome_.bulk_lanes = bulk_lanes;
  welcome_.limits.state_bytes = 1 << 20;
  welcome_.load_us = 300;
  welcome_.host = "host-b";
  secret_ = welcome_.secret;
  hasher_ = Hasher(hello_.random, welcome_.random);
  page_digest_.emplace(hasher_);
  for (const Region& region : regions) {
    regions_[static_cast<std::uint32_t>(regions_.size())] = region;
  }
  for (std::uint16_t lane = 0; lane <= bulk_lanes; ++lane) rounds_[lane] = 0;
}

void StreamMaker::open() {
  send(hello_);
  reply(welcome_);
  for (std::uint16_t lane = 1; lane <= hello_.bulk_lanes; ++lane) join(lane);
}

void StreamMaker::join(std::uint16_t lane, LaneRole role) {
  send(Join{hello_.session, LaneId{lane}, role, secret_}, lane);
  reply(Joined{LaneId{lane}}, lane);
}

void StreamMaker::send_raw(RecordType type, std::span<const std::byte> body,
                           std::uint16_t connection) {
  auto& sequence = sequence_[{connection, Direction::kToTarget}];
  const auto header =
      encode_header(type, static_cast<std::uint32_t>(body.size()), sequence++, body, hasher_);
  std::vector<std::byte> bytes(header.begin(), header.end());
  bytes.insert(bytes.end(), body.begin(), body.end());
  put_bytes(bytes, connection, Direction::kToTarget);
}

void StreamMaker::pages(std::uint16_t lane, std::uint32_t region, std::vector<Run> runs) {
  PagesEncoder encoder;
  encoder.begin(RegionHandle{region}, rounds_.at(lane));
  std::vector<std::byte> content;
  for (const Run& run : runs) {
    if (!run.seed) encoder.add_zeros(run.first, run.count);
    for (std::uint64_t page = run.first; page < run.first + run.count; ++page) {
      std::uint64_t hash = page_digest_->zero_hash();
      if (run.seed) {
        const auto bytes = page_content(*run.seed * 1000 + page);
        hash = page_digest_->hash(bytes);
        encoder.add_raw(page, hash);
        content.insert(content.end(), bytes.begin(), bytes.end());
        contents_[{region, page}] = bytes;
      } else {
        contents_.erase({region, page});
      }
      apply(lane, RegionHandle{region}, page, hash);
    }
  }
  auto& sequence = sequence_[{lane, Direction::kToTarget}];
  const auto head = encoder.finish(sequence++, hasher_);
  std::vector<std::byte> bytes(head.begin(), head.end());
  bytes.insert(bytes.end(), content.begin(), content.end());
  put_bytes(bytes, lane, Direction::kToTarget);
}

void StreamMaker::agree_all_content() {
  hello_.encodings = welcome_.encodings = kEncodingsKnown;
  hello_.codecs = welcome_.codecs = kCodecsKnown;
}

std::uint64_t StreamMaker::take_content(RegionHandle region, const Item& item) {
  auto& content = contents_[{region.number, item.page}];  // Zeros where nothing was sent.
  if (item.encoding == PageEncoding::kRaw) content.fill(item.fill);
  if (item.encoding == PageEncoding::kZeros) content.fill(std::byte{0});
  if (item.encoding == PageEncoding::kDuplicate) {
    const auto original = contents_.find({item.original.region.number, item.original.page});
    if (original != contents_.end()) content = original->second;
  }
  // A stream with an invalid delta says some hash or other.
  if (item.encoding == PageEncoding::kDelta) (void)decode_delta(content, item.patch, content);
  return page_digest_->hash(content) + spoiled_hash_;
}

void StreamMaker::batch(std::uint16_t lane, std::uint32_t region, const std::vector<Item>& items,
                        Pack pack) {
  const RegionHandle handle{region};
  PagesEncoder encoder;
  encoder.begin(handle, rounds_.at(lane));
  std::vector<std::byte> content;
  for (const Item& item : items) {
    const std::uint64_t hash = take_content(handle, item);
    switch (item.encoding) {
      case PageEncoding::kRaw:
        encoder.add_raw(item.page, hash);
        content.insert(content.end(), kPageSize, item.fill);
        break;
      case PageEncoding::kZeros:
        encoder.add_zeros(item.page, 1);
        break;
      case PageEncoding::kDelta:
        encoder.add_delta(item.page, hash, item.patch);
        break;
      case PageEncoding::kDuplicate:
        encoder.add_duplicate(item.page, hash, item.original);
        break;
    }
    apply(lane, handle, item.page, hash);
  }
  spoiled_hash_ = 0;
  content.insert(content.end(), encoder.patches().begin(), encoder.patches().end());
  if (pack != nullptr) content = pack(content);
  auto& sequence = sequence_[{lane, Direction::kToTarget}];
  const auto head = pack == nullptr ? encoder.finish(sequence++, hasher_)
                                    : encoder.finish_packed(ContentCodec::kZstd, content.size(),
                                                            sequence++, hasher_);
  std::vector<std::byte> bytes(head.begin(), head.end());
  bytes.insert(bytes.end(), content.begin(), content.end());
  put_bytes(bytes, lane, Direction::kToTarget);
}

void StreamMaker::apply(std::uint16_t lane, RegionHandle region, std::uint64_t page,
                        std::uint64_t hash) {
  auto [at, fresh] = hashes_.try_emplace({region.number, page}, page_digest_->zero_hash());
  const std::uint64_t change = page_digest_->change(region, page, at->second, hash);
  at->second = hash;
  digest_ += change;
  open_pages_.insert({region.number, page});
  for (const std::uint16_t counted : {lane, std::uint16_t{0}}) {
    ++open_barriers_[counted].pages;
    open_barriers_[counted].digest_change += change;
  }
}

void StreamMaker::lose_last_pages(std::uint16_t lane) {
  frames_.pop_back();
  --sequence_[{lane, Direction::kToTarget}];
}

void StreamMaker::end_round_on_lane(std::uint16_t lane, bool final) {
  Barrier barrier = std::exchange(open_barriers_[lane], {});
  barrier.round = rounds_.at(lane)++;
  barrier.final = final;
  send(barrier, lane);
}

void StreamMaker::complete_round() {
  for (const Regions& change : std::exchange(pending_, {})) {
    for (const RegionHandle removed : change.removed) {
      for (const auto& [place, hash] : hashes_) {
        if (place.first != removed.number) continue;
        digest_ -= page_digest_->mix(removed, place.second, hash);
      }
      std::erase_if(hashes_, [&](const auto& item) { return item.first.first == removed.number; });
      regions_.erase(removed.number);
    }
    std::uint32_t handle = change.first_handle.number;
    for (const Region& region : change.added) regions_[handle++] = region;
  }
  open_pages_.clear();
  acknowledged_ = rounds_.at(0);
  acknowledged_digest_ = digest_;
}

void StreamMaker::acknowledge() {
  complete_round();
  reply(BarrierAck{acknowledged_ - 1, digest_});
}

void StreamMaker::allow_resume() {
  hello_.features |= kFeatureResume;
  welcome_.features |= kFeatureResume;
}

void StreamMaker::allow_attempts() {
  hello_.features |= kFeatureAttempts;
  welcome_.features |= kFeatureAttempts;
}

void StreamMaker::forget(std::uint32_t attempt, std::uint32_t region, std::uint64_t page) {
  reply(Discarded{attempt, AbortScope::kAttempt,
                  make_error(ErrorCode::kCancelled, "the target gave up")});
  Void record{RegionHandle{region}, page / 64 * 64, {std::uint64_t{1} << (page % 64)}};
  reply(record);
  auto& hash = hashes_[{region, page}];
  digest_ -= page_digest_->mix(RegionHandle{region}, page, hash);
  hash = PageDigest::kVoid;
  reply(VoidEnd{1, digest_});
}

void StreamMaker::allow_forward() {
  hello_.features |= kFeatureForward;
  welcome_.features |= kFeatureForward;
}

void StreamMaker::allow_postcopy() {
  hello_.features |= kFeaturePostcopy;
  welcome_.features |= kFeaturePostcopy;
  hello_.strategy = Strategy::kHybrid;
  // Its connection is the one after those of the bulk lanes.
  ++next_connection_;
}

void StreamMaker::lazy(std::uint32_t granule, bool installed) {
  const Lazy lazy{rounds_.at(0), 600'000, installed};
  for (std::uint16_t lane = 1; lane <= hello_.bulk_lanes; ++lane) send(lazy, lane);
  send(lazy);
  rounds_[urgent()] = lazy.round;
  join(urgent(), LaneRole::kUrgent);
  LazyTerms terms;
  if (granule > 1) terms.granules.push_back({RegionHandle{0}, granule});
  reply(terms);
}

void StreamMaker::list(const std::vector<std::uint64_t>& pages, bool missing) {
  Void record{RegionHandle{0}, 0, {0}};
  for (const std::uint64_t page : pages) {
    record.words[0] |= std::uint64_t{1} << page;
    auto [at, fresh] = hashes_.try_emplace({0, page}, page_digest_->zero_hash());
    digest_ -= page_digest_->mix(RegionHandle{0}, page, at->second);
    at->second = PageDigest::kVoid;
  }
  const VoidEnd end{pages.size(), digest_};
  if (missing) reply(Resumed{rounds_.at(0), digest_});
  if (!pages.empty()) missing ? reply(record) : send(record);
  missing ? reply(end) : send(end);
}

void StreamMaker::come_back() {
  first_connection_ = next_connection_;
  next_connection_ = static_cast<std::uint16_t>(next_connection_ + hello_.bulk_lanes + 2);
  std::erase_if(sequence_, [&](const auto& item) { return item.first.first <= urgent(); });
  send(Resume{hello_.session, secret_, rounds_.at(0)});
}

void StreamMaker::rejoin_lazily() {
  for (std::uint16_t lane = 1; lane <= hello_.bulk_lanes; ++lane) join(lane);
  join(urgent(), LaneRole::kUrgent);
}

void StreamMaker::resume(std::uint32_t round) {
  first_connection_ = next_connection_;
  next_connection_ = static_cast<std::uint16_t>(next_connection_ + hello_.bulk_lanes + 1);
  std::erase_if(sequence_, [&](const auto& item) { return item.first.first <= hello_.bulk_lanes; });
  send(Resume{hello_.session, secret_, acknowledged_});
  if (round == acknowledged_ + 1) complete_round();
  pending_.clear();
  open_barriers_.clear();
  for (auto& [lane, number] : rounds_) number = round;
  reply(Resumed{round, acknowledged_digest_});
}

void StreamMaker::void_open_round(std::size_t left_out) {
  std::map<std::uint32_t, Void> records;
  std::size_t pages = open_pages_.size() - left_out;
  for (const auto& [region, page] : open_pages_) {
    if (pages-- == 0) break;
    Void& record = records[region];
    record.region = RegionHandle{region};
    record.words.resize(std::max<std::size_t>(record.words.size(), page / 64 + 1));
    record.words[page / 64] |= std::uint64_t{1} << (page % 64);
    hashes_[{region, page}] = PageDigest::kVoid;
  }
  for (const auto& [region, record] : records) send(record);
  digest_ = 0;
  for (const auto& [place, hash] : hashes_) {
    digest_ += page_digest_->mix(RegionHandle{place.first}, place.second, hash);
  }
  send(VoidEnd{open_pages_.size() - left_out, digest_});
}

void StreamMaker::rejoin() {
  reply(Voided{digest_});
  for (std::uint16_t lane = 1; lane <= hello_.bulk_lanes; ++lane) join(lane);
}

void StreamMaker::end_round(bool final) {
  for (std::uint16_t lane = 1; lane <= hello_.bulk_lanes; ++lane) end_round_on_lane(lane, final);
  end_round_on_lane(0, final);
  acknowledge();
}

void StreamMaker::change_regions(Regions change) {
  send(change);
  pending_.push_back(std::move(change));
}

void StreamMaker::state(std::size_t bytes) {
  const std::vector<std::byte> half(bytes / 2, std::byte{0x5A});
  send(SectionBegin{{"vcpu.0", 1, true}});
  for (int i = 0; i < 2 && !half.empty(); ++i) send_raw(RecordType::kSectionData, half);
  send(SectionEnd{2 * half.size()});
  send(SectionBegin{{"debug.note", 1, false}});
  send(SectionEnd{0});
  send(StateEnd{2, 2 * half.size()});
}

void StreamMaker::offer(std::uint32_t attempt) {
  Offer offer;
  offer.attempt = attempt;
  offer.digest = digest_;
  for (const auto& [handle, region] : regions_) offer.total_pages += region.range.count;
  send(offer);
}

void StreamMaker::ready(std::uint32_t attempt) {
  Ready ready;
  ready.attempt = attempt;
  ready.lease_ns = 10'000'000'000;
  ready.digest = digest_;
  ready.final_apply_us = 120;
  ready.state_load_us = 310;
  reply(ready);
}

std::uint16_t StreamMaker::ask() {
  const std::uint16_t connection = next_connection_++;
  send(Ask{hello_.session, secret_}, connection);
  return connection;
}

std::vector<std::byte> StreamMaker::capture() const {
  Capture capture;
  for (const CaptureFrame& frame : frames_) {
    capture.add(frame.connection, frame.direction, frame.bytes);
  }
  return capture.bytes();
}

template <typename Message>
void StreamMaker::put(const Message& message, std::uint16_t connection, Direction direction) {
  std::vector<std::byte> bytes;
  auto& sequence = sequence_[{connection, direction}];
  const Status status = encode_record(message, sequence++, hasher_, bytes);
  MIGRATE_CHECK(status.has_value());
  put_bytes(bytes, connection, direction);
}

void StreamMaker::put_bytes(std::span<const std::byte> bytes, std::uint16_t connection,
                            Direction direction) {
  const bool postcopy = (hello_.features & kFeaturePostcopy) != 0;
  const bool lane = connection <= hello_.bulk_lanes + (postcopy ? 1 : 0);
  const int number = lane ? first_connection_ + connection : connection;
  frames_.push_back({static_cast<std::uint16_t>(number), direction, {bytes.begin(), bytes.end()}});
}

#define INSTANTIATE(Message) \
  template void StreamMaker::put(const Message&, std::uint16_t, Direction);
MIGRATE_WIRE_MESSAGES(INSTANTIATE)
#undef INSTANTIATE

}  // namespace migrate::wire::testing
