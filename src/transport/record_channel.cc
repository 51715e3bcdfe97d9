#include "transport/record_channel.hpp"

#include <algorithm>
#include <cstring>

namespace migrate {
namespace {

using SteadyClock = std::chrono::steady_clock;

// What a dozen vCPUs' state has. More leaves at once, so that the peer takes it in meanwhile.
constexpr std::size_t kHeldBytesMax = 64 << 10;

iovec part_of(std::span<const std::byte> bytes) {
  return {const_cast<std::byte*>(bytes.data()), bytes.size()};
}

Error closed_by(const Channel& channel) {
  return make_error(ErrorCode::kLinkLost, "the connection to " + channel.peer() + " was closed")
      .advise("see the other side's output for the reason");
}

/// Drops the first `count` bytes of the scattered buffer `parts`.
void consume(std::span<iovec>& parts, std::size_t count) {
  while (count > 0) {
    const std::size_t step = std::min(count, parts.front().iov_len);
    parts.front().iov_base = static_cast<std::byte*>(parts.front().iov_base) + step;
    parts.front().iov_len -= step;
    count -= step;
    if (parts.front().iov_len == 0) parts = parts.subspan(1);
  }
  while (!parts.empty() && parts.front().iov_len == 0) parts = parts.subspan(1);
}

std::size_t bytes_in(std::span<const iovec> parts) {
  std::size_t bytes = 0;
  for (const iovec& part : parts) bytes += part.iov_len;
  return bytes;
}

}  // namespace

RecordChannel::RecordChannel(std::unique_ptr<Channel> channel, wire::Hasher hasher)
    : channel_(std::move(channel)), hasher_(hasher) {}

Status RecordChannel::send_encoded(nanoseconds idle_max) {
  const iovec part = part_of(out_);
  return send_parts({&part, 1}, out_.size(), idle_max);
}

Status RecordChannel::send_parts(std::span<const iovec> parts, std::size_t bytes,
                                 nanoseconds idle_max) {
  if (cut_short_) {
    return make_error(ErrorCode::kLinkLost,
                      "the connection to " + channel_->peer() + " broke off within a record");
  }
  cut_short_ = true;
  if (held_.empty()) {
    MIGRATE_TRY(send_out(parts, idle_max));
  } else {
    std::vector<iovec> all = {part_of(held_)};
    all.insert(all.end(), parts.begin(), parts.end());
    MIGRATE_TRY(send_out(all, idle_max));
    held_.clear();
  }
  cut_short_ = false;
  sent_at_ = SteadyClock::now();
  ++sent_records_;
  sent_bytes_ += bytes;
  return {};
}

Status RecordChannel::send_out(std::span<const iovec> parts, nanoseconds idle_max) {
  const bool behind = detached_ != nullptr && !detached_->idle();
  if (!detach_) {
    if (behind) MIGRATE_TRY(detached_->finish(idle_max));
    return channel_->send(parts, idle_max);
  }
  if (!behind && channel_->has_room(bytes_in(parts))) return channel_->send(parts, idle_max);
  if (detached_ == nullptr) detached_ = std::make_unique<DetachedSender>(*channel_);
  return detached_->give(parts, idle_max);
}

Status RecordChannel::send_section_data(std::span<const std::byte> bytes, nanoseconds idle_max) {
  const auto header =
      wire::encode_header(wire::RecordType::kSectionData, static_cast<std::uint32_t>(bytes.size()),
                          sent_records_, bytes, hasher_);
  return hold(header, bytes, idle_max);
}

Status RecordChannel::hold(std::span<const std::byte> record, std::span<const std::byte> rest,
                           nanoseconds idle_max) {
  const std::size_t size = record.size() + rest.size();
  if (held_.size() + size > kHeldBytesMax) {
    const std::array<iovec, 2> parts = {part_of(record), part_of(rest)};
    return send_parts(parts, size, idle_max);
  }
  held_.insert(held_.end(), record.begin(), record.end());
  held_.insert(held_.end(), rest.begin(), rest.end());
  ++sent_records_;
  sent_bytes_ += size;
  return {};
}

Status RecordChannel::send_pages(wire::PagesEncoder& encoder, std::span<const iovec> content,
                                 nanoseconds idle_max) {
  return send_head_and(encoder.finish(sent_records_, hasher_), content, encoder.content_bytes(),
                       idle_max);
}

Status RecordChannel::send_head_and(std::span<const std::byte> head, std::span<const iovec> content,
                                    std::size_t content_bytes, nanoseconds idle_max) {
  parts_.clear();
  parts_.push_back(part_of(head));
  parts_.insert(parts_.end(), content.begin(), content.end());
  return send_parts(parts_, head.size() + content_bytes, idle_max);
}

Status RecordChannel::fill(std::span<std::byte> into, nanoseconds idle_max) {
  iovec part = {into.data(), into.size()};
  return receive_content({&part, 1}, idle_max);
}

Status RecordChannel::receive_content(std::span<iovec> parts, nanoseconds idle_max) {
  consume(parts, 0);
  while (!parts.empty() && ahead_begin_ < ahead_end_) {
    const std::size_t step = std::min(parts.front().iov_len, ahead_end_ - ahead_begin_);
    std::memcpy(parts.front().iov_base, ahead_.data() + ahead_begin_, step);
    ahead_begin_ += step;
    consume(parts, step);
  }
  while (!parts.empty()) {
    // Nothing is read ahead now: what comes beyond `parts` lands at the buffer's start.
    const std::size_t wanted = bytes_in(parts);
    into_.assign(parts.begin(), parts.end());
    into_.push_back({ahead_.data(), ahead_.size()});
    MIGRATE_ASSIGN(const std::size_t got, receive_some(into_, idle_max));
    if (got == 0) return closed_by(*channel_);
    ahead_begin_ = 0;
    ahead_end_ = got > wanted ? got - wanted : 0;
    consume(parts, std::min(got, wanted));
  }
  return {};
}

Status RecordChannel::read_ahead(nanoseconds idle_max) {
  const iovec part = {ahead_.data(), ahead_.size()};
  auto received = channel_->receive({&part, 1}, idle_max);
  if (!received) return std::move(received).error();
  const std::size_t got = *received;
  if (got == 0) return closed_by(*channel_);
  note_received(got);
  ahead_begin_ = 0;
  ahead_end_ = got;
  return {};
}

void RecordChannel::note_received(std::size_t bytes) {
  received_bytes_ += bytes;
  if (heard_ != nullptr) heard_->fetch_add(bytes, std::memory_order_relaxed);
}

/// Within a record: goes on waiting while the peer is heard of elsewhere.
Result<std::size_t> RecordChannel::receive_some(std::span<const iovec> parts,
                                                nanoseconds idle_max) {
  for (;;) {
    const std::uint64_t heard = heard_ != nullptr ? heard_->load(std::memory_order_relaxed) : 0;
    auto got = channel_->receive(parts, idle_max);
    if (got) {
      note_received(*got);
      return got;
    }
    const bool elsewhere = heard_ != nullptr && heard_->load(std::memory_order_relaxed) != heard;
    if (got.error().code != ErrorCode::kTimeout || !elsewhere) return got;
  }
}

Result<wire::RecordType> RecordChannel::next_type(nanoseconds idle_max) {
  if (ahead_begin_ == ahead_end_) MIGRATE_TRY(read_ahead(idle_max));
  // A header comes in one piece, or its second byte is 0: no optional type is waited for.
  const auto low = std::to_integer<std::uint16_t>(ahead_[ahead_begin_]);
  const auto high = ahead_end_ - ahead_begin_ > 1
                        ? std::to_integer<std::uint16_t>(ahead_[ahead_begin_ + 1])
                        : std::uint16_t{0};
  return static_cast<wire::RecordType>(low | high << 8);
}

Status RecordChannel::keep_alive(nanoseconds idle_max) {
  if (SteadyClock::now() - sent_at_ < alive_period(idle_max)) return {};
  return send(wire::Alive{}, idle_max);
}

Result<RecordChannel::Record> RecordChannel::receive_alive(nanoseconds idle_max,
                                                           const std::function<bool()>& patient) {
  auto heard_at = SteadyClock::now();
  for (;;) {
    const std::uint64_t before = received_bytes_;
    auto record = receive(alive_period(idle_max));
    if (record || record.error().code != ErrorCode::kTimeout) return record;
    if (patient && !patient()) return record;
    const auto now = SteadyClock::now();
    if (received_bytes_ != before) heard_at = now;
    if (now - heard_at >= idle_max) return record;
  }
}

Result<RecordChannel::Record> RecordChannel::receive_whole(SteadyClock::time_point until) {
  for (;;) {
    MIGRATE_TRY(gather_record(until));
    auto record = receive(nanoseconds(0));
    // A sign of life is no record.
    if (record || record.error().code != ErrorCode::kTimeout || SteadyClock::now() >= until) {
      return record;
    }
  }
}

/// Until a record lies in ahead_ from its first byte to its last.
Status RecordChannel::gather_record(SteadyClock::time_point until) {
  for (;;) {
    const std::size_t there = ahead_end_ - ahead_begin_;
    if (there >= wire::kRecordHeaderBytes) {
      std::uint32_t length = 0;
      for (std::size_t i = 4; i-- > 0;) {
        length = length << 8 | std::to_integer<std::uint32_t>(ahead_[ahead_begin_ + 4 + i]);
      }
      if (length > ahead_.size() - wire::kRecordHeaderBytes) {
        return make_error(ErrorCode::kProtocol, channel_->peer() + " sent a record of " +
                                                    std::to_string(length) +
                                                    " bytes where none of that size may come");
      }
      if (there - wire::kRecordHeaderBytes >= length) return {};
    }
    std::memmove(ahead_.data(), ahead_.data() + ahead_begin_, there);
    ahead_begin_ = 0;
    ahead_end_ = there;
    const iovec part = {ahead_.data() + there, ahead_.size() - there};
    const nanoseconds left = until - SteadyClock::now();
    MIGRATE_ASSIGN(const std::size_t got,
                   channel_->receive({&part, 1}, std::max(left, nanoseconds(0))));
    if (got == 0) return closed_by(*channel_);
    note_received(got);
    ahead_end_ += got;
  }
}

bool RecordChannel::has_news(nanoseconds wait) {
  if (ahead_begin_ != ahead_end_) return true;
  const Status read = read_ahead(wait);
  return read || read.error().code != ErrorCode::kTimeout;
}

Result<RecordChannel::Record> RecordChannel::receive(nanoseconds idle_max) {
  const auto begin = SteadyClock::now();
  for (nanoseconds left = idle_max;; left = idle_max - (SteadyClock::now() - begin)) {
    if (ahead_begin_ == ahead_end_) {
      MIGRATE_TRY(read_ahead(std::max(left, nanoseconds(0))));
    }
    if (torn_) {
      return make_error(ErrorCode::kLinkLost,
                        "the connection to " + channel_->peer() + " broke off within a record");
    }
    torn_ = true;
    MIGRATE_ASSIGN(const Record record, receive_rest(std::max(idle_max, mid_record_idle_)));
    torn_ = false;
    const wire::RecordHeader& header = record.header;
    if (!header.known() || header.type == wire::RecordType::kAlive) {
      if (SteadyClock::now() - begin < idle_max) continue;
      // Who says nothing else, as fast as it can, does not keep us here.
      return make_error(ErrorCode::kTimeout,
                        channel_->peer() + " sent nothing but signs of life in time");
    }
    if (header.type == wire::RecordType::kError) {
      MIGRATE_ASSIGN(wire::ErrorRecord carried, wire::decode<wire::ErrorRecord>(record.body));
      return std::move(carried.error);
    }
    return record;
  }
}

Result<RecordChannel::Record> RecordChannel::receive_rest(nanoseconds idle_max) {
  std::array<std::byte, wire::kRecordHeaderBytes> bytes;
  MIGRATE_TRY(fill(bytes, idle_max));
  MIGRATE_ASSIGN(const wire::RecordHeader header, wire::decode_header(bytes, received_records_));
  ++received_records_;
  if (header.type == wire::RecordType::kPages) return Record{header, {}};
  return receive_body(header, idle_max);
}

Result<RecordChannel::Record> RecordChannel::receive_body(const wire::RecordHeader& header,
                                                          nanoseconds idle_max) {
  body_.resize(header.length);
  MIGRATE_TRY(fill(body_, idle_max));
  MIGRATE_TRY(wire::check_record(header, body_, hasher_));
  return Record{header, body_};
}

Error RecordChannel::unexpected(const Record& got, wire::RecordType wanted) {
  if (got.header.type == wire::RecordType::kDiscarded) {
    auto discarded = wire::decode<wire::Discarded>(got.body);
    return discarded ? std::move(discarded->error).on(Side::kTarget) : std::move(discarded).error();
  }
  if (got.header.type == wire::RecordType::kAbort) {
    auto abort = wire::decode<wire::Abort>(got.body);
    return abort ? std::move(abort->error).on(Side::kSource) : std::move(abort).error();
  }
  return make_error(ErrorCode::kProtocol, "got " + std::string(wire::to_string(got.header.type)) +
                                              " where " + std::string(wire::to_string(wanted)) +
                                              " was due");
}

Result<RecordChannel::BatchHead> RecordChannel::receive_batch_head(const wire::RecordHeader& header,
                                                                   nanoseconds idle_max) {
  body_.resize(wire::kBatchHeaderBytes);
  MIGRATE_TRY(fill(body_, idle_max));
  MIGRATE_ASSIGN(const wire::BatchHeader batch,
                 wire::decode_batch_header(header,
                                           std::span<const std::byte, wire::kBatchHeaderBytes>(
                                               body_.data(), wire::kBatchHeaderBytes),
                                           agreed_));
  body_.resize(batch.head_bytes());
  MIGRATE_TRY(fill(std::span(body_).subspan(wire::kBatchHeaderBytes), idle_max));
  MIGRATE_TRY(wire::check_record(header, body_, hasher_));
  return BatchHead{batch, std::span<const std::byte>(body_).subspan(wire::kBatchHeaderBytes)};
}

}  // namespace migrate
