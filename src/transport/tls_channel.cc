#include "transport/tls_channel.hpp"

#include <openssl/err.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "transport/readiness.hpp"
#include "transport/tls_errors.hpp"

namespace migrate {
namespace {

// The most that a TLS record carries, RFC 8446, 5.1.
constexpr std::size_t kRecordBytes = 16384;
// Header, type and tag of a record, RFC 8446, 5.2.
constexpr std::size_t kRecordOverhead = 5 + 1 + 16;
// An estimate, not measured: a system call's fixed cost, about 1 us, is a few per cent of the time
// that so many records take in the cipher alone (3 us each at 5 GB/s), and their buffer still fits
// a second-level cache.
constexpr std::size_t kRecordsAtOnce = 8;
// What OpenSSL says of itself: its largest flight is that of a long certificate chain.
constexpr std::size_t kOwnBytes = 32 << 10;
constexpr std::size_t kOutBytes = kRecordsAtOnce * (kRecordBytes + kRecordOverhead) + kOwnBytes;
constexpr std::size_t kInBytes = kRecordsAtOnce * (kRecordBytes + kRecordOverhead);
// Looks for an alert behind records that came before it.
constexpr int kLooksMax = 16;

Error ended_early(const std::string& peer) {
  return make_error(ErrorCode::kLinkLost, "the connection to " + peer + " broke off")
      .advise("check the link and whether the process at the other side still runs");
}

}  // namespace

class PlainCursor {
 public:
  explicit PlainCursor(std::span<const iovec> parts) : parts_(parts) { skip(); }
  [[nodiscard]] bool done() const { return parts_.empty(); }

  /// Bytes that lie together, of whole records as many as `records`; else empty.
  std::span<const std::byte> take_records(std::size_t records) {
    const std::size_t left = parts_.front().iov_len - offset_;
    const std::size_t size = std::min(left / kRecordBytes, records) * kRecordBytes;
    const std::span<const std::byte> piece(begin(), size);
    advance(size);
    return piece;
  }
  /// One record's bytes from wherever they lie, or the last ones.
  std::span<const std::byte> gather(std::span<std::byte> into) {
    std::size_t size = 0;
    while (!done() && size < into.size()) {
      const std::size_t step = std::min(parts_.front().iov_len - offset_, into.size() - size);
      std::memcpy(into.data() + size, begin(), step);
      size += step;
      advance(step);
    }
    return into.first(size);
  }

 private:
  [[nodiscard]] const std::byte* begin() const {
    return static_cast<const std::byte*>(parts_.front().iov_base) + offset_;
  }
  void advance(std::size_t count) {
    offset_ += count;
    if (offset_ < parts_.front().iov_len) return;
    parts_ = parts_.subspan(1);
    offset_ = 0;
    skip();
  }
  void skip() {
    while (!parts_.empty() && parts_.front().iov_len == 0) parts_ = parts_.subspan(1);
  }

  std::span<const iovec> parts_;
  std::size_t offset_ = 0;
};

BIO_METHOD* TlsChannel::bio_method() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "migrate");
    MIGRATE_CHECK(made != nullptr);
    BIO_meth_set_write_ex(made, &TlsChannel::bio_write);
    BIO_meth_set_read_ex(made, &TlsChannel::bio_read);
    BIO_meth_set_ctrl(made, [](BIO*, int command, long, void*) -> long {
      return command == BIO_CTRL_FLUSH ? 1 : 0;
    });
    return made;
  }();
  return method;
}

int TlsChannel::bio_write(BIO* bio, const char* bytes, std::size_t size, std::size_t* written) {
  BIO_clear_retry_flags(bio);
  Buffer& out = static_cast<TlsChannel*>(BIO_get_data(bio))->out_;
  // Never for what is sent: encrypt() leaves room. A peer can only make OpenSSL say so much that
  // nobody sends on.
  if (size > out.bytes.size() - out.end) {
    BIO_set_retry_write(bio);
    return 0;
  }
  std::memcpy(out.bytes.data() + out.end, bytes, size);
  out.end += size;
  *written = size;
  return 1;
}

int TlsChannel::bio_read(BIO* bio, char* bytes, std::size_t size, std::size_t* read) {
  BIO_clear_retry_flags(bio);
  auto* const self = static_cast<TlsChannel*>(BIO_get_data(bio));
  Buffer& in = self->in_;
  if (!self->may_read_ || in.begin == in.end) {
    BIO_set_retry_read(bio);
    return 0;
  }
  const std::size_t count = std::min(size, in.end - in.begin);
  std::memcpy(bytes, in.bytes.data() + in.begin, count);
  in.begin += count;
  *read = count;
  return 1;
}

Result<std::unique_ptr<TlsChannel>> TlsChannel::create(std::unique_ptr<Channel> inner,
                                                       std::shared_ptr<TlsContext> context,
                                                       std::string_view session) {
  MIGRATE_ASSIGN(SslPtr ssl, context->new_connection(session));
  BIO* const bio = BIO_new(bio_method());
  if (bio == nullptr) return make_error(ErrorCode::kNoMemory, "cannot begin TLS");
  SSL* const raw = ssl.get();
  SSL_set_bio(raw, bio, bio);
  std::unique_ptr<TlsChannel> channel(
      new TlsChannel(std::move(inner), std::move(context), std::move(ssl)));
  SSL_set_app_data(raw, &channel->notes_);
  BIO_set_data(bio, channel.get());
  BIO_set_init(bio, 1);
  return channel;
}

TlsChannel::TlsChannel(std::unique_ptr<Channel> inner, std::shared_ptr<TlsContext> context,
                       SslPtr ssl)
    : inner_(std::move(inner)), context_(std::move(context)), ssl_(std::move(ssl)) {
  in_.bytes.resize(kInBytes);
  out_.bytes.resize(kOutBytes);
  leaving_.bytes.resize(kOutBytes);
  gathered_.resize(kRecordBytes);
}

TlsChannel::~TlsChannel() {
  if (!established_ || cut_short_ || !check_usable()) return;
  {
    // Says that the end is meant.
    TlsTurn turn(turns_);
    if (broken_) return;
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
  }
  take_written();
  const Status told = flush(std::chrono::nanoseconds(0));
  static_cast<void>(told);
}

Status TlsChannel::check_usable() const {
  if (interrupted_.load(std::memory_order_acquire)) {
    return make_error(ErrorCode::kCancelled, "the connection to " + peer() + " was interrupted");
  }
  if (shut_down_.load(std::memory_order_acquire)) {
    return make_error(ErrorCode::kLinkLost, "the connection to " + peer() + " was ended here");
  }
  return {};
}

Error TlsChannel::break_off(bool established) {
  broken_ = tls_error({*context_, ssl_.get(), peer(), established});
  return *broken_;
}

Status TlsChannel::send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) {
  MIGRATE_TRY(handshake(idle_max));
  PlainCursor cursor(parts);
  while (!cursor.done()) {
    MIGRATE_TRY(check_usable());
    if (cut_short_) return ended_early(peer());
    MIGRATE_TRY(encrypt(cursor));
    MIGRATE_TRY(flush(idle_max));
  }
  return {};
}

Status TlsChannel::encrypt(PlainCursor& cursor) {
  TlsTurn turn(turns_);
  if (broken_) return *broken_;
  ERR_clear_error();
  may_read_ = false;
  for (std::size_t records = kRecordsAtOnce; records > 0 && !cursor.done();) {
    auto piece = cursor.take_records(records);
    if (piece.empty()) piece = cursor.gather(gathered_);
    MIGRATE_TRY(encrypt_piece(piece));
    records -= (piece.size() + kRecordBytes - 1) / kRecordBytes;
  }
  std::swap(out_, leaving_);
  return {};
}

Status TlsChannel::encrypt_piece(std::span<const std::byte> piece) {
  key_bytes_ += piece.size();
  if (key_bytes_ >= context_->key_update_bytes) MIGRATE_TRY(renew_key());
  std::size_t written = 0;
  if (SSL_write_ex(ssl_.get(), piece.data(), piece.size(), &written) != 1 ||
      written != piece.size()) {
    return break_off(true);
  }
  return {};
}

Status TlsChannel::renew_key() {
  key_bytes_ = 0;
  // Goes out before the next bytes; the peer renews its own by its own count.
  if (SSL_key_update(ssl_.get(), SSL_KEY_UPDATE_NOT_REQUESTED) != 1) return break_off(true);
  return {};
}

void TlsChannel::take_written() {
  TlsTurn turn(turns_);
  std::swap(out_, leaving_);
}

Status TlsChannel::flush(std::chrono::nanoseconds idle_max) {
  if (leaving_.begin == leaving_.end) return {};
  const iovec part = {leaving_.bytes.data() + leaving_.begin, leaving_.end - leaving_.begin};
  leaving_.begin = leaving_.end = 0;
  cut_short_ = true;
  if (Status sent = inner_->send({&part, 1}, idle_max); !sent) {
    const bool lost = sent.error().code == ErrorCode::kLinkLost;
    return lost ? explained(std::move(sent).error()) : std::move(sent).error();
  }
  cut_short_ = false;
  return {};
}

Result<std::size_t> TlsChannel::receive(std::span<const iovec> parts,
                                        std::chrono::nanoseconds idle_max) {
  MIGRATE_TRY(handshake(idle_max));
  MutexLock lock(receiving_);
  while (true) {
    MIGRATE_TRY(check_usable());
    std::size_t count = 0;
    MIGRATE_ASSIGN(const Taken taken, decrypt(parts, count));
    if (taken != Taken::kNothing) {
      heard_ = true;
      return count;
    }
    MIGRATE_ASSIGN(const bool more, fill(idle_max));
    if (more) continue;
    MIGRATE_TRY(check_usable());
    // Without a goodbye: the peer has died, or somebody on the way has cut the stream short.
    return ended_early(peer());
  }
}

Result<TlsChannel::Taken> TlsChannel::decrypt(std::span<const iovec> parts, std::size_t& count) {
  TlsTurn turn(turns_);
  if (broken_) return *broken_;
  ERR_clear_error();
  may_read_ = true;
  for (const iovec& part : parts) {
    for (std::size_t at = 0; at < part.iov_len;) {
      std::size_t got = 0;
      const int result = SSL_read_ex(ssl_.get(), static_cast<std::byte*>(part.iov_base) + at,
                                     part.iov_len - at, &got);
      at += got;
      count += got;
      if (result == 1) continue;
      const int error = SSL_get_error(ssl_.get(), result);
      if (error == SSL_ERROR_WANT_READ) return count > 0 ? Taken::kBytes : Taken::kNothing;
      if (error == SSL_ERROR_ZERO_RETURN) return count > 0 ? Taken::kBytes : Taken::kEnd;
      const Error broken = break_off(true);
      // What came before it is good, and the next call tells.
      if (count > 0) return Taken::kBytes;
      return broken;
    }
  }
  // Without room the answer would read as the end of the stream.
  MIGRATE_CHECK(count > 0);
  return Taken::kBytes;
}

Result<bool> TlsChannel::fill(std::chrono::nanoseconds idle_max) {
  // OpenSSL has taken all before it asks for more.
  const iovec part = {in_.bytes.data(), in_.bytes.size()};
  MIGRATE_ASSIGN(const std::size_t got, inner_->receive({&part, 1}, idle_max));
  in_.begin = 0;
  in_.end = got;
  return got > 0;
}

Error TlsChannel::explained(Error error) {
  // A peer that refused this side's certificate did so after the handshake was done here. Another
  // thread that receives finds the alert itself.
  if (!established_ || !receiving_.try_lock()) return error;
  for (int look = 0; look < kLooksMax && !heard_; ++look) {
    {
      TlsTurn turn(turns_);
      if (broken_) error = *broken_;
      if (broken_) break;
      ERR_clear_error();
      may_read_ = true;
      char first = 0;
      std::size_t got = 0;
      const int result = SSL_peek_ex(ssl_.get(), &first, 1, &got);
      if (result == 1) break;
      const int reason = SSL_get_error(ssl_.get(), result);
      if (reason == SSL_ERROR_SSL) error = break_off(true);
      if (reason != SSL_ERROR_WANT_READ) break;
    }
    const auto more = fill(std::chrono::nanoseconds(0));
    if (!more || !*more) break;
  }
  receiving_.unlock();
  return error;
}

void TlsChannel::interrupt() noexcept {
  MutexLock lock(flag_mutex_);
  interrupted_.store(true, std::memory_order_release);
  inner_->interrupt();
}

void TlsChannel::resume_after_interrupt() noexcept {
  MutexLock lock(flag_mutex_);
  inner_->resume_after_interrupt();
  interrupted_.store(false, std::memory_order_release);
}

void TlsChannel::shutdown() noexcept {
  shut_down_.store(true, std::memory_order_release);
  inner_->shutdown();
}

bool TlsChannel::has_room(std::size_t bytes) const {
  // A record of its own for the handshake's late words, and none is as full as it may be.
  const std::size_t records = bytes / kRecordBytes + 2;
  return established_ && inner_->has_room(bytes + records * kRecordOverhead);
}

std::string TlsChannel::peer_identity() const { return established_ ? identity_ : std::string(); }

std::string TlsChannel::announced_session() const {
  return established_ ? notes_.announced.value_or("") : std::string();
}

}  // namespace migrate
