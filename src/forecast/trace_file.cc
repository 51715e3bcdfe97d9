// A dirty trace as bytes: docs/trace-format.md.
#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "forecast/trace_pages.hpp"
#include "migrate/dirty_trace.hpp"
#include "wire/codec.hpp"
#include "wire/hasher.hpp"
#include "wire/limits.hpp"

namespace migrate {
namespace {

using forecast::PageSetForm;
using wire::TextKind;

constexpr std::array<char, 8> kMagic = {'M', 'I', 'G', 'T', 'R', 'A', 'C', 'E'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kPrologueBytes = 16;
constexpr std::size_t kHeaderBytes = 24;
constexpr std::size_t kHeaderChecked = 16;  // What of it the checksum covers.
// 4 TiB of guest: what replays a trace has two bytes of memory for each page.
constexpr std::uint64_t kPagesMax = std::uint64_t{1} << 30;
// 10 minutes at 1 ms.
constexpr std::size_t kSamplesMax = 600'000;
// One bit for each page there may be.
constexpr std::size_t kSetBytesMax = kPagesMax / 8;
constexpr std::size_t kTrackerBytesMax = 255;
constexpr std::size_t kRegionBytesMin = 29;

enum class Type : std::uint16_t { kGuest = 1, kEmpty = 2, kSample = 3, kEnd = 4 };

const char* name_of(Type type) {
  switch (type) {
    case Type::kGuest:
      return "GUEST";
    case Type::kEmpty:
      return "EMPTY";
    case Type::kSample:
      return "SAMPLE";
    case Type::kEnd:
      return "END";
  }
  return "unknown";
}

/// Of a whole record: over its header up to the checksum, and the hash of its body.
std::uint64_t checksum(std::span<const std::byte> record) {
  std::array<std::byte, kHeaderChecked + 8> covered;
  std::memcpy(covered.data(), record.data(), kHeaderChecked);
  const wire::Hasher hasher;
  wire::store_u64(covered.data() + kHeaderChecked, hasher.hash(record.subspan(kHeaderBytes)));
  return hasher.hash(covered);
}

struct End {
  std::uint32_t samples = 0;
  std::uint64_t dirtied = 0;  // Of all samples together.
};

/// Microseconds as 32 bits: 71 minutes.
template <typename Io, typename Time>
void duration(Io& io, Time& value, const char* what) {
  std::uint32_t us = 0;
  if constexpr (!Io::kReads) {
    io.require(value.count() >= 0 && value.count() <= UINT32_MAX, what);
    us = static_cast<std::uint32_t>(value.count());
  }
  io.u32(us);
  if constexpr (Io::kReads) value = std::chrono::microseconds(us);
}

template <typename Io, typename Trace>
void guest(Io& io, Trace& trace) {
  io.text(trace.guest, TextKind::kName, {"the guest's name", wire::kNameBytesMax});
  io.choice(trace.kind, "the guest's kind", GuestKind::kVm, GuestKind::kContainer);
  io.u32(trace.vcpus);
  io.require(trace.vcpus <= wire::kVcpusMax, "the number of vCPUs");
  io.boolean(trace.paused, "whether it stood");
  io.u64(trace.recorded_at_s);
  io.text(trace.tracker, TextKind::kName, {"the tracker's name", kTrackerBytesMax});
  io.boolean(trace.rearms_in_collect, "when it re-arms");
  duration(io, trace.interval, "the interval");
  duration(io, trace.costs.pause, "the pause");
  duration(io, trace.costs.collect, "the collect");
  duration(io, trace.costs.state_save, "the saving of state");
  io.u64(trace.costs.state_bytes);
  io.u32(trace.page_wire_bytes);
  io.require(trace.page_wire_bytes >= kPageSize && trace.page_wire_bytes <= 2 * kPageSize,
             "a page's bytes on the wire");
  io.list(trace.regions, kRegionBytesMin, {"regions", wire::kRegionsMax}, [&](auto& region) {
    auto copy = region;
    io.u32(copy.id.space);
    io.u32(copy.id.id);
    io.u32(copy.id.generation);
    io.choice(copy.backing, "backing", Backing::kUnknown, Backing::kFile);
    io.u64(copy.range.first.number);
    io.u64(copy.range.count);
    io.require(copy.range.count > 0 && copy.range.count <= kPagesMax &&
                   copy.range.first.number <= wire::kPageNumberMax - copy.range.count,
               "the region's pages");
    if constexpr (Io::kReads) region = copy;
  });
}

/// A set is the last field of its record.
template <typename Io>
void page_set(Io& io, PageSetForm& form, std::vector<std::byte>& bytes) {
  io.choice(form, "the set's form", PageSetForm::kRuns, PageSetForm::kWords);
  if constexpr (Io::kReads) {
    io.blob(bytes, {"the set's bytes", kSetBytesMax});
  } else {
    io.blob(std::span<const std::byte>(bytes), {"the set's bytes", kSetBytesMax});
  }
}

template <typename Io, typename Sample>
void sample_head(Io& io, Sample& sample) {
  duration(io, sample.took, "what a sample took");
  io.require(sample.took.count() > 0, "a sample took no time");
  io.list(sample.by_vcpu, 8, {"vCPUs", wire::kVcpusMax}, [&](auto& pages) {
    auto copy = pages;
    io.u64(copy);
    if constexpr (Io::kReads) pages = copy;
  });
}

template <typename Io>
void end(Io& io, End& end) {
  io.u32(end.samples);
  io.u64(end.dirtied);
}

Status check_regions(const DirtyTrace& trace) {
  std::set<RegionId> ids;
  std::uint64_t pages = 0;
  for (const Region& region : trace.regions) {
    if (!ids.insert(region.id).second) {
      return make_error(ErrorCode::kInvalidArgument,
                        "the trace has region " + to_text(region.id) + " twice");
    }
    pages += region.range.count;
    if (pages > kPagesMax) {
      return make_error(ErrorCode::kInvalidArgument,
                        "the trace is of a guest with more than 4 TiB of memory");
    }
  }
  return {};
}

class Encoder {
 public:
  explicit Encoder(const DirtyTrace& trace) : trace_(trace), total_(trace.pages()) {}

  Result<std::vector<std::byte>> encode() {
    MIGRATE_TRY(check_regions(trace_));
    prologue();
    MIGRATE_TRY(record(Type::kGuest, [&](wire::Writer& writer) {
      guest(writer, trace_);
      return Status{};
    }));
    MIGRATE_TRY(
        record(Type::kEmpty, [&](wire::Writer& writer) { return pages(writer, trace_.empty); }));
    End last;
    last.samples = static_cast<std::uint32_t>(trace_.samples.size());
    for (const TraceSample& sample : trace_.samples) {
      last.dirtied += forecast::count(sample.dirtied);
      MIGRATE_TRY(record(Type::kSample, [&](wire::Writer& writer) {
        sample_head(writer, sample);
        return pages(writer, sample.dirtied);
      }));
    }
    if (trace_.samples.size() > kSamplesMax) {
      return make_error(ErrorCode::kInvalidArgument, "a trace has at most 600000 samples");
    }
    MIGRATE_TRY(record(Type::kEnd, [&](wire::Writer& writer) {
      end(writer, last);
      return Status{};
    }));
    return std::move(out_);
  }

 private:
  void prologue() {
    const auto magic = std::as_bytes(std::span(kMagic));
    out_.assign(magic.begin(), magic.end());
    out_.resize(kPrologueBytes);
    wire::store_u32(out_.data() + 8, kVersion);
    wire::store_u32(out_.data() + 12, static_cast<std::uint32_t>(kPageSize));
  }
  Status pages(wire::Writer& writer, const TracePages& set) const {
    if (!forecast::is_in_order(set, total_)) {
      return make_error(ErrorCode::kInvalidArgument,
                        "a set of the trace's pages is not in order, or beyond its regions");
    }
    forecast::PackedPages packed = forecast::pack(set, total_);
    page_set(writer, packed.form, packed.bytes);
    return {};
  }
  template <typename Write>
  Status record(Type type, Write write) {
    const std::size_t begin = out_.size();
    out_.resize(begin + kHeaderBytes);
    wire::Writer writer(name_of(type), out_);
    MIGRATE_TRY(write(writer));
    MIGRATE_TRY(writer.finish());
    std::byte* header = out_.data() + begin;
    wire::store_u16(header, static_cast<std::uint16_t>(type));
    wire::store_u16(header + 2, 0);
    wire::store_u32(header + 4, static_cast<std::uint32_t>(out_.size() - begin - kHeaderBytes));
    wire::store_u64(header + 8, sequence_++);
    wire::store_u64(header + 16, checksum({header, out_.size() - begin}));
    return {};
  }

  const DirtyTrace& trace_;
  const std::uint64_t total_;
  std::vector<std::byte> out_;
  std::uint64_t sequence_ = 0;
};

class Decoder {
 public:
  explicit Decoder(std::span<const std::byte> bytes) : bytes_(bytes) {}

  Result<DirtyTrace> decode() {
    MIGRATE_TRY(prologue());
    MIGRATE_TRY(next());
    MIGRATE_TRY(expect(Type::kGuest));
    MIGRATE_TRY(read([&](wire::Reader& reader) { guest(reader, trace_); }));
    MIGRATE_TRY(check_regions(trace_));
    total_ = trace_.pages();
    MIGRATE_TRY(next());
    MIGRATE_TRY(expect(Type::kEmpty));
    MIGRATE_TRY(read_set(trace_.empty, [](wire::Reader&) {}));
    std::uint64_t dirtied = 0;
    MIGRATE_TRY(next());
    while (type_ == Type::kSample) {
      if (trace_.samples.size() == kSamplesMax)
        return damaged("more samples than a trace may have");
      TraceSample& sample = trace_.samples.emplace_back();
      MIGRATE_TRY(
          read_set(sample.dirtied, [&](wire::Reader& reader) { sample_head(reader, sample); }));
      dirtied += forecast::count(sample.dirtied);
      MIGRATE_TRY(next());
    }
    MIGRATE_TRY(expect(Type::kEnd));
    End last;
    MIGRATE_TRY(read([&](wire::Reader& reader) { end(reader, last); }));
    if (last.samples != trace_.samples.size() || last.dirtied != dirtied) {
      return damaged("it does not have the samples that END counts");
    }
    if (at_ != bytes_.size()) return damaged("bytes follow END");
    return std::move(trace_);
  }

 private:
  Status prologue() {
    if (bytes_.size() < kMagic.size() ||
        std::memcmp(bytes_.data(), kMagic.data(), kMagic.size()) != 0) {
      return make_error(ErrorCode::kInvalidArgument,
                        "not a dirty trace: it does not begin with MIGTRACE (byte 0)")
          .advise("give a file that `migrate predict --record` has written");
    }
    if (bytes_.size() < kPrologueBytes) return cut();
    if (const auto version = wire::load_u32(bytes_.data() + 8); version != kVersion) {
      return make_error(ErrorCode::kVersionMismatch, "the trace is of version " +
                                                         std::to_string(version) +
                                                         " (byte 8), and only version 1 is known")
          .advise("use the version of migrate that recorded it, or record again");
    }
    if (const auto size = wire::load_u32(bytes_.data() + 12); size != kPageSize) {
      at_ = 12;
      return damaged("pages of " + std::to_string(size) + " bytes");
    }
    at_ = kPrologueBytes;
    return {};
  }

  /// Takes the next record: its header is checked, its body stands in body_.
  Status next() {
    if (bytes_.size() - at_ < kHeaderBytes) return cut();
    const std::byte* header = bytes_.data() + at_;
    const std::uint32_t length = wire::load_u32(header + 4);
    if (bytes_.size() - at_ - kHeaderBytes < length) return cut();
    const std::span record(header, kHeaderBytes + length);
    if (wire::load_u64(header + 16) != checksum(record)) {
      return damaged("a record's checksum does not match");
    }
    if (wire::load_u64(header + 8) != sequence_) return damaged("a record is missing or twice");
    const std::uint16_t type = wire::load_u16(header);
    if (type < static_cast<std::uint16_t>(Type::kGuest) ||
        type > static_cast<std::uint16_t>(Type::kEnd) || wire::load_u16(header + 2) != 0) {
      return damaged("a record of a type that is not known");
    }
    ++sequence_;
    type_ = static_cast<Type>(type);
    body_ = record.subspan(kHeaderBytes);
    body_at_ = at_ + kHeaderBytes;
    at_ += record.size();
    return {};
  }

  Status expect(Type type) {
    if (type_ == type) return {};
    at_ = body_at_ - kHeaderBytes;
    return damaged(std::string(name_of(type_)) + " where " + name_of(type) + " is due");
  }

  template <typename Fields>
  Status read(Fields fields) {
    wire::Reader reader(name_of(type_), body_, body_at_);
    fields(reader);
    if (Status read = reader.finish(); !read) {
      return damaged_as(std::move(read).error().message);
    }
    return {};
  }

  template <typename Fields>
  Status read_set(TracePages& set, Fields fields) {
    PageSetForm form{};
    std::vector<std::byte> packed;
    MIGRATE_TRY(read([&](wire::Reader& reader) {
      fields(reader);
      page_set(reader, form, packed);
    }));
    const std::uint64_t offset = body_at_ + body_.size() - packed.size();
    auto unpacked = forecast::unpack(form, packed, total_, kTraceRunsMax - runs_, offset);
    if (!unpacked) return damaged_as(std::move(unpacked).error().message);
    set = *std::move(unpacked);
    runs_ += set.size();
    return {};
  }

  static Error damaged_as(std::string message) {
    return make_error(ErrorCode::kIntegrity, std::move(message))
        .advise("the trace is damaged: record again (`migrate predict NAME --record FILE`)");
  }
  [[nodiscard]] Error damaged(const std::string& what) const {
    return damaged_as("invalid trace, byte " + std::to_string(at_) + ": " + what);
  }
  [[nodiscard]] Error cut() const {
    return damaged("it ends too early, there is no END (at byte " + std::to_string(bytes_.size()) +
                   ")");
  }

  const std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  std::uint64_t sequence_ = 0;
  Type type_ = Type::kGuest;
  std::span<const std::byte> body_;
  std::size_t body_at_ = 0;
  std::uint64_t total_ = 0;
  std::size_t runs_ = 0;
  DirtyTrace trace_;
};

}  // namespace

std::uint64_t DirtyTrace::pages() const {
  std::uint64_t sum = 0;
  for (const Region& region : regions) sum += region.range.count;
  return sum;
}

std::chrono::microseconds DirtyTrace::length() const {
  std::chrono::microseconds sum{0};
  for (const TraceSample& sample : samples) sum += sample.took;
  return sum;
}

Result<std::vector<std::byte>> encode_trace(const DirtyTrace& trace) {
  return Encoder(trace).encode();
}

Result<DirtyTrace> decode_trace(std::span<const std::byte> bytes) {
  return Decoder(bytes).decode();
}

}  // namespace migrate
