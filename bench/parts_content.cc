// What the content of page batches costs: deltas, and packing text as the demo guest's memory has
// it.
#include <benchmark/benchmark.h>
#include <sys/uio.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "adapters/kvm/vmm/demo_guest/fill.hpp"
#include "wire/codec.hpp"
#include "wire/delta.hpp"
#include "wire/packing.hpp"

namespace migrate {
namespace {

using Page = std::array<std::byte, kPageSize>;

constexpr std::size_t kBatchPages = 256;

Page filled(vmm::demo::PageKind kind, std::uint64_t number) {
  Page page;
  const std::uint64_t base = vmm::demo::page_base(1, number);
  for (std::size_t i = 0; i < kPageSize / 8; ++i) {
    const std::uint64_t word = vmm::demo::fill_word(kind, base, i);
    std::memcpy(page.data() + 8 * i, &word, 8);
  }
  return page;
}

std::vector<std::byte> batch_of(vmm::demo::PageKind kind) {
  std::vector<std::byte> content;
  for (std::uint64_t number = 0; number < kBatchPages; ++number) {
    const Page page = filled(kind, number);
    content.insert(content.end(), page.begin(), page.end());
  }
  return content;
}

/// 64 changed bytes: in a row (pieces 1), or in so many pieces over the page.
Page changed(const Page& base, std::size_t pieces) {
  Page page = base;
  const std::size_t bytes = 64 / pieces;
  for (std::size_t piece = 0; piece < pieces; ++piece) {
    for (std::size_t i = 0; i < bytes; ++i) {
      page[piece * (kPageSize / pieces) + 24 + i] ^= std::byte{0x55};
    }
  }
  return page;
}

void delta_encode(benchmark::State& state) {
  const Page base = filled(vmm::demo::PageKind::kRandom, 1);
  const Page page = changed(base, static_cast<std::size_t>(state.range(0)));
  std::array<std::byte, wire::kDeltaPaysBytes> into;
  std::size_t size = 0;
  for (auto _ : state) benchmark::DoNotOptimize(size = wire::encode_delta(base, page, into));
  state.counters["delta_bytes"] = static_cast<double>(size);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(delta_encode)->Arg(1)->Arg(8)->Arg(64);

void delta_encode_of_unlike_pages(benchmark::State& state) {
  const Page base = filled(vmm::demo::PageKind::kRandom, 1);
  const Page page = filled(vmm::demo::PageKind::kRandom, 2);
  std::array<std::byte, wire::kDeltaPaysBytes> into;
  for (auto _ : state) benchmark::DoNotOptimize(wire::encode_delta(base, page, into));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(delta_encode_of_unlike_pages);

void delta_decode_in_place(benchmark::State& state) {
  const Page base = filled(vmm::demo::PageKind::kRandom, 1);
  std::array<std::byte, wire::kDeltaPaysBytes> delta;
  const std::size_t size =
      wire::encode_delta(base, changed(base, static_cast<std::size_t>(state.range(0))), delta);
  Page page = base;
  for (auto _ : state) {
    benchmark::DoNotOptimize(wire::decode_delta(page, std::span(delta).first(size), page));
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kPageSize));
}
BENCHMARK(delta_decode_in_place)->Arg(1)->Arg(8)->Arg(64);

void pack(benchmark::State& state, vmm::demo::PageKind kind) {
  auto packer = wire::ZstdPacker::create();
  if (!packer) return state.SkipWithError("no memory for zstd");
  std::vector<std::byte> content = batch_of(kind);
  std::vector<std::byte> into(content.size());
  const iovec part = {content.data(), content.size()};
  std::size_t size = 0;
  for (auto _ : state) {
    size = *packer->pack({&part, 1}, static_cast<int>(state.range(0)), into);
  }
  const double packed = static_cast<double>(size == 0 ? content.size() : size);
  state.counters["ratio"] = static_cast<double>(content.size()) / packed;
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(content.size()));
}
void pack_text(benchmark::State& state) { pack(state, vmm::demo::PageKind::kText); }
void pack_random(benchmark::State& state) { pack(state, vmm::demo::PageKind::kRandom); }
BENCHMARK(pack_text)->Arg(-5)->Arg(-1)->Arg(1)->Arg(3)->Unit(benchmark::kMicrosecond);
BENCHMARK(pack_random)->Arg(1)->Unit(benchmark::kMicrosecond);

void unpack_text(benchmark::State& state) {
  auto packer = wire::ZstdPacker::create();
  auto unpacker = wire::ZstdUnpacker::create();
  if (!packer || !unpacker) return state.SkipWithError("no memory for zstd");
  std::vector<std::byte> content = batch_of(vmm::demo::PageKind::kText);
  std::vector<std::byte> packed(content.size());
  const iovec part = {content.data(), content.size()};
  packed.resize(*packer->pack({&part, 1}, static_cast<int>(state.range(0)), packed));

  std::vector<std::byte> entries(kBatchPages * wire::kPageEntryBytes);
  for (std::uint64_t i = 0; i < kBatchPages; ++i) {
    wire::store_u64(entries.data() + i * wire::kPageEntryBytes,
                    static_cast<std::uint64_t>(wire::PageEncoding::kRaw) << 56 | i);
  }
  wire::BatchHeader batch;
  batch.entries = kBatchPages;
  batch.codec = wire::ContentCodec::kZstd;
  batch.content_bytes = static_cast<std::uint32_t>(packed.size());
  batch.pages = kBatchPages;
  const auto table = wire::decode_page_table(batch, entries, kBatchPages,
                                             {wire::kEncodingsKnown, wire::kCodecsKnown});
  for (auto _ : state) {
    if (!table || !unpacker->unpack(*table, packed, content)) {
      return state.SkipWithError("the batch was refused");
    }
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(content.size()));
}
BENCHMARK(unpack_text)->Arg(-5)->Arg(1)->Arg(3)->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace migrate
