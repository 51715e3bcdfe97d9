#include "adapters/kvm/incompatibility.hpp"

#include <algorithm>
#include <vector>

namespace migrate::kvm {

Error incompatible(std::span<const Incompatibility> faults) {
  return incompatible("this host cannot take the guest:", "the guest", faults);
}

Error incompatible(std::string text, const std::string& who,
                   std::span<const Incompatibility> faults) {
  std::vector<std::string> remedies;
  for (std::size_t i = 0; i < faults.size(); ++i) {
    const Incompatibility& fault = faults[i];
    text += (i == 0 ? " (" : "; (") + std::to_string(i + 1) + ") " + fault.what;
    if (!fault.guest.empty()) text += ": " + who + " has " + fault.guest;
    if (!fault.here.empty()) text += (fault.guest.empty() ? ": here " : ", here ") + fault.here;
    if (std::find(remedies.begin(), remedies.end(), fault.remedy) == remedies.end()) {
      remedies.push_back(fault.remedy);
    }
  }
  std::string advice;
  for (const std::string& remedy : remedies) advice += (advice.empty() ? "" : "; ") + remedy;
  return make_error(ErrorCode::kIncompatible, std::move(text)).advise(std::move(advice));
}

}  // namespace migrate::kvm
