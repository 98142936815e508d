// From token counts to schedules: what the cache knows, the nearest that it knows, or the model.
#pragma once

#include <vector>

#include "moejit/moejit.h"
#include "runtime/library.h"

namespace moejit::internal {

struct PlannedBucket {
  int64_t tokens = 0;
  Schedule schedule;
  BucketInfo info;
  std::string level;  // as Explanation::level
  std::string key;    // of the choice that was followed; "" where the model chose
};

// 1,2,4,... up to max_tokens, which is the last.
std::vector<int64_t> default_token_ladder(int64_t max_tokens);

// Looks for a choice in this order: of this token count on this device ("exact"); of the nearest
// count by ratio, at most a factor of two away and on the same side of the device's balance of
// bytes and operations ("bucket"); the same two of the same silicon under another driver, then of
// another device of the architecture where the model agrees that the schedule is no worse than a
// quarter behind the default; then the model. One entry per token count, ascending. kUnsupported
// with every family's reason where none fits. Choices that the model makes share at most three
// schedules, so that a cold start compiles little.
Result<std::vector<PlannedBucket>> plan_buckets(const MoeConfig& config, const Device& device,
                                                Store& store, const std::vector<int64_t>& tokens);

}  // namespace moejit::internal
