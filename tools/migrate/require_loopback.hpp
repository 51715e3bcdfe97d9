// What a plain connection may reach unasked.
#pragma once

#include "migrate/endpoint.hpp"
#include "migrate/result.hpp"

namespace migrate::tool {

/// Plain TCP shows a guest's memory to the network and lets anybody on it write there, and vsock
/// lets every virtual machine on the host, so both are kept to loopback (vsock's is CID 1) unless
/// the user insists; who may connect to a UNIX socket is its mode's to say. kInvalidArgument when
/// an address of `endpoint` is beyond that, kConnectFailed when the name is unknown.
[[nodiscard]] Status require_loopback(const Endpoint& endpoint);

}  // namespace migrate::tool
