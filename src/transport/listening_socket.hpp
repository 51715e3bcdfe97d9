// ListeningSocket: a socket that takes connections, of any family, and the file that goes with it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

#include "base/fd.hpp"
#include "migrate/channel.hpp"
#include "migrate/result.hpp"

namespace migrate {

// A session's lanes (64 at most) connect at once, and its reconnects may meet another's.
inline constexpr int kListenBacklog = 128;

/// The file of a listening UNIX socket, removed with it unless somebody has put another there.
class SocketFile {
 public:
  /// The file that `path` names at the moment.
  explicit SocketFile(std::string path);
  ~SocketFile();
  SocketFile(SocketFile&& other) noexcept;
  SocketFile& operator=(SocketFile&&) = delete;

 private:
  std::string path_;  // Empty: moved from.
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

struct ListeningSocket {
  Fd socket;            ///< Does not block.
  std::string address;  ///< As it is bound, for messages and for peers.
  std::optional<SocketFile> file = std::nullopt;
};

// Errors as those of the acceptors in channel.hpp.

[[nodiscard]] Result<ListeningSocket> listen_tcp(const std::string& host, const std::string& port,
                                                 const SocketOptions& options = {});
[[nodiscard]] Result<ListeningSocket> listen_unix(const std::string& path,
                                                  const SocketOptions& options = {});
[[nodiscard]] Result<ListeningSocket> listen_vsock(std::uint32_t cid, std::uint32_t port,
                                                   const SocketOptions& options = {});
/// Takes `fd` over, a listening stream socket of any family.
[[nodiscard]] Result<ListeningSocket> listen_inherited(int fd);

}  // namespace migrate
