// One call of tune(): which (layer, token count) pairs, in which order, with how much of the
// budget, and where their candidates run.
#pragma once

#include "backends/backend.h"
#include "cache/store.h"
#include "moejit/tuning.h"

namespace moejit::internal {

Status check_tune_request(const TuneRequest& request);

// A pair to tune. `first`: of its layer in this shard.
struct TuneItem {
  size_t layer = 0;
  int64_t tokens = 0;
  bool first = false;
};
// Every pair in order of layers and token counts, equal layers once, dealt out in turn: pair k
// falls to shard k mod shard_count.
std::vector<TuneItem> tune_items(const std::vector<MoeConfig>& layers, std::vector<int64_t> tokens,
                                 int32_t shard_index, int32_t shard_count);

// The request's, without repetitions.
std::vector<MoeConfig> tune_layers(const TuneRequest& request);

Result<TuneReport> run_tuning(const TuneRequest& request, const Device& device,
                              std::shared_ptr<Store> store);

// What it would take to do better, from a row's bytes, operations and share.
std::string advice_for(const TuneRow& row, const DeviceLimits& limits);

}  // namespace moejit::internal
