#include "adapters/containers/source/lock_tables.hpp"

#include <fcntl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "adapters/containers/network/network_space.hpp"
#include "adapters/containers/source/process_tree.hpp"

namespace migrate::containers {
namespace {

constexpr std::string_view kPrefix = "CRIU-";
constexpr timeval kAnswerTime{5, 0};

Error netlink_error(int error) {
  return make_errno_error(error == EPERM ? ErrorCode::kPermission : ErrorCode::kIo, error,
                          "the kernel does not answer about its tables of nftables");
}

/// One message to nfnetlink: header, family, attributes.
struct Message {
  std::vector<char> bytes;

  Message(std::uint16_t type, std::uint16_t flags, std::uint8_t family, std::uint16_t resource) {
    nlmsghdr header{};
    header.nlmsg_type = type;
    header.nlmsg_flags = static_cast<std::uint16_t>(flags | NLM_F_REQUEST);
    nfgenmsg body{};
    body.nfgen_family = family;
    body.version = NFNETLINK_V0;
    body.res_id = static_cast<std::uint16_t>((resource >> 8) | (resource << 8));
    append(&header, sizeof(header));
    append(&body, sizeof(body));
    close();
  }
  void add_text(std::uint16_t type, const std::string& text) {
    nlattr attribute{};
    attribute.nla_type = type;
    attribute.nla_len = static_cast<std::uint16_t>(NLA_HDRLEN + text.size() + 1);
    append(&attribute, sizeof(attribute));
    append(text.c_str(), text.size() + 1);
    bytes.resize(NLMSG_ALIGN(bytes.size()));
    close();
  }

 private:
  void append(const void* data, std::size_t size) {
    const char* from = static_cast<const char*>(data);
    bytes.insert(bytes.end(), from, from + size);
  }
  void close() {
    const auto length = static_cast<std::uint32_t>(bytes.size());
    std::memcpy(bytes.data(), &length, sizeof(length));
  }
};

constexpr std::uint16_t table_message(int kind) {
  return static_cast<std::uint16_t>((NFNL_SUBSYS_NFTABLES << 8) | kind);
}

Result<Fd> open_netlink() {
  Fd socket(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER));
  if (!socket) return netlink_error(errno);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &kAnswerTime, sizeof(kAnswerTime));
  return socket;
}

/// Calls `each` for every message that comes, until it says false.
Status receive(int socket, const std::function<bool(const nlmsghdr&)>& each) {
  alignas(nlmsghdr) std::array<char, 65536> buffer;
  for (;;) {
    const ssize_t got = ::recv(socket, buffer.data(), buffer.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return netlink_error(errno);
    auto left = static_cast<unsigned>(got);
    for (const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data());
         NLMSG_OK(message, left); message = NLMSG_NEXT(message, left)) {
      if (!each(*message)) return {};
    }
  }
}

int error_of(const nlmsghdr& message) {
  if (message.nlmsg_type != NLMSG_ERROR) return 0;
  return -reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(&message))->error;
}

/// The table's name in an answer; empty without.
std::string name_in(const nlmsghdr& message) {
  const char* at =
      reinterpret_cast<const char*>(&message) + NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(nfgenmsg));
  const char* const end = reinterpret_cast<const char*>(&message) + message.nlmsg_len;
  while (end - at >= NLA_HDRLEN) {
    nlattr attribute{};
    std::memcpy(&attribute, at, sizeof(attribute));
    if (attribute.nla_len < NLA_HDRLEN || attribute.nla_len > end - at) return {};
    if ((attribute.nla_type & NLA_TYPE_MASK) == NFTA_TABLE_NAME) {
      const char* const text = at + NLA_HDRLEN;
      return {text, ::strnlen(text, attribute.nla_len - NLA_HDRLEN)};
    }
    at += NLA_ALIGN(attribute.nla_len);
  }
  return {};
}

Result<std::set<std::string>> list_here() {
  auto socket = open_netlink();
  // A kernel without it.
  if (!socket && socket.error().sys_errno == EPROTONOSUPPORT) return std::set<std::string>();
  if (!socket) return std::move(socket).error();
  const Message ask(table_message(NFT_MSG_GETTABLE), NLM_F_DUMP, NFPROTO_INET, 0);
  if (::send(socket->get(), ask.bytes.data(), ask.bytes.size(), 0) < 0) return netlink_error(errno);
  std::set<std::string> names;
  int error = 0;
  MIGRATE_TRY(receive(socket->get(), [&](const nlmsghdr& message) {
    error = error_of(message);
    if (message.nlmsg_type == NLMSG_DONE || message.nlmsg_type == NLMSG_ERROR) return false;
    std::string name = name_in(message);
    if (name.starts_with(kPrefix)) names.insert(std::move(name));
    return true;
  }));
  // nfnetlink without nf_tables.
  if (error != 0 && error != EINVAL && error != EOPNOTSUPP) return netlink_error(error);
  return names;
}

Status remove_here(const std::string& name) {
  MIGRATE_ASSIGN(const Fd socket, open_netlink());
  Message remove(table_message(NFT_MSG_DELTABLE), NLM_F_ACK, NFPROTO_INET, 0);
  remove.add_text(NFTA_TABLE_NAME, name);
  std::vector<char> batch;
  for (const Message& part :
       {Message(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES), remove,
        Message(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES)}) {
    batch.insert(batch.end(), part.bytes.begin(), part.bytes.end());
  }
  if (::send(socket.get(), batch.data(), batch.size(), 0) < 0) return netlink_error(errno);
  int error = 0;
  MIGRATE_TRY(receive(socket.get(), [&](const nlmsghdr& message) {
    error = error_of(message);
    return message.nlmsg_type != NLMSG_ERROR;
  }));
  if (error == 0 || error == ENOENT) return {};
  return make_errno_error(ErrorCode::kIo, error, "CRIU's table " + name + " of nftables stays")
      .advise("remove it: nft delete table inet " + name);
}

}  // namespace

Result<LockTables> LockTables::of_process(pid_t pid) {
  const std::string path = proc_path(pid, "ns/net");
  Fd space(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (space) return LockTables(std::move(space));
  return make_errno_error(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kPermission, errno,
                          path + " does not open");
}

Result<std::set<std::string>> LockTables::list() const {
  Result<std::set<std::string>> names = std::set<std::string>();
  MIGRATE_TRY(in_network(namespace_.get(), [&]() -> Status {
    names = list_here();
    return {};
  }));
  return names;
}

Status LockTables::remove(const std::set<std::string>& names) const {
  if (names.empty()) return {};
  return in_network(namespace_.get(), [&]() -> Status {
    Status all;
    for (const std::string& name : names) {
      if (Status one = remove_here(name); !one) all = std::move(one);
    }
    return all;
  });
}

}  // namespace migrate::containers
