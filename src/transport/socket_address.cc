#include "transport/socket_address.hpp"

#include <arpa/inet.h>
#include <linux/vm_sockets.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/un.h>

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <memory>
#include <system_error>
#include <thread>

namespace migrate {
namespace {

struct Lookup {
  int code = 0;
  int sys_errno = 0;
  std::vector<SocketAddress> addresses;
};

Lookup look_up(const std::string& host, const std::string& port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  Lookup lookup;
  lookup.code = ::getaddrinfo(host.empty() ? nullptr : host.c_str(), port.c_str(), &hints, &found);
  lookup.sys_errno = lookup.code == EAI_SYSTEM ? errno : 0;
  if (lookup.code != 0) return lookup;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  for (const addrinfo* info = found; info != nullptr; info = info->ai_next) {
    SocketAddress address;
    address.length = info->ai_addrlen;
    std::memcpy(&address.storage, info->ai_addr, info->ai_addrlen);
    lookup.addresses.push_back(address);
  }
  return lookup;
}

/// A look-up that whoever asked for it may leave behind.
struct SharedLookup {
  explicit SharedLookup(EventFd event) : done(std::move(event)) {}
  Lookup lookup;  // The thread's until `done` is raised.
  EventFd done;
};

Error unknown_host(const std::string& host, const Lookup& lookup) {
  return make_errno_error(
             ErrorCode::kNotFound, lookup.sys_errno,
             "the host name " + host + " cannot be resolved: " + ::gai_strerror(lookup.code))
      .advise("check the name, or give the host's IP address");
}

Result<std::vector<SocketAddress>> look_up_by_name(const std::string& host, const std::string& port,
                                                   int flags, const EventFd& interrupt,
                                                   SteadyDeadline deadline) {
  MIGRATE_ASSIGN(EventFd done, EventFd::create());
  const auto shared = std::make_shared<SharedLookup>(std::move(done));
  std::thread thread;
  try {
    thread = std::thread([shared, host, port, flags] {
      ::pthread_setname_np(::pthread_self(), "resolve");
      shared->lookup = look_up(host, port, flags);
      shared->done.set();
    });
  } catch (const std::system_error& error) {
    return make_errno_error(ErrorCode::kIo, error.code().value(),
                            "cannot start a thread to resolve " + host);
  }
  const auto ready = wait_until_ready(shared->done.fd(), POLLIN, interrupt, deadline);
  if (!ready || *ready != Readiness::kReady) {
    thread.detach();
    if (!ready) return ready.error();
    if (*ready == Readiness::kInterrupted) {
      return make_error(ErrorCode::kCancelled, "resolving " + host + " was cancelled");
    }
    return make_error(ErrorCode::kTimeout, "the host name " + host + " was not resolved in time")
        .advise("check the name server, or give the host's IP address");
  }
  thread.join();
  if (shared->lookup.code != 0) return unknown_host(host, shared->lookup);
  return std::move(shared->lookup.addresses);
}

Status check_port(const std::string& port, AddressUse use) {
  std::uint16_t number = 0;
  const char* end = port.data() + port.size();
  const auto [stopped, failure] = std::from_chars(port.data(), end, number);
  const bool usable = number != 0 || use == AddressUse::kListen;
  if (failure == std::errc() && stopped == end && usable) return {};
  return make_error(ErrorCode::kInvalidArgument, "\"" + port + "\" is not a TCP port")
      .advise(use == AddressUse::kListen ? "give a number from 1 to 65535, or 0 for any free port"
                                         : "give a number from 1 to 65535");
}

std::string ip_text(int family, const void* bytes) {
  std::array<char, INET6_ADDRSTRLEN> buffer{};
  return ::inet_ntop(family, bytes, buffer.data(), buffer.size()) == nullptr ? "" : buffer.data();
}

std::string ipv6_text(const sockaddr_in6& address) {
  if (IN6_IS_ADDR_V4MAPPED(&address.sin6_addr)) {
    return ip_text(AF_INET, address.sin6_addr.s6_addr + 12);
  }
  std::string text = ip_text(AF_INET6, &address.sin6_addr);
  if (address.sin6_scope_id != 0) {
    std::array<char, NI_MAXHOST> name{};
    if (::getnameinfo(reinterpret_cast<const sockaddr*>(&address), sizeof address, name.data(),
                      name.size(), nullptr, 0, NI_NUMERICHOST) == 0) {
      return name.data();
    }
  }
  return text;
}

std::string unix_text(const SocketAddress& address) {
  sockaddr_un un{};
  std::memcpy(&un, &address.storage, sizeof un);
  const auto used = static_cast<std::size_t>(address.length);
  if (used <= offsetof(sockaddr_un, sun_path)) return "";
  const std::size_t length = used - offsetof(sockaddr_un, sun_path);
  return "unix:" + std::string(un.sun_path, ::strnlen(un.sun_path, length));
}

std::string vsock_text(const SocketAddress& address) {
  sockaddr_vm vm{};
  std::memcpy(&vm, &address.storage, sizeof vm);
  const bool any = vm.svm_cid == VMADDR_CID_ANY;
  return "vsock:" + (any ? "any" : std::to_string(vm.svm_cid)) + ":" + std::to_string(vm.svm_port);
}

using NameOf = int (*)(int, sockaddr*, socklen_t*);

std::string text_by(NameOf name_of, int fd) {
  SocketAddress address;
  return name_of(fd, address.get(), &address.length) == 0 ? to_text(address) : "";
}

}  // namespace

bool SocketAddress::is_loopback() const {
  if (family() == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &storage, sizeof in);
    return (ntohl(in.sin_addr.s_addr) >> 24) == IN_LOOPBACKNET;
  }
  if (family() != AF_INET6) return false;
  sockaddr_in6 in6{};
  std::memcpy(&in6, &storage, sizeof in6);
  if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) return in6.sin6_addr.s6_addr[12] == IN_LOOPBACKNET;
  return IN6_IS_ADDR_LOOPBACK(&in6.sin6_addr);
}

std::string to_text(const SocketAddress& address) {
  if (address.family() == AF_UNIX) return unix_text(address);
  if (address.family() == AF_INET) {
    sockaddr_in in{};
    std::memcpy(&in, &address.storage, sizeof in);
    return host_and_port(ip_text(AF_INET, &in.sin_addr), std::to_string(ntohs(in.sin_port)));
  }
  if (address.family() == AF_INET6) {
    sockaddr_in6 in6{};
    std::memcpy(&in6, &address.storage, sizeof in6);
    return host_and_port(ipv6_text(in6), std::to_string(ntohs(in6.sin6_port)));
  }
  if (address.family() == AF_VSOCK) return vsock_text(address);
  return "";
}

std::string peer_text(int fd) { return text_by(&::getpeername, fd); }
std::string local_text(int fd) { return text_by(&::getsockname, fd); }

std::string host_and_port(const std::string& host, const std::string& port) {
  const bool ipv6 = host.find(':') != std::string::npos;
  return (ipv6 ? "[" + host + "]" : host) + ":" + port;
}

Result<std::vector<SocketAddress>> resolve(const std::string& host, const std::string& port,
                                           AddressUse use, const EventFd& interrupt,
                                           SteadyDeadline deadline) {
  MIGRATE_TRY(check_port(port, use));
  const int flags = use == AddressUse::kListen ? AI_PASSIVE : 0;
  Lookup lookup = look_up(host, port, flags | AI_NUMERICHOST);
  if (lookup.code == 0) return std::move(lookup.addresses);
  if (lookup.code != EAI_NONAME) return unknown_host(host, lookup);
  return look_up_by_name(host, port, flags, interrupt, deadline);
}

Result<SocketAddress> unix_address(const std::string& path) {
  sockaddr_un un{};
  un.sun_family = AF_UNIX;
  const bool usable = !path.empty() && path.find('\0') == std::string::npos;
  if (!usable || path.size() >= sizeof un.sun_path) {
    return make_error(ErrorCode::kInvalidArgument,
                      "\"" + path + "\" (" + std::to_string(path.size()) +
                          " bytes) cannot be the path of a UNIX socket")
        .advise("give a path of 1 to " + std::to_string(sizeof un.sun_path - 1) +
                " bytes, in a folder nearer to the root");
  }
  std::memcpy(un.sun_path, path.data(), path.size());
  SocketAddress address;
  std::memcpy(&address.storage, &un, sizeof un);
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  return address;
}

SocketAddress vsock_address(std::uint32_t cid, std::uint32_t port) {
  sockaddr_vm vm{};
  vm.svm_family = AF_VSOCK;
  vm.svm_cid = cid;
  vm.svm_port = port;
  SocketAddress address;
  std::memcpy(&address.storage, &vm, sizeof vm);
  address.length = sizeof vm;
  return address;
}

}  // namespace migrate
