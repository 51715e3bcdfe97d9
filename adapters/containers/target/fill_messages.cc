#include "adapters/containers/target/fill_messages.hpp"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace migrate::containers {

int send_fill_message(int socket, const FillMessage& message, std::span<const int> descriptors,
                      bool wait) {
  FillMessage copy = message;
  iovec part{&copy, sizeof copy};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kFillDescriptorsMax)> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  for (;;) {
    if (::sendmsg(socket, &header, MSG_NOSIGNAL | (wait ? 0 : MSG_DONTWAIT)) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

int receive_fill_message(int socket, ReceivedFill& into, bool wait) {
  into = ReceivedFill();
  iovec part{&into.message, sizeof into.message};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(int) * kFillDescriptorsMax)> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC | (wait ? 0 : MSG_DONTWAIT));
    // A peer that ended with something unread: said once, before what it sent itself.
  } while (got < 0 && (errno == EINTR || errno == ECONNRESET));
  if (got < 0) return errno;
  if (got == 0) return -1;
  for (cmsghdr* c = CMSG_FIRSTHDR(&header); c != nullptr; c = CMSG_NXTHDR(&header, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    std::memcpy(into.descriptors.data(), CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
  }
  return got == sizeof into.message ? 0 : EPROTO;
}

}  // namespace migrate::containers
