#include "runtime/pin.h"

#include "runtime/library.h"

namespace moejit::internal {

Result<SelectionInfo> pin_choice(const CachePlace& place, const std::string& key_prefix,
                                 bool pinned) {
  return pin_selection(place, key_prefix, pinned, policy_of(kServingRouting));
}

}  // namespace moejit::internal
