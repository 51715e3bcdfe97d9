// What is asked of CRIU in which words. Pure: options in, messages out.
#pragma once

#include <string>

#include "adapters/containers/criu/criu_worker.hpp"
#include "criu_rpc.pb.h"

namespace migrate::containers {

[[nodiscard]] rpc::Request version_request();
[[nodiscard]] rpc::Request features_request();
[[nodiscard]] rpc::Request hook_answer(bool go_on);
/// `config` is what CRIU finds its configuration file as, empty for none: lazy_config() has to be
/// in it where there is a lazy_port.
[[nodiscard]] rpc::Request dump_request(const CriuDump& dump, const std::string& config);
[[nodiscard]] rpc::Request restore_request(const CriuRestore& restore);

/// The RPC has no way to say where a lazy server listens, and CRIU's default is every address.
[[nodiscard]] std::string lazy_config();

}  // namespace migrate::containers
