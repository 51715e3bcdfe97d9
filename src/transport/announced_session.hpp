// A connection may show the session it belongs to before anything authenticates it.
#pragma once

#include "migrate/channel.hpp"
#include "migrate/result.hpp"
#include "wire/ids.hpp"

namespace migrate {

/// What a connection introduces itself with must be the session that it was brought here for.
/// kProtocol where it shows another one; one that shows none may be any.
[[nodiscard]] Status check_announced_session(const Channel& channel,
                                             const wire::SessionId& session);

}  // namespace migrate
