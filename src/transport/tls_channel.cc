#include "transport/tls_channel.hpp"

#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "transport/readiness.hpp"
#include "transport/tls_errors.hpp"
#include "transport/tls_parts.hpp"

namespace migrate {
namespace {

// The fixed cost of a system call, about 1 us, is a few per cent of what sealing so many records
// takes (3.3 us each), and the buffer still fits the second-level cache.
constexpr std::size_t kRecordsAtOnce = 8;
// What OpenSSL says in a handshake: its largest flight is that of a long certificate chain. Also
// room for new keys between records.
constexpr std::size_t kOwnBytes = 32 << 10;
constexpr std::size_t kOutBytes = kRecordsAtOnce * kTlsRecordMax + kOwnBytes;
constexpr std::size_t kInBytes = kRecordsAtOnce * kTlsRecordMax;

Error ended_early(const std::string& peer) {
  return make_error(ErrorCode::kLinkLost, "the connection to " + peer + " broke off")
      .advise("check the link and whether the process at the other side still runs");
}

}  // namespace

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
  Buffer& out = static_cast<TlsChannel*>(BIO_get_data(bio))->leaving_;
  // A peer can only make OpenSSL say so much that nobody sends on.
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
  Buffer& in = static_cast<TlsChannel*>(BIO_get_data(bio))->in_;
  if (in.begin == in.end) {
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
  held_.bytes.resize(kTlsContentMax);
  leaving_.bytes.resize(kOutBytes);
}

TlsChannel::~TlsChannel() {
  if (!established_ || cut_short_ || !check_usable()) return;
  // Says that the end is meant.
  std::array<std::byte, 2> goodbye = {std::byte{SSL3_AL_WARNING}, std::byte{SSL_AD_CLOSE_NOTIFY}};
  if (!seal_own(TlsContent::kAlert, goodbye)) return;
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

Status TlsChannel::send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) {
  MIGRATE_TRY(handshake(idle_max));
  TlsParts cursor(parts);
  while (!cursor.done()) {
    MIGRATE_TRY(check_usable());
    if (cut_short_) return ended_early(peer());
    MIGRATE_TRY(seal_next(cursor));
    MIGRATE_TRY(flush(idle_max));
  }
  return {};
}

Status TlsChannel::seal_next(TlsParts& parts) {
  for (std::size_t records = 0; records < kRecordsAtOnce && !parts.done(); ++records) {
    if (renewal_asked_.exchange(false, std::memory_order_relaxed) ||
        key_bytes_ >= context_->key_update_bytes) {
      MIGRATE_TRY(renew_key());
    }
    key_bytes_ += parts.list(kTlsContentMax, pieces_);
    MIGRATE_ASSIGN(const std::size_t size,
                   sending_.seal(TlsContent::kData, pieces_, leaving_.bytes.data() + leaving_.end));
    leaving_.end += size;
  }
  return {};
}

Status TlsChannel::seal_own(TlsContent type, std::span<std::byte> content) {
  const iovec part = {content.data(), content.size()};
  MIGRATE_ASSIGN(const std::size_t size,
                 sending_.seal(type, {&part, 1}, leaving_.bytes.data() + leaving_.end));
  leaving_.end += size;
  return {};
}

/// KeyUpdate, RFC 8446, 4.6.3. The peer renews its own by its own count.
Status TlsChannel::renew_key() {
  key_bytes_ = 0;
  std::array<std::byte, 5> update = {std::byte{SSL3_MT_KEY_UPDATE}, std::byte{0}, std::byte{0},
                                     std::byte{1}, std::byte{SSL_KEY_UPDATE_NOT_REQUESTED}};
  MIGRATE_TRY(seal_own(TlsContent::kHandshake, update));
  return sending_.renew();
}

Status TlsChannel::flush(std::chrono::nanoseconds idle_max) {
  if (leaving_.begin == leaving_.end) return {};
  const iovec part = {leaving_.bytes.data(), leaving_.end};
  leaving_.end = 0;
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
  TlsParts room(parts);
  // Without room the answer would read as the end of the stream.
  MIGRATE_CHECK(!room.done());
  while (true) {
    MIGRATE_TRY(check_usable());
    MIGRATE_ASSIGN(const std::size_t count, take_records(room));
    if (count > 0 || ended_) {
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

Result<bool> TlsChannel::fill(std::chrono::nanoseconds idle_max) {
  // What is left is less than a record.
  std::memmove(in_.bytes.data(), in_.bytes.data() + in_.begin, in_.end - in_.begin);
  in_.end -= in_.begin;
  in_.begin = 0;
  const iovec part = {in_.bytes.data() + in_.end, in_.bytes.size() - in_.end};
  MIGRATE_ASSIGN(const std::size_t got, inner_->receive({&part, 1}, idle_max));
  in_.end += got;
  return got > 0;
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

std::string TlsChannel::peer_identity() const { return established_ ? identity_ : std::string(); }

std::string TlsChannel::announced_session() const {
  return established_ ? notes_.announced.value_or("") : std::string();
}

}  // namespace migrate
