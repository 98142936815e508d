#include "tuner/routing.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "tuner/random.h"
#include "tuner/trace.h"

namespace moejit::internal {
namespace {

// Weighted draw of K distinct experts: the K largest of log(u)/p keys (Efraimidis and Spirakis,
// 2006, "Weighted random sampling with a reservoir"), of no more groups than the router opens:
// those of the largest keys, whatever they hold besides.
void draw_weighted(const std::vector<double>& popularity, const MoeConfig& config, Random* random,
                   std::vector<std::pair<double, int32_t>>* scratch, int32_t* ids) {
  scratch->clear();
  for (size_t e = 0; e < popularity.size(); ++e) {
    const double u = random->uniform();
    const double key = popularity[e] > 0 ? std::log(u) / popularity[e]
                                         : -1e300 * (1 + u);  // only when nothing else is left
    scratch->push_back({-key, static_cast<int32_t>(e)});
  }
  const int32_t top_k = config.top_k;
  if (config.router.topk_group == config.router.n_group) {
    std::partial_sort(scratch->begin(), scratch->begin() + top_k, scratch->end());
    for (int k = 0; k < top_k; ++k) ids[k] = (*scratch)[static_cast<size_t>(k)].second;
    return;
  }
  std::sort(scratch->begin(), scratch->end());
  const int32_t of_group = config.num_experts / config.router.n_group;
  std::vector<int32_t> open;  // groups
  int k = 0;
  for (size_t i = 0; k < top_k; ++i) {
    const int32_t expert = (*scratch)[i].second, group = expert / of_group;
    if (std::find(open.begin(), open.end(), group) == open.end()) {
      if (static_cast<int32_t>(open.size()) == config.router.topk_group) continue;
      open.push_back(group);
    }
    ids[k++] = expert;
  }
}

}  // namespace

Result<RoutingSpec> RoutingSpec::parse(const std::string& text) {
  RoutingSpec spec;
  spec.name = text;
  if (text == "uniform") return spec;
  if (text == "one") {
    spec.kind = Kind::kOne;
    return spec;
  }
  if (text == "skip") {
    spec.kind = Kind::kSkip;
    return spec;
  }
  if (text.rfind("zipf:", 0) == 0) {
    spec.kind = Kind::kZipf;
    const char* begin = text.c_str() + 5;
    const char* end = text.c_str() + text.size();
    const auto parsed = std::from_chars(begin, end, spec.exponent);
    if (parsed.ec == std::errc() && parsed.ptr == end && spec.exponent >= 0 &&
        spec.exponent <= 10) {
      return spec;
    }
    return invalid_argument("routing = \"" + text +
                            "\": the exponent of zipf must be a number from 0 to 10");
  }
  if (text.rfind("trace:", 0) == 0) {
    spec.kind = Kind::kTrace;
    MOEJIT_RETURN_IF_ERROR(read_trace(text.substr(6), &spec));
    return spec;
  }
  return invalid_argument("routing = \"" + text +
                          "\": must be uniform, zipf:S, trace:FILE, one or skip");
}

Status RoutingSpec::check(const MoeConfig& config) const {
  const int64_t experts = config.num_experts;
  if (kind != Kind::kTrace) return {};
  if (!popularity.empty() && static_cast<int64_t>(popularity.size()) != experts) {
    return invalid_argument("routing trace: has counts of " + std::to_string(popularity.size()) +
                            " experts, the layer has " + std::to_string(experts));
  }
  if (ids.empty()) return {};
  if (ids_per_token != config.top_k) {
    return invalid_argument("routing trace: has " + std::to_string(ids_per_token) +
                            " ids a token, the layer's top_k is " + std::to_string(config.top_k));
  }
  for (size_t i = 0; i < ids.size(); ++i) {
    const size_t first =
        i / static_cast<size_t>(ids_per_token) * static_cast<size_t>(ids_per_token);
    const auto where = [&] {
      return "routing trace: token " + std::to_string(first / static_cast<size_t>(ids_per_token)) +
             ", id " + std::to_string(i - first) + " = " + std::to_string(ids[i]) + ": ";
    };
    if (ids[i] < -1 || ids[i] >= experts) {
      return invalid_argument(where() + "must be from 0 to " + std::to_string(experts - 1) +
                              ", or -1 for an expert that is elsewhere");
    }
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(first);
    const auto end = ids.begin() + static_cast<std::ptrdiff_t>(i);
    if (ids[i] >= 0 && std::find(begin, end, ids[i]) != end) {
      return invalid_argument(where() + "is named twice by that token");
    }
  }
  return {};
}

Routing draw_routing(const RoutingSpec& spec, const MoeConfig& config, int64_t tokens,
                     uint64_t seed) {
  const int experts = config.num_experts;
  const int top_k = config.top_k;
  Random random(seed * 2654435761u + static_cast<uint64_t>(tokens));
  std::vector<double> popularity(static_cast<size_t>(experts), 1.0);
  if (spec.kind == RoutingSpec::Kind::kZipf) {
    for (int e = 0; e < experts; ++e) {
      popularity[static_cast<size_t>(e)] = std::pow(e + 1.0, -spec.exponent);
    }
    for (size_t e = popularity.size(); e-- > 1;) {
      std::swap(popularity[e], popularity[random.below(e + 1)]);
    }
  } else if (spec.kind == RoutingSpec::Kind::kTrace) {
    for (size_t e = 0; e < popularity.size(); ++e) {
      popularity[e] = e < spec.popularity.size() ? spec.popularity[e] : 0.0;
    }
  }
  Routing routing;
  routing.rows.assign(static_cast<size_t>(config.total_experts()), 0);
  routing.ids.resize(static_cast<size_t>(tokens * top_k));
  routing.weights.resize(routing.ids.size());
  std::vector<std::pair<double, int32_t>> scratch;
  const int64_t recorded =
      spec.ids_per_token > 0 ? static_cast<int64_t>(spec.ids.size()) / spec.ids_per_token : 0;
  const int64_t begin =
      recorded > 0 ? static_cast<int64_t>(random.below(static_cast<uint64_t>(recorded))) : 0;
  for (int64_t t = 0; t < tokens; ++t) {
    int32_t* ids = routing.ids.data() + t * top_k;
    float* weights = routing.weights.data() + t * top_k;
    if (spec.kind == RoutingSpec::Kind::kOne) {
      for (int k = 0; k < top_k; ++k) ids[k] = k;
    } else if (recorded > 0) {
      std::copy_n(spec.ids.data() + (begin + t) % recorded * top_k, top_k, ids);
    } else {
      draw_weighted(popularity, config, &random, &scratch, ids);
    }
    float sum = 0;
    for (int k = 0; k < top_k; ++k) {
      weights[k] = static_cast<float>(0.1 + random.uniform());
      sum += weights[k];
    }
    for (int k = 0; k < top_k; ++k) {
      weights[k] /= sum;
      if (spec.kind == RoutingSpec::Kind::kSkip && random.uniform() < 0.5) {
        ids[k] = random.uniform() < 0.5 ? -1 : experts + ids[k];
      }
      if (ids[k] >= 0 && ids[k] < experts) ++routing.rows[static_cast<size_t>(ids[k])];
    }
  }
  for (int s = 0; s < config.num_shared_experts; ++s) {
    routing.rows[static_cast<size_t>(experts + s)] = tokens;
  }
  return routing;
}

}  // namespace moejit::internal
