// TlsChannel's beginning: who is there, and how one parts from those who may not come in.
#include <openssl/err.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <utility>

#include "transport/readiness.hpp"
#include "transport/tls_channel.hpp"
#include "transport/tls_errors.hpp"
#include "wire/messages.hpp"

namespace migrate {
namespace {

using std::chrono::milliseconds;
using std::chrono::nanoseconds;
using X509Ptr = std::unique_ptr<X509, OpenSslDeleter<&X509_free>>;

// RFC 8446, 5.1: the types of records with which a peer's side of a handshake may begin.
constexpr std::byte kHandshakeRecord{22};
constexpr std::byte kAlertRecord{21};
// How long, and how much, is read from a peer that was refused, so that closing does not reset the
// connection before it has read why. A HELLO has 2 MiB at most.
constexpr milliseconds kFarewell{1'000};
constexpr std::size_t kFarewellBytes = 4 << 20;

nanoseconds left_until(SteadyDeadline deadline) {
  return std::max<nanoseconds>(deadline - std::chrono::steady_clock::now(), nanoseconds(0));
}

Error not_in_time(const std::string& peer) {
  return make_error(ErrorCode::kTimeout, "the TLS handshake with " + peer + " took too long")
      .advise("check the link, and that the other side is a `migrate` that uses TLS");
}

Result<std::string> fingerprint_of(X509* certificate, const std::string& peer) {
  std::array<unsigned char, 32> hash{};
  if (certificate == nullptr || X509_digest(certificate, EVP_sha256(), hash.data(), nullptr) != 1) {
    return make_error(ErrorCode::kUnauthorized, peer + " shows no certificate")
        .advise("give --tls-cert and --tls-key there too");
  }
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text = "sha256:";
  for (const unsigned char byte : hash) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

}  // namespace

Status TlsChannel::handshake(nanoseconds timeout) {
  if (established_.load(std::memory_order_acquire)) return {};
  MutexLock lock(handshake_mutex_);
  if (established_) return {};
  if (failed_) return *failed_;
  Status done = run_handshake(timeout);
  if (done) {
    established_.store(true, std::memory_order_release);
    return {};
  }
  const ErrorCode code = done.error().code;
  if (code != ErrorCode::kTimeout && code != ErrorCode::kCancelled) failed_ = done.error();
  return done;
}

Status TlsChannel::run_handshake(nanoseconds timeout) {
  const SteadyDeadline deadline = deadline_after(timeout);
  MutexLock receiving(receiving_);
  for (bool begun = in_.end > 0;; begun = true) {
    MIGRATE_TRY(check_usable());
    if (begun && peer_is_plain()) {
      Error error = plain_peer_error(context_->role(), peer());
      part_from(error, true);
      return error;
    }
    auto done = step_handshake();
    take_written();
    Status sent = flush(left_until(deadline));
    if (!done) {
      part_from(done.error(), false);
      return std::move(done).error();
    }
    if (*done) return sent;
    const auto more = sent ? fill(left_until(deadline)) : Result<bool>(std::move(sent).error());
    MIGRATE_TRY(check_usable());
    if (more && *more) continue;
    if (more) return silent_peer_error(context_->role(), peer());
    if (more.error().code == ErrorCode::kTimeout) return not_in_time(peer());
    if (more.error().code == ErrorCode::kLinkLost) {
      return silent_peer_error(context_->role(), peer());
    }
    return more.error();
  }
}

bool TlsChannel::peer_is_plain() const {
  const bool first_bytes = in_.begin == 0 && in_.end > 0 && !established_;
  return first_bytes && !begun_ && in_.bytes[0] != kHandshakeRecord && in_.bytes[0] != kAlertRecord;
}

Result<bool> TlsChannel::step_handshake() {
  TlsTurn turn(turns_);
  ERR_clear_error();
  may_read_ = true;
  begun_ = begun_ || in_.end > 0;
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) {
    MIGRATE_TRY(check_peer());
    return true;
  }
  if (SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ) return false;
  return break_off(false);
}

Status TlsChannel::check_peer() {
  const unsigned char* protocol = nullptr;
  unsigned int size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &protocol, &size);
  if (std::string_view(reinterpret_cast<const char*>(protocol), size) != kTlsProtocol) {
    broken_ = make_error(ErrorCode::kProtocol, peer() + " speaks TLS, but not for migrations")
                  .advise("check the address: another service answers there");
    return *broken_;
  }
  if (context_->uses_psk()) {
    // OpenSSL calls a session that begins with a key of ours "reused"; nothing else can be.
    if (SSL_session_reused(ssl_.get()) != 1) {
      broken_ = make_error(ErrorCode::kUnauthorized, peer() + " did not use the pre-shared key")
                    .advise("give both hosts the same --tls-psk file");
      return *broken_;
    }
    identity_ = "psk:" + context_->psk_id();
    return {};
  }
  const X509Ptr certificate(SSL_get1_peer_certificate(ssl_.get()));
  auto identity = fingerprint_of(certificate.get(), peer());
  if (!identity) {
    broken_ = identity.error();
    return *broken_;
  }
  identity_ = *std::move(identity);
  return {};
}

/// A target tells who comes without TLS why it is refused, in the words such a peer understands;
/// OpenSSL's alert tells the others. Then it listens until the peer has gone.
void TlsChannel::part_from(const Error& error, bool plain) {
  if (context_->role() != TlsRole::kAccept) return;
  const SteadyDeadline deadline = deadline_after(kFarewell);
  std::vector<std::byte> record;
  Error told = error;
  if (plain && wire::encode_record(wire::ErrorRecord{std::move(told).on(Side::kTarget)}, 0,
                                   wire::Hasher(), record)) {
    const iovec part = {record.data(), record.size()};
    if (!inner_->send({&part, 1}, left_until(deadline))) return;
  }
  for (std::size_t taken = 0; taken < kFarewellBytes; taken += in_.end) {
    const auto more = fill(left_until(deadline));
    if (!more || !*more) return;
  }
}

}  // namespace migrate
