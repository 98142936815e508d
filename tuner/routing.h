// Distributions of routing decisions: part of the problem that is tuned.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generator/family.h"
#include "moejit/config.h"

namespace moejit::internal {

// "uniform"; "zipf:1.2" (expert popularity ~ 1/rank^s, ranks shuffled by the seed); "one" (every
// token to experts 0..K-1); "skip" (uniform, half of the ids outside [0,E)); "trace:FILE", recorded
// by the user in one of three forms (docs/tuning.md): a safetensors file with topk_ids [N,K] in I32
// or I64; text with the K ids of a token on each line; or JSON {"counts":[...E numbers...]}, how
// often each expert was chosen.
struct RoutingSpec {
  enum class Kind { kUniform, kZipf, kOne, kSkip, kTrace } kind = Kind::kUniform;
  double exponent = 0;
  std::vector<double> popularity;  // kTrace from counts
  std::vector<int32_t> ids;        // kTrace of N tokens: [N, ids_per_token]; -1 is skipped
  int32_t ids_per_token = 0;
  std::string name = "uniform";  // canonical; for a trace it carries the digest of its counts

  static Result<RoutingSpec> parse(const std::string& text);
  // A trace must fit the layer: K ids a token, each of them once and in [0,E) or -1; at most E
  // counts.
  Status check(const MoeConfig& config) const;
};

struct Routing {
  std::vector<int32_t> ids;    // [T,K], distinct within a token, of topk_group groups where drawn
  std::vector<float> weights;  // [T,K], positive, summing to 1 per token
  RowCounts rows;              // [total_experts]
};

// Deterministic in (spec, config, tokens, seed). Of a trace's ids, consecutive tokens from a place
// that the seed chooses, from the start again behind the end. REQUIRES: spec.check(config) is ok.
Routing draw_routing(const RoutingSpec& spec, const MoeConfig& config, int64_t tokens,
                     uint64_t seed);

}  // namespace moejit::internal
