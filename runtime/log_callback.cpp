#include "base/log.h"
#include "moejit/moejit.h"

namespace moejit {
inline namespace v1 {

void set_log_callback(LogCallback callback, void* user) {
  internal::set_log_sink(callback, user);
}

}  // namespace v1
}  // namespace moejit
