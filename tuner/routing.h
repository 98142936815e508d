// Distributions of routing decisions: part of the problem that is tuned.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "generator/family.h"
#include "moejit/config.h"

namespace moejit::internal {

// "uniform"; "zipf:1.2" (expert popularity ~ 1/rank^s, ranks shuffled by the seed); "one" (every
// token to experts 0..K-1); "skip" (uniform, half of the ids outside [0,E)); "trace:FILE" (JSON
// {"counts":[...E non-negative numbers...]}: how often each expert was chosen).
struct RoutingSpec {
  enum class Kind { kUniform, kZipf, kOne, kSkip, kTrace } kind = Kind::kUniform;
  double exponent = 0;
  std::vector<double> popularity;  // kTrace
  std::string name = "uniform";    // canonical; for a trace it carries the digest of its counts

  static Result<RoutingSpec> parse(const std::string& text);
};

struct Routing {
  std::vector<int32_t> ids;    // [T,K], distinct within a token
  std::vector<float> weights;  // [T,K], positive, summing to 1 per token
  RowCounts rows;              // [total_experts]
};

// Deterministic in (spec, config, tokens, seed). REQUIRES for a trace: popularity.size() == E, else
// missing experts count as never chosen.
Routing draw_routing(const RoutingSpec& spec, const MoeConfig& config, int64_t tokens,
                     uint64_t seed);

}  // namespace moejit::internal
