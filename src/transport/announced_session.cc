#include "transport/announced_session.hpp"

namespace migrate {

Status check_announced_session(const Channel& channel, const wire::SessionId& session) {
  const std::string announced = channel.announced_session();
  if (announced.empty() || announced == wire::to_text(session)) return {};
  return make_error(ErrorCode::kProtocol,
                    channel.peer() +
                        " announced another session than it speaks of: " + wire::to_text(session))
      .advise("use the same version of migrate on both hosts");
}

}  // namespace migrate
