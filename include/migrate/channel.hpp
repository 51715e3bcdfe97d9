// Channel: a byte stream to the peer. Connector and Acceptor make them; tests inject faulty ones.
#pragma once

#include <sys/uio.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "migrate/result.hpp"

namespace migrate {

/// What a transport knows of its way to the peer; 0 where it does not.
struct LinkState {
  std::uint64_t delivered_bytes_per_s = 0;  ///< As the peer acknowledged it lately.
  bool sender_limited = false;              ///< That was all there was to send.
  std::chrono::microseconds round_trip{0};  ///< Smoothed: with what waits in queues on the way.
  std::chrono::microseconds round_trip_min{0};
};

/// How fast a channel hands bytes on, whatever its peer would take.
struct Pace {
  std::uint64_t bytes_per_s = 0;  ///< 0: as fast as it goes.
  std::size_t unsent_max = 0;     ///< Bytes that wait in the socket before send() does; 0: its own.
};

/// A reliable, ordered stream of bytes in both directions. One thread may send while another
/// receives; shutdown() and interrupt() may be called by any thread at any time.
class Channel {
 public:
  virtual ~Channel() = default;

  /// Sends every byte of `parts`. Fails with kTimeout when no byte moved for `idle_max`, kLinkLost
  /// when the peer is gone, kCancelled after interrupt(). After a failure the stream is unusable.
  virtual Status send(std::span<const iovec> parts, std::chrono::nanoseconds idle_max) = 0;

  /// Receives at least one byte into `parts`, as many as are there; 0 means the peer closed.
  /// Fails as send() does; after kTimeout or kCancelled receiving may go on.
  virtual Result<std::size_t> receive(std::span<const iovec> parts,
                                      std::chrono::nanoseconds idle_max) = 0;

  /// Makes calls under way and later ones fail with kCancelled until resume_after_interrupt().
  virtual void interrupt() noexcept = 0;
  virtual void resume_after_interrupt() noexcept = 0;

  /// Ends the stream both ways; calls under way fail. Closing happens in the destructor.
  virtual void shutdown() noexcept = 0;

  /// Bytes given to send() that the peer's kernel has not acknowledged, 0 where unknown.
  [[nodiscard]] virtual std::size_t unsent_bytes() const = 0;
  /// Whether send() of so many bytes would return at once and whole, though the peer takes none of
  /// them now. May say no where it would. For the sending thread.
  [[nodiscard]] virtual bool has_room(std::size_t bytes) const = 0;
  /// Where a transport can (TCP): keeps its own queues short, for others that share the link. For
  /// the sending thread.
  virtual void set_pace(const Pace&) {}
  [[nodiscard]] virtual LinkState link_state() const { return {}; }
  /// "10.0.0.2:4444" or the like, for messages.
  [[nodiscard]] virtual std::string peer() const = 0;
  /// Who the peer has proved to be, the same on each of its channels: "sha256:" and the fingerprint
  /// of its certificate, or "psk:" and the id of the key. Empty: nobody in particular.
  [[nodiscard]] virtual std::string peer_identity() const = 0;
  /// What the peer's Connector::set_session() was given, where the transport has shown it to this
  /// side. Empty: it shows nothing.
  [[nodiscard]] virtual std::string announced_session() const { return {}; }
};

/// Makes channels to one peer. Used by the coordinator's thread.
class Connector {
 public:
  virtual ~Connector() = default;
  virtual Result<std::unique_ptr<Channel>> connect(std::chrono::nanoseconds timeout) = 0;
  /// The session, as hexadecimal digits, that the following connections belong to: a transport may
  /// show it to the listener before anything is sent, for it to route by. It is no secret.
  virtual void set_session(std::string_view session) = 0;
  /// Makes connect() fail with kCancelled, now and later, until resume_after_interrupt(); any
  /// thread.
  virtual void interrupt() noexcept = 0;
  virtual void resume_after_interrupt() noexcept = 0;
  /// Where it connects to, for messages.
  [[nodiscard]] virtual std::string peer() const = 0;
};

/// Takes channels from peers.
class Acceptor {
 public:
  virtual ~Acceptor() = default;
  /// Waits for one channel; kTimeout when none came, kCancelled after interrupt().
  virtual Result<std::unique_ptr<Channel>> accept(std::chrono::nanoseconds timeout) = 0;
  /// Makes accept() fail with kCancelled, now and later; any thread.
  virtual void interrupt() noexcept = 0;
  [[nodiscard]] virtual std::string address() const = 0;
};

/// How bytes get through a socket. What a channel does is the same with each.
enum class SocketIo : std::uint8_t {
  kAuto = 0,   ///< What is faster as measured on this project's machines: kPoll.
  kPoll = 1,   ///< sendmsg(), recvmsg() and poll().
  kUring = 2,  ///< io_uring. Where a process has none, connect() and make_...() fail: kUnsupported.
};
[[nodiscard]] std::string_view to_string(SocketIo io);

/// Socket tuning that a user may want; the defaults suit bulk transfer.
struct SocketOptions {
  int send_buffer_bytes = 0;     ///< 0: the kernel's choice.
  int receive_buffer_bytes = 0;  ///< 0: the kernel's choice.
  SocketIo io = SocketIo::kAuto;
  /// Over TCP, large sends leave from the caller's memory (MSG_ZEROCOPY), and return only when the
  /// peer's kernel has acknowledged them. Stops by itself where the kernel copies all the same.
  bool zero_copy = false;
  friend bool operator==(const SocketOptions&, const SocketOptions&) = default;
};

/// TCP over IPv4 or IPv6; `host` a name or an address, tried in the resolver's order.
[[nodiscard]] std::unique_ptr<Connector> make_tcp_connector(std::string host, std::string port,
                                                            SocketOptions options = {});
/// Listens at once; kAddressInUse when the port is taken. Port "0" picks one: see address().
[[nodiscard]] Result<std::unique_ptr<Acceptor>> make_tcp_acceptor(const std::string& host,
                                                                  const std::string& port,
                                                                  SocketOptions options = {});
[[nodiscard]] std::unique_ptr<Connector> make_unix_connector(std::string path,
                                                             SocketOptions options = {});
[[nodiscard]] Result<std::unique_ptr<Acceptor>> make_unix_acceptor(const std::string& path,
                                                                   SocketOptions options = {});

/// Sockets between virtual machines and their host: vsock(7). `cid` 2 is the host.
[[nodiscard]] std::unique_ptr<Connector> make_vsock_connector(std::uint32_t cid, std::uint32_t port,
                                                              SocketOptions options = {});
/// Any CID of this machine.
inline constexpr std::uint32_t kVsockCidAny = 0xFFFFFFFF;
/// kUnsupported where the kernel has no vsock.
[[nodiscard]] Result<std::unique_ptr<Acceptor>> make_vsock_acceptor(std::uint32_t cid,
                                                                    std::uint32_t port,
                                                                    SocketOptions options = {});

/// Connections that somebody else made: connected stream sockets of any family, given out in this
/// order, one a connect(), then kConnectFailed. A migration takes one for control and one a lane,
/// and has none to come back by when its link is lost.
///
/// Takes all descriptors over, at once, whatever they are: each is closed with its channel, or with
/// the connector when it was not given out. They are looked at only by connect(): for one that is
/// closed, no stream socket or not connected it fails with kInvalidArgument and closes it; the
/// next call goes on with the next. A peer that has gone already is told by the channel.
[[nodiscard]] std::unique_ptr<Connector> make_inherited_connector(std::vector<int> fds,
                                                                  SocketOptions options = {});
/// On a listening stream socket of any family that somebody else made, such as a service manager;
/// kInvalidArgument, and the descriptor is left alone, for anything else. Takes it over otherwise.
[[nodiscard]] Result<std::unique_ptr<Acceptor>> make_inherited_acceptor(int fd,
                                                                        SocketOptions options = {});

/// A channel on a connected stream socket that somebody else made; takes the descriptor over.
[[nodiscard]] Result<std::unique_ptr<Channel>> make_socket_channel(int fd,
                                                                   SocketOptions options = {});

/// Two channels joined in this process.
[[nodiscard]] Result<std::pair<std::unique_ptr<Channel>, std::unique_ptr<Channel>>>
make_channel_pair(SocketOptions options = {});

}  // namespace migrate
