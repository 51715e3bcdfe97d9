// TlsChannel's receiving side: the peer's records, to where their content belongs.
#include <algorithm>
#include <utility>

#include "transport/tls_channel.hpp"
#include "transport/tls_errors.hpp"
#include "transport/tls_parts.hpp"

namespace migrate {
namespace {

// RFC 8446, 5.2: by how much a record's length may exceed its content.
constexpr std::size_t kExpansionMax = 256;
// As OpenSSL has it: who sends more empty records in a row wants to be a nuisance.
constexpr unsigned kEmptyRecordsMax = 32;
// Looks for an alert behind records that came before it.
constexpr int kLooksMax = 16;
constexpr std::size_t kMessageHeaderBytes = 4;

Error broken_rule(const std::string& peer, const char* what) {
  return make_error(ErrorCode::kProtocol, "TLS with " + peer + " broke: " + what)
      .advise("use the same version of migrate on both hosts");
}

unsigned number_at(std::span<const std::byte> bytes, std::size_t index) {
  return std::to_integer<unsigned>(bytes[index]);
}

}  // namespace

Result<std::size_t> TlsChannel::take_records(TlsParts& parts) {
  std::size_t count = give_held(parts);
  while (!broken_ && !ended_ && !parts.done()) {
    const auto record = next_record();
    if (record && record->empty()) break;
    auto taken = record ? open_record(*record, parts) : Result<std::size_t>(record.error());
    if (taken) {
      count += *taken;
    } else {
      broken_ = std::move(taken).error();
    }
  }
  // What came before it is good, and the next call tells.
  if (broken_ && count == 0) return *broken_;
  return count;
}

std::size_t TlsChannel::give_held(TlsParts& parts) {
  const std::size_t count = parts.put(held_.held());
  held_.begin += count;
  return count;
}

Result<std::span<const std::byte>> TlsChannel::next_record() {
  const auto held = in_.held();
  if (held.size() < kTlsHeaderBytes) return std::span<const std::byte>();
  const std::size_t length = number_at(held, 3) << 8 | number_at(held, 4);
  if (number_at(held, 0) != static_cast<unsigned>(TlsContent::kData)) {
    return broken_rule(peer(), "a record that is not encrypted");
  }
  if (length <= kTlsTagBytes || length > kTlsContentMax + kExpansionMax) {
    return broken_rule(peer(), "a record of an impossible length");
  }
  if (held.size() < kTlsHeaderBytes + length) return std::span<const std::byte>();
  return held.first(kTlsHeaderBytes + length);
}

Result<std::size_t> TlsChannel::open_record(std::span<const std::byte> record, TlsParts& parts) {
  const std::size_t size = record.size() - kTlsHeaderBytes - 1 - kTlsTagBytes;
  if (size > kTlsContentMax) return broken_rule(peer(), "a record with too much in it");
  in_.begin += record.size();
  // Most records go to where they belong at once. What is no data does harm there to nobody: those
  // bytes are not counted as received.
  TlsParts beyond = parts;
  const bool direct = beyond.list(size, arriving_) == size;
  if (!direct) arriving_ = {{held_.bytes.data(), size}};
  std::byte type{};
  MIGRATE_TRY(decrypt(record, arriving_, type));
  if (type != static_cast<std::byte>(TlsContent::kData)) return open_other(record, size, parts);
  opening_.next();
  empty_records_ = size == 0 ? empty_records_ + 1 : 0;
  if (empty_records_ > kEmptyRecordsMax) return broken_rule(peer(), "empty records without end");
  if (direct) {
    parts = beyond;
    return size;
  }
  held_.begin = 0;
  held_.end = size;
  return give_held(parts);
}

Status TlsChannel::decrypt(std::span<const std::byte> record, std::span<const iovec> parts,
                           std::byte& last) {
  MIGRATE_ASSIGN(const bool authentic, opening_.open(record, parts, last));
  if (authentic) return {};
  return alert_error({*context_, nullptr, peer(), true}, SSL_AD_BAD_RECORD_MAC);
}

/// A record that ends in padding, or is TLS's own: rare, so it is opened again, aside.
Result<std::size_t> TlsChannel::open_other(std::span<const std::byte> record, std::size_t size,
                                           TlsParts& parts) {
  const iovec aside = {held_.bytes.data(), size};
  std::byte type{};
  MIGRATE_TRY(decrypt(record, {&aside, 1}, type));
  opening_.next();
  while (type == std::byte{0} && size > 0) type = held_.bytes[--size];
  const auto content = std::span<const std::byte>(held_.bytes).first(size);
  switch (static_cast<TlsContent>(type)) {
    case TlsContent::kAlert:
      MIGRATE_TRY(take_alert(content));
      return std::size_t{0};
    case TlsContent::kHandshake:
      MIGRATE_TRY(take_messages(content));
      return std::size_t{0};
    case TlsContent::kData:
      held_.begin = 0;
      held_.end = size;
      return give_held(parts);
  }
  return broken_rule(peer(), "a record of an unknown type");
}

Status TlsChannel::take_alert(std::span<const std::byte> alert) {
  if (alert.size() != 2) return broken_rule(peer(), "an alert of a wrong length");
  const auto what = static_cast<int>(number_at(alert, 1));
  if (what == SSL_AD_CLOSE_NOTIFY) {
    ended_ = true;
  } else if (what != SSL_AD_USER_CANCELLED) {
    return alert_error({*context_, nullptr, peer(), true}, what);
  }
  return {};
}

/// What may follow a handshake, RFC 8446, 4.6, if it is not asked for: tickets, which are not used,
/// and new keys. Both are short, and come in one piece.
Status TlsChannel::take_messages(std::span<const std::byte> messages) {
  while (messages.size() >= kMessageHeaderBytes) {
    const unsigned type = number_at(messages, 0);
    const std::size_t size =
        number_at(messages, 1) << 16 | number_at(messages, 2) << 8 | number_at(messages, 3);
    messages = messages.subspan(kMessageHeaderBytes);
    if (messages.size() < size) break;
    if (type == SSL3_MT_KEY_UPDATE && size == 1 && messages.size() == 1 &&
        number_at(messages, 0) <= SSL_KEY_UPDATE_REQUESTED) {
      if (number_at(messages, 0) == SSL_KEY_UPDATE_REQUESTED) renewal_asked_ = true;
      return opening_.renew();
    }
    if (type != SSL3_MT_NEWSESSION_TICKET) break;
    messages = messages.subspan(size);
    if (messages.empty()) return {};
  }
  return broken_rule(peer(), "a message that does not belong behind the handshake");
}

Error TlsChannel::explained(Error error) {
  // A peer that refused this side's certificate did so after the handshake was done here. Another
  // thread that receives finds the alert itself.
  if (!established_ || !receiving_.try_lock()) return error;
  TlsParts none({});
  for (int look = 0; look < kLooksMax && !heard_ && !broken_ && !ended_; ++look) {
    const auto record = next_record();
    if (record && record->empty()) {
      const auto more = fill(std::chrono::nanoseconds(0));
      if (!more || !*more) break;
      continue;
    }
    auto taken = record ? open_record(*record, none) : Result<std::size_t>(record.error());
    if (!taken) broken_ = std::move(taken).error();
    if (!held_.held().empty()) break;
  }
  if (broken_) error = *broken_;
  receiving_.unlock();
  return error;
}

}  // namespace migrate
