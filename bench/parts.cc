// What single parts of a migration cost, by Google Benchmark: page sets, the work on each page, the
// digest, the heads of page batches, and the journal.
#include <benchmark/benchmark.h>
#include <stdlib.h>  // NOLINT: mkdtemp

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "memory/zero_page.hpp"
#include "migrate/memory.hpp"
#include "session/journal.hpp"
#include "wire/digest.hpp"
#include "wire/pages.hpp"

namespace migrate {
namespace {

// 1 GiB of guest, the size that the goals are set for.
constexpr std::uint64_t kGuestPages = 262144;

std::vector<Region> guest_regions() {
  return {{RegionId{0, 0, 0}, PageRange{GuestPage{0}, kGuestPages}, Backing::kMemfd}};
}

/// Every `step`-th page.
PageBitmap every(std::uint64_t step) {
  PageBitmap set(guest_regions());
  for (std::uint64_t page = 0; page < kGuestPages; page += step) {
    set.set(RegionId{0, 0, 0}, GuestPage{page});
  }
  return set;
}

wire::Hasher session_hasher() { return wire::Hasher(wire::SessionRandom{}, wire::SessionRandom{}); }

void bitmap_merge(benchmark::State& state) {
  PageBitmap set = every(7);
  const PageBitmap other = every(5);
  for (auto _ : state) {
    set.merge(other);
    benchmark::ClobberMemory();
  }
}
BENCHMARK(bitmap_merge)->Unit(benchmark::kMicrosecond);

void bitmap_runs(benchmark::State& state) {
  const PageBitmap set = every(static_cast<std::uint64_t>(state.range(0)));
  std::uint64_t pages = 0;
  for (auto _ : state) {
    set.for_each_run([&](const RegionId&, PageRange run) { pages += run.count; });
  }
  benchmark::DoNotOptimize(pages);
}
BENCHMARK(bitmap_runs)->Arg(2)->Arg(64)->Arg(4096)->Unit(benchmark::kMicrosecond);

void zero_check(benchmark::State& state) {
  alignas(64) std::array<std::byte, kPageSize> page{};
  if (state.range(0) != 0) page[static_cast<std::size_t>(state.range(0)) - 1] = std::byte{1};
  for (auto _ : state) benchmark::DoNotOptimize(is_zero_page(page.data()));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
// Zero throughout; not zero at its first byte; only at its last.
BENCHMARK(zero_check)->Arg(0)->Arg(1)->Arg(kPageSize);

void page_hash(benchmark::State& state) {
  const wire::PageDigest digest(session_hasher());
  alignas(64) std::array<std::byte, kPageSize> page{};
  for (auto _ : state) benchmark::DoNotOptimize(digest.hash(page));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(page_hash);

void digest_change(benchmark::State& state) {
  const wire::PageDigest digest(session_hasher());
  std::uint64_t sum = 0;
  std::uint64_t page = 0;
  for (auto _ : state) {
    sum += digest.change(wire::RegionHandle{0}, page, sum, sum + 1);
    ++page;
  }
  benchmark::DoNotOptimize(sum);
}
BENCHMARK(digest_change);

void batch_head(benchmark::State& state) {
  const wire::Hasher hasher = session_hasher();
  wire::PagesEncoder encoder;
  std::uint64_t sequence = 0;
  for (auto _ : state) {
    encoder.begin(wire::RegionHandle{0}, 0);
    for (std::uint64_t page = 0; page < 256; ++page) encoder.add_raw(2 * page, page);
    benchmark::DoNotOptimize(encoder.finish(sequence++, hasher));
  }
  state.SetItemsProcessed(state.iterations() * 256);
}
BENCHMARK(batch_head);

void journal_record(benchmark::State& state) {
  const bool tmpfs = std::filesystem::is_directory("/dev/shm");
  std::string folder = std::string(tmpfs ? "/dev/shm" : "/tmp") + "/migrate-parts.XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return state.SkipWithError("no folder for a journal");
  {
    auto journal = session::Journal::create(folder, wire::SessionId{}, session::BootId{});
    std::uint32_t attempt = 0;
    for (auto _ : state) {
      if (!journal || !journal->record(session::RecordState::kReceiving, ++attempt, {})) {
        state.SkipWithError("the journal could not be written");
        break;
      }
    }
  }
  std::filesystem::remove_all(folder);
}
BENCHMARK(journal_record)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace migrate

BENCHMARK_MAIN();
