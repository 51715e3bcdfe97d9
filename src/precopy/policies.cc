#include "migrate/policy.hpp"
#include "precopy/policy_own.hpp"
#include "precopy/policy_published.hpp"

namespace migrate {

std::shared_ptr<const PrecopyPolicy> make_policy(const PolicyChoice& choice) {
  switch (choice.kind) {
    case PolicyChoice::Kind::kXen:
      return std::make_shared<precopy::XenPolicy>();
    case PolicyChoice::Kind::kQemu:
      return std::make_shared<precopy::QemuPolicy>();
    case PolicyChoice::Kind::kFixed:
      return std::make_shared<precopy::FixedPolicy>(choice.rounds);
    case PolicyChoice::Kind::kOwn:
      break;
  }
  return std::make_shared<precopy::OwnPolicy>();
}

}  // namespace migrate
