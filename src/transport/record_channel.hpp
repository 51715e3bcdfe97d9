// RecordChannel: records on a Channel, with their sequence numbers and checksums.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "migrate/channel.hpp"
#include "migrate/result.hpp"
#include "transport/detached_sender.hpp"
#include "wire/hasher.hpp"
#include "wire/messages.hpp"
#include "wire/pages.hpp"
#include "wire/record.hpp"

namespace migrate {

using std::chrono::nanoseconds;

/// One lane. One thread sends and one receives; interrupt() and shutdown() come from any.
///
/// Receiving: receive() gives a record's header. For PAGES the caller then takes the rest with
/// receive_batch_head() and receive_content(); every other body is in the record already.
class RecordChannel {
 public:
  /// How long a peer that has begun a record may fall silent, whatever receive() is told: it has
  /// the bytes at hand, so only a dead link takes longer than the first of these two.
  static constexpr nanoseconds kMidRecordIdle = std::chrono::seconds(10);
  void set_mid_record_idle(nanoseconds idle) { mid_record_idle_ = idle; }

  /// Bytes that come are added to `heard`, which other channels of the session share. Within a
  /// record the peer's silence then counts only where nothing was added meanwhile. Must outlive
  /// this.
  void set_heard(std::atomic<std::uint64_t>& heard) { heard_ = &heard; }

  explicit RecordChannel(std::unique_ptr<Channel> channel, wire::Hasher hasher = {});

  /// From now on records are keyed, both ways.
  void set_hasher(const wire::Hasher& hasher) { hasher_ = hasher; }
  [[nodiscard]] const wire::Hasher& hasher() const { return hasher_; }
  /// What PAGES may hold, as WELCOME has it.
  void set_agreed(const wire::AgreedContent& agreed) { agreed_ = agreed; }

  /// From now on no send waits: what the connection does not hold goes out by a thread of its own,
  /// before anything that is sent later. An error may be that of an earlier record. With `detach`
  /// false sends wait again, for what is left of that too.
  void set_detached(bool detach) { detach_ = detach; }

  template <typename Message>
  Status send(const Message& message, nanoseconds idle_max) {
    MIGRATE_TRY(wire::encode_record(message, sent_records_, hasher_, out_));
    return send_encoded(idle_max);
  }
  /// As send(), but the record may stay here until a later send() takes it along, so that small
  /// records which nobody acts on by themselves cost one system call and wake the peer once.
  template <typename Message>
  Status send_later(const Message& message, nanoseconds idle_max) {
    MIGRATE_TRY(wire::encode_record(message, sent_records_, hasher_, out_));
    return hold(out_, {}, idle_max);
  }
  /// SECTION_DATA, as send_later() does.
  Status send_section_data(std::span<const std::byte> bytes, nanoseconds idle_max);
  /// A PAGES record: `make_head(sequence, hasher)` gives its header, batch header and table, and
  /// `content` (content_bytes together) follows.
  template <typename MakeHead>
  Status send_pages(MakeHead&& make_head, std::span<const iovec> content, std::size_t content_bytes,
                    nanoseconds idle_max) {
    return send_head_and(make_head(sent_records_, hasher_), content, content_bytes, idle_max);
  }
  /// The batch in `encoder`, whose content is the pages in `content`, in order.
  Status send_pages(wire::PagesEncoder& encoder, std::span<const iovec> content,
                    nanoseconds idle_max);

  struct Record {
    wire::RecordHeader header;
    std::span<const std::byte> body;  ///< Empty for PAGES; valid until the next call.
  };
  /// The next record of a known type. A closed stream is kLinkLost; an ERROR record comes back as
  /// the error it carries, with side and phase as the peer set them. kTimeout before the record's
  /// first byte loses nothing: call again. Within a record the peer may be silent for
  /// that at least: set_mid_record_idle(). Records that are skipped do not prolong the wait.
  Result<Record> receive(nanoseconds idle_max);
  /// receive(), for which a sign of life begins the wait anew: kTimeout when no byte came for
  /// `idle_max`. Says nothing itself: two sides that wait for each other would go on for ever. Nor
  /// need the peer ever say more: kTimeout also once `patient`, asked after each alive_period(), is
  /// false.
  Result<Record> receive_alive(nanoseconds idle_max, const std::function<bool()>& patient = {});
  /// receive() that ends at `until` even where a record has begun to come: kTimeout then loses
  /// nothing. For records that fit the read-ahead; a longer one is kProtocol.
  Result<Record> receive_whole(std::chrono::steady_clock::time_point until);
  /// Says ALIVE, when nothing was sent here for alive_period(idle_max). For waits for others, where
  /// the peer receives: a socket holds a few hundred of them.
  Status keep_alive(nanoseconds idle_max);
  /// How often to call keep_alive(): often enough that the peer hears it in time. Its patience may
  /// be less than `idle_max`, which is this side's own.
  [[nodiscard]] static nanoseconds alive_period(nanoseconds idle_max) {
    return std::min<nanoseconds>(idle_max / 4, std::chrono::seconds(1));
  }
  /// Waits until receive() would return at once, with a record's beginning or with a failure; false
  /// when it would not within `wait`.
  [[nodiscard]] bool has_news(nanoseconds wait = nanoseconds(0));
  /// The type of what receive() would give next; fails as it does, and loses nothing.
  Result<wire::RecordType> next_type(nanoseconds idle_max);
  /// receive() of exactly this type. DISCARDED and ABORT come back as the error they carry, any
  /// other type is kProtocol.
  template <typename Message>
  Result<Message> expect(nanoseconds idle_max) {
    MIGRATE_ASSIGN(Record record, receive(idle_max));
    if (record.header.type != Message::kType) return unexpected(record, Message::kType);
    return wire::decode<Message>(record.body);
  }
  /// The same by receive_alive().
  template <typename Message>
  Result<Message> expect_alive(nanoseconds idle_max) {
    MIGRATE_ASSIGN(Record record, receive_alive(idle_max));
    if (record.header.type != Message::kType) return unexpected(record, Message::kType);
    return wire::decode<Message>(record.body);
  }
  [[nodiscard]] static Error unexpected(const Record& got, wire::RecordType wanted);

  struct BatchHead {
    wire::BatchHeader batch;
    std::span<const std::byte>
        table;  ///< Checksummed, not decoded; valid until the next receive().
  };
  Result<BatchHead> receive_batch_head(const wire::RecordHeader& header, nanoseconds idle_max);
  /// Fills `parts` exactly.
  Status receive_content(std::span<iovec> parts, nanoseconds idle_max);

  Channel& channel() { return *channel_; }
  [[nodiscard]] const Channel& channel() const { return *channel_; }
  [[nodiscard]] std::uint64_t sent_bytes() const { return sent_bytes_; }
  [[nodiscard]] std::uint64_t received_bytes() const { return received_bytes_; }

 private:
  Status send_encoded(nanoseconds idle_max);
  Status send_head_and(std::span<const std::byte> head, std::span<const iovec> content,
                       std::size_t content_bytes, nanoseconds idle_max);
  Status hold(std::span<const std::byte> record, std::span<const std::byte> rest,
              nanoseconds idle_max);
  Status send_parts(std::span<const iovec> parts, std::size_t bytes, nanoseconds idle_max);
  Status send_out(std::span<const iovec> parts, nanoseconds idle_max);
  Status read_ahead(nanoseconds idle_max);
  Status gather_record(std::chrono::steady_clock::time_point until);
  void note_received(std::size_t bytes);
  Result<std::size_t> receive_some(std::span<const iovec> parts, nanoseconds idle_max);
  Status fill(std::span<std::byte> into, nanoseconds idle_max);
  Result<Record> receive_rest(nanoseconds idle_max);
  Result<Record> receive_body(const wire::RecordHeader& header, nanoseconds idle_max);

  std::unique_ptr<Channel> channel_;
  wire::Hasher hasher_;
  wire::AgreedContent agreed_;
  nanoseconds mid_record_idle_ = kMidRecordIdle;
  std::atomic<std::uint64_t>* heard_ = nullptr;

  // Owned by the sending thread.
  std::vector<std::byte> out_;
  std::vector<std::byte> held_;  // Whole records that leave before the next.
  std::vector<iovec> parts_;
  std::uint64_t sent_records_ = 0;
  std::uint64_t sent_bytes_ = 0;
  std::chrono::steady_clock::time_point sent_at_ = std::chrono::steady_clock::now();
  bool cut_short_ = false;  // A record may have left in part: nothing may follow it.
  bool detach_ = false;
  std::unique_ptr<DetachedSender> detached_;  // Once something did not fit.

  // Owned by the receiving thread. Bytes read ahead of what was asked for: 16 KiB hold the head of
  // the next batch (a table of 256 pages is 4 KiB), so that a batch costs one system call or two,
  // and at most 1 % of a 1 MiB batch is copied twice.
  std::array<std::byte, 16384> ahead_{};
  std::size_t ahead_begin_ = 0;
  std::size_t ahead_end_ = 0;
  std::vector<iovec> into_;
  std::vector<std::byte> body_;
  std::uint64_t received_records_ = 0;
  bool torn_ = false;  // Receiving ended within a record: what comes next is no beginning.
  std::uint64_t received_bytes_ = 0;
};

}  // namespace migrate
