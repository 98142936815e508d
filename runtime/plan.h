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
};

// 1,2,4,... up to max_tokens, which is the last.
std::vector<int64_t> default_token_ladder(int64_t max_tokens);

// One entry per token count, ascending. kUnsupported with every family's reason where none fits.
// Choices that the model makes share at most three schedules, so that a cold start compiles little.
Result<std::vector<PlannedBucket>> plan_buckets(const MoeConfig& config, const Device& device,
                                                Store& store, const std::vector<int64_t>& tokens);

}  // namespace moejit::internal
