// bandwidth: how well the limit of all lanes is kept, and how far apart lanes finish. The engine's
// own lanes and limiter over loopback TCP, to a peer that only counts; pages are random, so nothing
// but whole ones is sent.
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/measuring.hpp"
#include "migrate/channel.hpp"
#include "transport/bulk_senders.hpp"

namespace migrate::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;
using std::chrono::duration;
constexpr std::chrono::seconds kIdleMax{60};
constexpr std::uint64_t kPages = 16384;  // 64 MiB, sent again and again.
constexpr std::uint64_t kMbit = 125'000;
const Region kRegion{{0, 1, 0}, {{0}, kPages}, Backing::kAnonymous};

class RandomPages final : public PageSource {
 public:
  RandomPages() : bytes_(kPages * kPageSize) {
    std::mt19937_64 random(1);
    for (std::size_t at = 0; at < bytes_.size(); at += 8) {
      const std::uint64_t value = random();
      std::memcpy(&bytes_[at], &value, 8);
    }
  }
  Result<std::vector<Region>> regions() override { return std::vector<Region>{kRegion}; }
  Result<ReadOutcome> read(const RegionId&, PageRange, std::span<std::byte>) override {
    return ReadOutcome::kGone;
  }
  std::span<const std::byte> mapped(const RegionId&) override { return bytes_; }
  Status holes(const RegionId&, PageBitmap&) override { return {}; }

 private:
  std::vector<std::byte> bytes_;
};

/// The far end of a lane: takes bytes and remembers when the last came.
class Sink {
 public:
  explicit Sink(std::unique_ptr<Channel> channel) : channel_(std::move(channel)) {
    thread_ = std::thread([this] { run(); });
  }
  ~Sink() {
    channel_->shutdown();
    thread_.join();
  }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_.load(); }
  [[nodiscard]] SteadyClock::time_point last() const {
    return SteadyClock::time_point(last_.load());
  }

 private:
  void run() {
    std::vector<std::byte> buffer(1 << 20);
    const iovec part{buffer.data(), buffer.size()};
    for (;;) {
      const auto got = channel_->receive({&part, 1}, kIdleMax);
      if (!got || *got == 0) return;
      last_.store(SteadyClock::now().time_since_epoch());
      bytes_.fetch_add(*got);
    }
  }
  std::unique_ptr<Channel> channel_;
  std::atomic<std::uint64_t> bytes_{0};
  std::atomic<SteadyClock::duration> last_{};
  std::thread thread_;
};

wire::Hasher make_hasher() {
  wire::SessionRandom random;
  random.bytes.fill(std::byte{1});
  return wire::Hasher(random, random);
}

/// Passes over the pages for at least `seconds`, with a barrier after each, at a limit or without.
void run(unsigned lane_count, std::uint64_t bytes_per_s, double seconds) {
  const wire::Hasher hasher = make_hasher();
  const auto acceptor = must(make_tcp_acceptor("127.0.0.1", "0"));
  const std::string address = acceptor->address();
  const auto connector = make_tcp_connector("127.0.0.1", address.substr(address.rfind(':') + 1));
  std::vector<std::unique_ptr<RecordChannel>> lanes;
  std::vector<std::unique_ptr<Sink>> sinks;
  for (unsigned i = 0; i < lane_count; ++i) {
    lanes.push_back(std::make_unique<RecordChannel>(must(connector->connect(kIdleMax)), hasher));
    sinks.push_back(std::make_unique<Sink>(must(acceptor->accept(kIdleMax))));
  }
  RandomPages pages;
  const wire::PageDigest digest(hasher);
  PageLedger ledger(digest.zero_hash());
  must(ledger.add(0, kRegion));
  RateLimiter limiter(bytes_per_s, std::chrono::milliseconds(20));
  BulkSenders senders(std::move(lanes), {pages, ledger, digest, &limiter, kIdleMax});
  const PageBitmap round_set(std::vector<Region>{kRegion});
  const auto total = [&] {
    std::uint64_t bytes = 0;
    for (const auto& sink : sinks) bytes += sink->bytes();
    return bytes;
  };
  std::uint64_t sent = 0;
  // Sockets hold some more: what has left the lanes is all there soon.
  const auto wait_for_all = [&] {
    while (total() < sent) std::this_thread::sleep_for(std::chrono::microseconds(100));
  };
  Samples apart;
  double batch_ms = 0;
  std::uint32_t round = 0;
  const auto begin = SteadyClock::now();
  while (duration<double>(SteadyClock::now() - begin).count() < seconds) {
    senders.begin_round(round_set);
    BulkTotals totals;
    for (std::uint64_t first = 0; first < kPages; first += PageBatch::kPagesMax) {
      PageBatch batch;
      batch.entry = ledger.find(0U);
      batch.round = round;
      batch.stable = true;
      batch.count = PageBatch::kPagesMax;
      for (std::uint32_t i = 0; i < batch.count; ++i) batch.pages[i] = first + i;
      must(senders.submit(batch));
    }
    totals = must(senders.drain());
    sent += totals.wire_bytes;
    // A limit is measured without rests in between: the limiter would make up for them.
    if (bytes_per_s == 0) wait_for_all();
    auto [least, most] = std::minmax_element(
        sinks.begin(), sinks.end(),
        [](const auto& one, const auto& other) { return one->last() < other->last(); });
    apart.add(duration<double, std::milli>((*most)->last() - (*least)->last()).count());
    batch_ms = duration<double, std::milli>(totals.busy).count() /
               (static_cast<double>(kPages) / PageBatch::kPagesMax);
    sent += must(senders.finish_round(round++, false)).wire_bytes - totals.wire_bytes;
    // As if nobody knew what the target has: every page is sent again.
    std::ranges::fill(ledger.find(0U)->hashes, wire::PageDigest::kVoid);
  }
  wait_for_all();
  const double took = duration<double>(SteadyClock::now() - begin).count();
  const double rate = static_cast<double>(sent) / took;
  if (bytes_per_s == 0) {
    std::printf("%u lanes, no limit: %.2f GB/s", lane_count, rate / 1e9);
  } else {
    std::printf("%u lanes, %5.0f Mbit/s: %8.1f Mbit/s, %+.2f %%", lane_count,
                static_cast<double>(bytes_per_s) / kMbit, rate / kMbit,
                (rate / static_cast<double>(bytes_per_s) - 1) * 100);
  }
  std::printf("; last bytes of lanes %.1f ms apart (median), a batch takes a lane %.1f ms\n",
              apart.median(), batch_ms);
  std::fflush(stdout);
}

}  // namespace
}  // namespace migrate::bench

int main(int argc, char** argv) {
  using namespace migrate::bench;
  if (argc > 2 || (argc == 2 && std::string(argv[1]) != "--quick")) {
    std::fprintf(stderr, "usage: bandwidth [--quick]\n");
    return 2;
  }
  const double seconds = argc == 2 ? 3 : 10;
  for (const unsigned lanes : {1u, 2u, 8u}) {
    for (const std::uint64_t mbit : {100u, 1'000u, 10'000u}) run(lanes, mbit * kMbit, seconds);
    run(lanes, 0, seconds);
  }
}
