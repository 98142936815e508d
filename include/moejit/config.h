// MoeConfig: one Mixture-of-Experts layer as plain data.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "moejit/status.h"

// The shared library exports what is declared from here to the pop.
#pragma GCC visibility push(default)
namespace moejit {
inline namespace v1 {

// Enum values are persistent (C ABI, cache keys): append only.
enum class DType : int32_t { kF32 = 0, kBF16 = 1, kF16 = 2 };

// With g the gate row's result and u the up row's (both f32, after bias):
//   kSilu       g*sigmoid(g) * u
//   kGelu       0.5*g*(1+erf(g/sqrt(2))) * u
//   kGeluTanh   0.5*g*(1+tanh(sqrt(2/pi)*(g+0.044715*g^3))) * u
//   kRelu2      max(g,0)^2 * u
//   kSwigluOai  (min(g,limit)) * sigmoid(alpha*min(g,limit)) * (clamp(u,-limit,limit)+1) [gpt-oss]
//   kSiluClamp  silu(min(g,limit)) * clamp(u,-limit,limit) [DeepSeek-V4]
// With `gated` false there is no u and the product is left out; kSwigluOai then is not allowed.
enum class Activation : int32_t {
  kSilu = 0,
  kGelu = 1,
  kGeluTanh = 2,
  kRelu2 = 3,
  kSwigluOai = 4,
  kSiluClamp = 5
};

enum class Scoring : int32_t { kSoftmax = 0, kSigmoid = 1, kSqrtSoftplus = 2 };
enum class RouterOrder : int32_t { kScoreThenTopk = 0, kTopkThenScore = 1 };

// How logits [T, num_experts] become top_k (id, weight) pairs per token.
//   kScoreThenTopk: score all experts, select by score (+ correction bias), weight = score.
//   kTopkThenScore: select by logit (+ correction bias), then score the selected logits
//                   (softmax over the selected ones; sigmoid and sqrtsoftplus each alone).
// Groups: experts are cut into n_group equal runs; only the topk_group best groups may be selected
// from. A group's score is the sum of its two best biased selection values where correction_bias is
// on (the single one where a group has one expert), else its maximum. Ties go to the lower id.
// NaN ranks below every number. Then, if renormalize, weights are divided by (their sum + 1e-20);
// last they are multiplied by scaling_factor.
struct RouterConfig {
  Scoring scoring = Scoring::kSoftmax;
  RouterOrder order = RouterOrder::kScoreThenTopk;
  bool correction_bias = false;  // an f32 [num_experts] added for selection only
  int32_t n_group = 1;
  int32_t topk_group = 1;
  bool renormalize = false;
  double scaling_factor = 1.0;

  bool operator==(const RouterConfig&) const = default;
};

// One layer. E = num_experts routed experts plus S = num_shared_experts shared ones.
//   x [T,H], out [T,H], w13 [E+S, 2I, H] (I gate rows, then I up rows), w2 [E+S, H, I], all of
//   `dtype`, dense, row-major, base pointers 16-byte aligned; b13 [E+S, 2I], b2 [E+S, H] of `dtype`
//   where `bias`. With gated false w13 is [E+S, I, H] and b13 [E+S, I].
//   transposed: w13 [E+S, H, 2I], w2 [E+S, I, H].   interleaved: gate and up rows (columns, where
//   transposed) alternate g0,u0,g1,u1,...   up_first: up before gate, in either arrangement.
//   packed: w13 and w2 are what pack_weights (moejit/pack.h) made of weights that the three flags
//   before describe; b13 stays as they say.
//   Shared experts are ids E..E+S-1; every token visits each of them with weight 1, after its
//   routed ones; topk_ids never names them (an id >= E is "not mine", as everywhere).
//   weight_on_input: the routing weight scales x, hence the result of the first product before
//   its bias, and not the expert's output (Llama-4).
// Products accumulate in f32; h is rounded to `dtype` between the two products; out is rounded
// once.
struct MoeConfig {
  int32_t num_experts = 0;  // 1..1024, with shared experts at most 1024
  int32_t top_k = 0;        // 1..32, at most num_experts
  // H: a row of H elements is a multiple of 16 bytes, H at most 2^24
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;  // I: likewise; w13 and w2 together take at most 2^47 bytes
  DType dtype = DType::kBF16;
  Activation activation = Activation::kSilu;
  bool gated = true;
  bool bias = false;
  double swiglu_alpha = 1.702;
  double swiglu_limit = 7.0;  // kSwigluOai and kSiluClamp
  bool transposed = false;
  bool interleaved = false;
  bool up_first = false;
  bool packed = false;
  int32_t num_shared_experts = 0;  // 0..32
  bool weight_on_input = false;
  RouterConfig router = {};

  bool operator==(const MoeConfig&) const = default;

  // Ok, or kInvalidArgument naming the first field that breaks a rule, its value and the rule.
  Status check() const;

  // Canonical: every field (`packed` where true), fixed order, shortest round-trip numbers, no
  // white space. Equal configs give equal text.
  std::string to_json() const;

  // Reads what to_json writes and any subset of it with the first four fields present. Unknown
  // fields, wrong types and duplicates are errors (kDataError) that name the field. Runs check().
  static Result<MoeConfig> from_json(std::string_view text);

  // E+S, and the number of rows of w13 per expert (2I, or I where not gated).
  int32_t total_experts() const { return num_experts + num_shared_experts; }
  int64_t w13_rows() const { return int64_t{gated ? 2 : 1} * intermediate_size; }
};

int32_t size_of(DType dtype);  // bytes of one element

// Names as in JSON: "bf16", "silu", "softmax", "score_then_topk".
const char* to_string(DType value);
const char* to_string(Activation value);
const char* to_string(Scoring value);
const char* to_string(RouterOrder value);
Result<DType> dtype_from_string(std::string_view name);
Result<Activation> activation_from_string(std::string_view name);

// A named layer of a published model.
struct ModelPreset {
  std::string name;    // "qwen3-30b-a3b"
  std::string source;  // where the numbers were read
  MoeConfig config;
  int32_t moe_layers = 0;  // how many such layers the model has; 0 where not read
  std::string note;
};

// All presets, sorted by name. The reference stays valid for the life of the process.
const std::vector<ModelPreset>& model_presets();

// The preset of that name (case-insensitive), or kNotFound with the nearest names.
Result<ModelPreset> find_model_preset(std::string_view name);

// The layer as one of `tp` tensor-parallel ranks holds it: intermediate_size / tp, all else the
// same. The ranks' outputs are summed by the caller, so where `bias` one rank alone passes b2 and
// the others zeros. kInvalidArgument where tp does not divide the width into rows of 16 bytes.
Result<MoeConfig> shard_tensor_parallel(const MoeConfig& config, int32_t tp);

// Reads a Hugging Face config.json (its text) into the layer of routed experts that it describes,
// weights in the canonical layout (gpt-oss: interleaved, as published). Fused shared experts are
// the caller's choice: num_shared_experts is 0. kDataError names the key that is missing or wrong,
// kUnsupported what moejit has not (an activation, a router's score).
Result<MoeConfig> config_from_hf_json(std::string_view text);

}  // namespace v1
}  // namespace moejit
#pragma GCC visibility pop
