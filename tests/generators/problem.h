// Problems for tests: awkward configs, random tensors in the dtype, routings that break kernels,
// and the error measure.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "moejit/config.h"
#include "moejit/moejit.h"
#include "tests/generators/guarded_buffer.h"
#include "tests/generators/small_types.h"
#include "tests/reference/moe_reference.h"

namespace moejit_test {

using moejit_reference::Doubles;

// MOEJIT_TEST_LEVEL: 1 (default), 2 or 3.
int test_level();

struct NamedConfig {
  std::string name;  // letters, digits and underscores: fits a test's name
  moejit::MoeConfig config;
};
void PrintTo(const NamedConfig& named, std::ostream* out);

// Small layers with the widths, counts and features that break kernels: I = 176, 192, 704, 1408,
// H = 2688, 2880, one expert, 1024 experts, every activation, layout, dtype, bias, shared experts,
// weight on input. Each runs in milliseconds.
const std::vector<NamedConfig>& core_configs();
// One layer under every router: scoring x order x bias x groups x renormalize x scale.
const std::vector<NamedConfig>& router_configs();

enum class RoutingKind {
  kUniform,     // K distinct experts per token
  kZipf,        // distinct, by a Zipf law of exponent 1.2
  kOneExpert,   // expert E-1 in the first place of every token, the other places skipped
  kSparse,      // distinct, from the upper half of the experts only: the others stay empty
  kDuplicates,  // with replacement, so that a token may name an expert twice
  kSentinels,   // a third of the ids outside [0,E): -1, E, the shared ids, extremes; weight NaN
  kNone,        // every id outside [0,E)
  kFromLogits,  // the reference router on random logits (for routed launches)
};
const char* to_string(RoutingKind kind);
const std::vector<RoutingKind>& all_routings();

struct ProblemOptions {
  int64_t tokens = 5;
  uint64_t seed = 1;
  RoutingKind routing = RoutingKind::kUniform;
  moejit::DType logits_dtype = moejit::DType::kF32;
  // Weights of experts that no id names become NaN: reading them shows in the result.
  bool poison_unused = true;
};

// Tensors of one launch, in guarded memory, with the same values as doubles for the reference.
struct Problem {
  moejit::MoeConfig config;
  ProblemOptions options;
  GuardedBuffer x, w13, w2, b13, b2, ids, weights, logits, correction_bias, out;
  moejit_reference::Tensors reference;
  Doubles reference_logits, reference_correction;
  std::vector<int32_t> reference_ids;
  Doubles reference_weights;

  Doubles expected() const;  // runs the reference: O(T*K*I*H)
  Doubles result() const;    // `out` as doubles
  bool intact() const;       // of every buffer
  // Pointers filled in, workspace left to the caller.
  moejit::LaunchArgs launch_args();
  moejit::RoutedLaunchArgs routed_args();
};
Problem make_problem(const moejit::MoeConfig& config, const ProblemOptions& options = {});

std::vector<int32_t> make_ids(const moejit::MoeConfig& config, int64_t tokens, RoutingKind kind,
                              std::mt19937_64* random);

// ||got - want|| / ||want|| over all elements; infinite where one has a NaN and the other has not,
// or where want is all zero and got is not. Sizes must agree.
double relative_error(const Doubles& got, const Doubles& want);
// The same for the worst row of `width` elements, so that one bad token cannot hide among many.
double worst_row_error(const Doubles& got, const Doubles& want, int64_t width);
// What worst_row_error may be for a correct kernel: h and out rounded once each, f32 accumulation.
double tolerance(moejit::DType dtype);

}  // namespace moejit_test
