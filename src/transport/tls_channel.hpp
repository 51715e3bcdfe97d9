// TlsChannel: a Channel that secures another one.
//
// OpenSSL never sees the connection. In the handshake it reads from one buffer and writes to
// another; after it the records are sealed and opened here (tls_records.hpp), each way by itself.
// What is between the buffers and the peer is the inner channel's: its timeouts, its interrupts.
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
#include "transport/tls_records.hpp"

namespace migrate {

/// Where in the caller's parts a send or a receive stands.
class TlsParts;

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
  [[nodiscard]] std::string peer() const override { return inner_->peer(); }
  /// Empty until the handshake is done.
  [[nodiscard]] std::string peer_identity() const override;
  /// Of an accepting side; empty until the handshake is done.
  [[nodiscard]] std::string announced_session() const override;

 private:
  /// Bytes to or from the inner channel; never grows.
  struct Buffer {
    std::vector<std::byte> bytes;
    std::size_t begin = 0;
    std::size_t end = 0;
    [[nodiscard]] std::span<const std::byte> held() const {
      return std::span(bytes).subspan(begin, end - begin);
    }
  };

  TlsChannel(std::unique_ptr<Channel> inner, std::shared_ptr<TlsContext> context, SslPtr ssl);

  // OpenSSL's BIO on the buffers: called by it in the handshake.
  static BIO_METHOD* bio_method();
  static int bio_write(BIO* bio, const char* bytes, std::size_t size, std::size_t* written);
  static int bio_read(BIO* bio, char* bytes, std::size_t size, std::size_t* read);

  [[nodiscard]] Status check_usable() const;
  Status run_handshake(std::chrono::nanoseconds timeout) MIGRATE_REQUIRES(handshake_mutex_);
  /// What OpenSSL can do of it with what has come; true when it is done.
  Result<bool> step_handshake();
  Status check_peer();
  Status take_over();
  /// Of what came first: nothing that begins TLS.
  [[nodiscard]] bool peer_is_plain() const;
  void part_from(const Error& error, bool plain) MIGRATE_REQUIRES(receiving_);

  /// Encrypts the next bytes, as many as leave at once, into leaving_.
  Status seal_next(TlsParts& parts);
  Status seal_own(TlsContent type, std::span<std::byte> content);
  Status renew_key();
  Status flush(std::chrono::nanoseconds idle_max);

  /// Decrypts what has come into `parts`: how many bytes, 0 where all of it was TLS's own.
  Result<std::size_t> take_records(TlsParts& parts) MIGRATE_REQUIRES(receiving_);
  /// The next record as it came; empty where it has not come whole.
  Result<std::span<const std::byte>> next_record() MIGRATE_REQUIRES(receiving_);
  /// Its content to `parts`, or where they have no room to held_; how many bytes `parts` got.
  Result<std::size_t> open_record(std::span<const std::byte> record, TlsParts& parts)
      MIGRATE_REQUIRES(receiving_);
  Result<std::size_t> open_other(std::span<const std::byte> record, std::size_t size,
                                 TlsParts& parts) MIGRATE_REQUIRES(receiving_);
  Status decrypt(std::span<const std::byte> record, std::span<const iovec> parts, std::byte& last)
      MIGRATE_REQUIRES(receiving_);
  std::size_t give_held(TlsParts& parts) MIGRATE_REQUIRES(receiving_);
  Status take_alert(std::span<const std::byte> alert) MIGRATE_REQUIRES(receiving_);
  Status take_messages(std::span<const std::byte> messages) MIGRATE_REQUIRES(receiving_);
  /// Waits for bytes from the peer; false at their end.
  Result<bool> fill(std::chrono::nanoseconds idle_max) MIGRATE_REQUIRES(receiving_);
  /// The alert by which the peer explains why it takes no more; else `error`.
  Error explained(Error error) MIGRATE_EXCLUDES(receiving_);

  const std::unique_ptr<Channel> inner_;
  const std::shared_ptr<TlsContext> context_;

  // The handshake's.
  TlsNotes notes_;
  SslPtr ssl_;          // Gone once it is done.
  bool begun_ = false;  // The peer has begun its side.

  // The receiving thread's. The sending one borrows them, if they are free, to see why it failed.
  Mutex receiving_;
  TlsKeys opening_;
  Buffer in_;                    // As it came.
  Buffer held_;                  // Decrypted, and not yet asked for.
  std::vector<iovec> arriving_;  // Where a record goes.
  std::optional<Error> broken_;  // The peer's stream has ended so.
  bool ended_ = false;           // It has ended as it should.
  bool heard_ = false;           // The peer has said something since the handshake.
  unsigned empty_records_ = 0;   // In a row.
  std::atomic<bool> renewal_asked_{false};

  // The sending thread's.
  TlsKeys sending_;
  Buffer leaving_;                      // What it gives the inner channel.
  std::vector<iovec> pieces_;           // Of a record.
  std::uint64_t key_bytes_ = 0;         // Sent with the present key.
  std::atomic<bool> cut_short_{false};  // The peer may have part of a record.

  Mutex handshake_mutex_;
  std::optional<Error> failed_ MIGRATE_GUARDED_BY(handshake_mutex_);
  std::string identity_;  // Written before established_ is set, as notes_ are.
  std::atomic<bool> established_{false};

  Mutex flag_mutex_;  // Keeps this flag and the inner channel's alike.
  std::atomic<bool> interrupted_{false};
  std::atomic<bool> shut_down_{false};
};

}  // namespace migrate
