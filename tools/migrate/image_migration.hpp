// Migrations with an image at one end: `send image:FILE` and `recv --into FILE`. Nothing is hosted:
// the command is the whole of that side.
#pragma once

#include <memory>
#include <string>

#include "command.hpp"
#include "migrate/channel.hpp"
#include "migrate/checkpoint.hpp"
#include "migrate/migration.hpp"
#include "signals.hpp"

namespace migrate::tool {

/// Sends the guest of an image; a signal cancels it. Prints the report; the exit code.
int send_image(const GlobalOptions& global, const std::string& path, Connector& connector,
               const OutgoingOptions& options, const SignalFd& signals);

/// Takes one guest into a file; a signal cancels it. Prints the report; the exit code.
int receive_image(const GlobalOptions& global, const CheckpointOptions& image,
                  std::unique_ptr<Acceptor> acceptor, const IncomingOptions& options,
                  const SignalFd& signals);

}  // namespace migrate::tool
