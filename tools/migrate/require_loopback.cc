#include "require_loopback.hpp"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "transport/socket_address.hpp"

namespace migrate::tool {
namespace {

/// parse_endpoint() has seen that it is a number, or "any", which is not 1.
bool is_local_cid(const Endpoint& endpoint) {
  return std::strtoul(endpoint.host.c_str(), nullptr, 10) == VMADDR_CID_LOCAL;
}

Error beyond_loopback(const Endpoint& endpoint, bool vsock = false) {
  return make_error(ErrorCode::kInvalidArgument,
                    endpoint.text() +
                        (vsock ? " is open to every virtual machine on the host, and "
                                 "plain vsock"
                               : " is beyond loopback, and plain TCP") +
                        " is neither encrypted nor authenticated")
      .advise(
          "give --tls-cert, --tls-key and --tls-ca, or --tls-psk, on both sides (see `migrate "
          "keygen`); --insecure is for networks and virtual machines that are trusted");
}

/// Somebody else chose where it listens.
Status require_loopback_of(const Endpoint& endpoint) {
  SocketAddress address;
  const int fd = std::atoi(endpoint.port.c_str());
  if (::getsockname(fd, address.get(), &address.length) != 0) return {};
  if (address.family() == AF_VSOCK) {
    sockaddr_vm vm{};
    std::memcpy(&vm, address.get(), sizeof(vm));
    if (vm.svm_cid == VMADDR_CID_LOCAL) return {};
    return beyond_loopback(endpoint, true);
  }
  if (!address.is_ip() || address.is_loopback()) return {};
  return beyond_loopback(endpoint);
}

}  // namespace

Status require_loopback(const Endpoint& endpoint) {
  if (endpoint.kind == Endpoint::Kind::kInherited) return require_loopback_of(endpoint);
  if (endpoint.kind == Endpoint::Kind::kUnix) return {};
  if (endpoint.kind == Endpoint::Kind::kVsock) {
    if (is_local_cid(endpoint)) return {};
    return beyond_loopback(endpoint, true);
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(endpoint.host.c_str(), endpoint.port.c_str(), &hints, &found);
  if (failure != 0) {
    return make_error(ErrorCode::kConnectFailed,
                      "cannot resolve '" + endpoint.host + "': " + gai_strerror(failure))
        .advise("check the name, or give an address");
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> addresses(found, &freeaddrinfo);
  for (const addrinfo* entry = addresses.get(); entry != nullptr; entry = entry->ai_next) {
    SocketAddress address;
    std::memcpy(&address.storage, entry->ai_addr, entry->ai_addrlen);
    if (!address.is_loopback()) return beyond_loopback(endpoint);
  }
  return {};
}

}  // namespace migrate::tool
