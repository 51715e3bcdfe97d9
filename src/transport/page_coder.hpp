// PageCoder: what becomes of a batch of pages on its way to the wire. A lane has one.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "memory/page_ledger.hpp"
#include "migrate/memory.hpp"
#include "transport/compression_policy.hpp"
#include "transport/page_counts.hpp"
#include "transport/page_originals.hpp"
#include "transport/sent_pages.hpp"
#include "wire/digest.hpp"
#include "wire/packing.hpp"
#include "wire/pages.hpp"

namespace migrate {

/// Pages of one region to be looked at, in ascending order.
struct PageBatch {
  /// 1 MiB of content fits a core's L2 cache beside the table, and 256 iovecs are one system call.
  static constexpr std::size_t kPagesMax = 256;

  PageLedger::Entry* entry = nullptr;
  std::uint32_t round = 0;
  bool stable = false;  ///< The guest stands: content may leave straight from its memory.
  std::uint32_t count = 0;
  std::array<std::uint64_t, kPagesMax> pages{};  ///< Numbered from the region's first.
};

struct CodedPages : PageCounts {
  std::uint64_t unchanged = 0;  ///< Dirty by the log, but equal to what the target has.
  std::uint64_t gone = 0;       ///< Their memory was no longer there.
  CodedPages& operator+=(const CodedPages& other) {
    PageCounts::operator+=(other);
    unchanged += other.unchanged;
    gone += other.gone;
    return *this;
  }
  /// That the target had not got, other than as zeros.
  [[nodiscard]] std::uint64_t sent() const { return raw + compressed + delta + duplicate; }
};

/// One thread's. Does not allocate after the first batches.
class PageCoder {
 public:
  struct Context {
    PageSource& pages;
    PageLedger& ledger;
    const wire::PageDigest& digest;
    SentPages& sent;
    PageOriginals& originals;
    wire::AgreedContent agreed;
    CompressionChoice compression;
  };
  /// kNoMemory.
  static Result<PageCoder> create(const Context& context);

  /// Looks at the batch's pages, and codes those that the target does not have as they are; enters
  /// them in the ledger as sent. `round_set`: what is sent in this round, on all lanes. `resend`:
  /// one page goes although the target has it.
  Status code(const PageBatch& batch, const PageBitmap& round_set, bool resend);
  /// Nothing is to be sent.
  [[nodiscard]] bool empty() const { return encoder_.empty(); }
  /// Of the content before packing.
  [[nodiscard]] std::size_t content_bytes() const { return encoder_.content_bytes(); }

  /// Packs what code() made, where it pays.
  Status pack();
  /// Says how the record just sent fared: `took` since code() was called, `waiting` of it for the
  /// socket or the bandwidth limit.
  void note_sent(std::chrono::nanoseconds took, std::chrono::nanoseconds waiting);
  [[nodiscard]] bool wants_times() const {
    return context_.compression.mode == CompressionChoice::Mode::kAuto;
  }

  /// Of the record as it leaves.
  [[nodiscard]] std::size_t wire_bytes() const {
    return encoder_.head_bytes() + wire_content_bytes();
  }
  /// Bytes after the head.
  [[nodiscard]] std::size_t wire_content_bytes() const {
    return packed_bytes_ > 0 ? packed_bytes_ : encoder_.content_bytes();
  }
  /// The record: header, batch header and table, and the parts that follow. Valid until code().
  [[nodiscard]] std::span<const std::byte> head(std::uint64_t sequence, const wire::Hasher& hasher);
  [[nodiscard]] std::span<const iovec> content() const { return content_; }

  /// Since asked last.
  [[nodiscard]] CodedPages take_counts() { return std::exchange(counts_, {}); }
  [[nodiscard]] const CodedPages& counts() const { return counts_; }

 private:
  PageCoder(const Context& context, wire::ZstdPacker packer);
  Status gather(const PageBatch& batch);
  void stage(const std::byte* from, std::uint32_t first, std::uint32_t count);
  void add(PageLedger::Entry& entry, std::uint64_t page, const std::byte* content,
           std::uint64_t hash, const PageBatch& batch, const PageBitmap& round_set);
  [[nodiscard]] std::optional<wire::PageReference> original_of(std::uint64_t hash,
                                                               const std::byte* content,
                                                               const PageBitmap& round_set);
  Result<std::size_t> pack_sample(int level);
  [[nodiscard]] bool agreed(wire::PageEncoding encoding) const {
    return (context_.agreed.encodings & wire::set_of(encoding)) != 0;
  }

  Context context_;
  wire::ZstdPacker packer_;
  CompressionPolicy policy_;
  wire::PagesEncoder encoder_;
  std::vector<std::byte> staging_;  // A running guest's pages are hashed and sent from this copy.
  std::array<const std::byte*, PageBatch::kPagesMax> page_{};
  std::array<std::byte, wire::kDeltaPaysBytes> delta_{};
  std::vector<iovec> content_;
  std::vector<iovec> sample_;
  std::vector<std::byte> packed_;
  std::size_t packed_bytes_ = 0;  // 0: the content leaves as it is.
  std::uint64_t batch_raw_ = 0;   // Pages of the batch that go whole.
  CompressionPolicy::Plan plan_;
  CompressionPolicy::Batch batch_;
  CodedPages counts_;
};

}  // namespace migrate
