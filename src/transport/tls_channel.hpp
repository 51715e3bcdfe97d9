// TlsChannel: a Channel that secures another one.
//
// OpenSSL never sees the connection. It reads records from one buffer and writes them to another,
// and what is between those and the peer is the inner channel's: its timeouts, its interrupts. So
// nothing ever waits inside OpenSSL, and one lock around it, never held while waiting, lets a
// thread send and another receive.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.hpp"
#include "migrate/channel.hpp"
#include "transport/tls_context.hpp"
#include "transport/tls_turns.hpp"

namespace migrate {

/// Where in the caller's parts a send stands.
class PlainCursor;

class TlsChannel final : public Channel {
 public:
  /// `session`: shown to the target's listener, see tls_client_hello.hpp; may be empty.
  static Result<std::unique_ptr<TlsChannel>> create(std::unique_ptr<Channel> inner,
                                                    std::shared_ptr<TlsContext> context,
                                                    std::string_view session = {});
  ~TlsChannel() override;

  /// Authenticates both sides, within `timeout` as a whole; send() and receive() do it otherwise.
  /// May be tried again after kTimeout and kCancelled.
  Status handshake(std::chrono::nanoseconds timeout) MIGRATE_EXCLUDES(handshake_mutex_);

  Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) override;
  Result<std::size_t> receive(std::span<const iovec> parts,
                              std::chrono::nanoseconds idle_max) override;
  void interrupt() noexcept override MIGRATE_EXCLUDES(flag_mutex_);
  void resume_after_interrupt() noexcept override MIGRATE_EXCLUDES(flag_mutex_);
  void shutdown() noexcept override;
  /// Those of the inner channel: encrypted, so a little more than was given to send().
  [[nodiscard]] std::size_t unsent_bytes() const override { return inner_->unsent_bytes(); }
  [[nodiscard]] bool has_room(std::size_t bytes) const override;
  void set_pace(const Pace& pace) override { inner_->set_pace(pace); }
  [[nodiscard]] LinkState link_state() const override { return inner_->link_state(); }
  [[nodiscard]] std::string peer() const override { return inner_->peer(); }
  /// Empty until the handshake is done.
  [[nodiscard]] std::string peer_identity() const override;
  /// Of an accepting side; empty until the handshake is done.
  [[nodiscard]] std::string announced_session() const override;

 private:
  /// Bytes between OpenSSL and the inner channel; never grows.
  struct Buffer {
    std::vector<std::byte> bytes;
    std::size_t begin = 0;
    std::size_t end = 0;
  };
  enum class Taken : std::uint8_t { kBytes, kNothing, kEnd };

  TlsChannel(std::unique_ptr<Channel> inner, std::shared_ptr<TlsContext> context, SslPtr ssl);

  // OpenSSL's BIO on the buffers: called by it, within a turn.
  static BIO_METHOD* bio_method();
  static int bio_write(BIO* bio, const char* bytes, std::size_t size, std::size_t* written);
  static int bio_read(BIO* bio, char* bytes, std::size_t size, std::size_t* read);

  [[nodiscard]] Status check_usable() const;
  Status run_handshake(std::chrono::nanoseconds timeout) MIGRATE_REQUIRES(handshake_mutex_);
  /// What OpenSSL can do of it with what has come; true when it is done.
  Result<bool> step_handshake() MIGRATE_EXCLUDES(turns_);
  Status check_peer() MIGRATE_REQUIRES(turns_);
  /// Of what came first: nothing that begins TLS.
  [[nodiscard]] bool peer_is_plain() const;
  void part_from(const Error& error, bool plain);

  /// Encrypts the next bytes, as many as leave at once, into leaving_.
  Status encrypt(PlainCursor& cursor) MIGRATE_EXCLUDES(turns_);
  Status encrypt_piece(std::span<const std::byte> piece) MIGRATE_REQUIRES(turns_);
  Status renew_key() MIGRATE_REQUIRES(turns_);
  /// Takes what OpenSSL wrote of itself: handshakes and alerts.
  void take_written() MIGRATE_EXCLUDES(turns_);
  Status flush(std::chrono::nanoseconds idle_max);
  /// Decrypts what has come into `parts`.
  Result<Taken> decrypt(std::span<const iovec> parts, std::size_t& count) MIGRATE_EXCLUDES(turns_);
  /// Waits for bytes from the peer; false at their end.
  Result<bool> fill(std::chrono::nanoseconds idle_max);
  Error break_off(bool established) MIGRATE_REQUIRES(turns_);
  /// The alert by which the peer explains why it takes no more; else `error`.
  Error explained(Error error) MIGRATE_EXCLUDES(turns_);

  const std::unique_ptr<Channel> inner_;
  const std::shared_ptr<TlsContext> context_;

  TlsNotes notes_;  // The handshake's; not changed once established_ is set.
  TlsTurns turns_;  // Whose turn it is with OpenSSL.
  const SslPtr ssl_ MIGRATE_PT_GUARDED_BY(turns_);
  std::optional<Error> broken_ MIGRATE_GUARDED_BY(turns_);  // OpenSSL is not asked again.
  // Used in turns only, also by OpenSSL's callbacks, which cannot be annotated.
  Buffer out_;             // What OpenSSL has written.
  bool may_read_ = false;  // It may read from in_ in this turn.
  bool begun_ = false;     // The peer has begun its side of the handshake.

  // The receiving thread's. The sending one borrows them, if they are free, to see why it failed.
  Mutex receiving_;
  Buffer in_;           // What OpenSSL reads, in turns of this thread.
  bool heard_ = false;  // The peer has said something since the handshake.

  // The sending thread's.
  Buffer leaving_;                      // What it gives the inner channel.
  std::vector<std::byte> gathered_;     // Small parts, joined to a record.
  std::uint64_t key_bytes_ = 0;         // Sent with the present key.
  std::atomic<bool> cut_short_{false};  // The peer may have part of a record.

  Mutex handshake_mutex_;
  std::optional<Error> failed_ MIGRATE_GUARDED_BY(handshake_mutex_);
  std::string identity_;  // Written before established_ is set.
  std::atomic<bool> established_{false};

  Mutex flag_mutex_;  // Keeps this flag and the inner channel's alike.
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> shut_down_{false};
};

}  // namespace migrate
