// The launch path: check, pick the bucket, hand over. Nothing here compiles, allocates, locks or
// synchronises (strict mode apart).
#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "runtime/background.h"
#include "runtime/memory.h"
#include "runtime/state.h"

namespace moejit {
inline namespace v1 {
namespace {

using internal::LaunchPlan;

int64_t round_up(int64_t bytes) {
  return (bytes + 255) / 256 * 256;
}

using internal::check_apart;
using internal::check_pointer;
using internal::Memory;
using internal::plan_workspace;

// Ids and weights that a routed launch makes, behind the kernel's own regions.
int64_t routed_bytes(const MoeConfig& config, int64_t tokens) {
  return 2 * round_up(tokens * config.top_k * 4);
}

// The checks that both kinds of launch share. Args: LaunchArgs or RoutedLaunchArgs.
template <typename Args>
Status check_common(const Kernel::State* state, const Args& args) {
  if (state == nullptr) return invalid_argument("kernel: an empty handle cannot be launched");
  if (args.num_tokens < 0 || args.num_tokens > state->max_tokens) {
    return invalid_argument("num_tokens = " + std::to_string(args.num_tokens) +
                            ": must be within the prepared range 0.." +
                            std::to_string(state->max_tokens) + " (Options::max_tokens)");
  }
  if (args.num_tokens == 0) return {};
  MOEJIT_RETURN_IF_ERROR(check_pointer("x", args.x, 16));
  MOEJIT_RETURN_IF_ERROR(check_pointer("w13", args.w13, 16));
  MOEJIT_RETURN_IF_ERROR(check_pointer("w2", args.w2, 16));
  if (state->config.bias) {
    MOEJIT_RETURN_IF_ERROR(check_pointer("b13", args.b13, 16));
    MOEJIT_RETURN_IF_ERROR(check_pointer("b2", args.b2, 16));
  } else if (args.b13 != nullptr || args.b2 != nullptr) {
    return invalid_argument(std::string(args.b13 != nullptr ? "b13" : "b2") +
                            ": must be null, as the config's bias is false");
  }
  MOEJIT_RETURN_IF_ERROR(check_pointer("out", args.out, 16));
  return check_pointer("workspace", args.workspace, 256);
}

Status check_workspace(const MoeConfig& config, const LaunchPlan& plan, int64_t tokens,
                       size_t have) {
  const int64_t need = plan_workspace(config, plan, tokens);
  if (have != 0 && have < static_cast<size_t>(need)) {
    return invalid_argument("workspace_size = " + std::to_string(have) + ": must be at least " +
                            std::to_string(need) + " for " + std::to_string(tokens) +
                            " tokens (Kernel::workspace_size)");
  }
  return {};
}

// What a launch writes may lie over nothing that it reads. `also` is what its kind has besides.
template <typename Args>
Status check_overlaps(const Kernel::State& state, const Args& args, int64_t workspace_bytes,
                      std::initializer_list<Memory> also) {
  const MoeConfig& config = state.config;
  const int64_t element = size_of(config.dtype), experts = config.total_experts();
  const int64_t row = config.hidden_size * element;
  const Memory out{"out", args.out, args.num_tokens * row};
  const Memory workspace{"workspace", args.workspace, workspace_bytes};
  const auto check = [&](const Memory& read) -> Status {
    MOEJIT_RETURN_IF_ERROR(check_apart(out, read));
    return check_apart(workspace, read);
  };
  MOEJIT_RETURN_IF_ERROR(check({"x", args.x, args.num_tokens * row}));
  MOEJIT_RETURN_IF_ERROR(check({"w13", args.w13, state.weights.w13 * element}));
  MOEJIT_RETURN_IF_ERROR(check({"w2", args.w2, state.weights.w2 * element}));
  MOEJIT_RETURN_IF_ERROR(check({"b13", args.b13, experts * config.w13_rows() * element}));
  MOEJIT_RETURN_IF_ERROR(check({"b2", args.b2, experts * row}));
  for (const Memory& read : also) MOEJIT_RETURN_IF_ERROR(check(read));
  return check_apart(out, workspace);
}

Status check_ids(const Kernel::State& state, const LaunchArgs& args) {
  const int64_t count = args.num_tokens * state.config.top_k;
  std::vector<int32_t> ids(static_cast<size_t>(count));
  MOEJIT_RETURN_IF_ERROR(state.device->copy_out(ids.data(), args.topk_ids, ids.size() * 4));
  for (int64_t i = 0; i < count; ++i) {
    const int32_t id = ids[static_cast<size_t>(i)];
    if (id < 0 || id >= state.config.num_experts) {
      return invalid_argument("topk_ids[" + std::to_string(i / state.config.top_k) + "," +
                              std::to_string(i % state.config.top_k) + "] = " + std::to_string(id) +
                              ": must be within 0.." +
                              std::to_string(state.config.num_experts - 1) + " (strict launch)");
    }
  }
  return {};
}

// On the first launch of a handle, and on every strict one.
Status check_places(const Kernel::State& state, const moejit_abi::MoeArgs& args, bool again) {
  if (!again && state.pointers_checked.load(std::memory_order_relaxed)) return {};
  const std::pair<const char*, const void*> fields[] = {{"x", args.x},
                                                        {"w13", args.w13},
                                                        {"w2", args.w2},
                                                        {"b13", args.b13},
                                                        {"b2", args.b2},
                                                        {"topk_ids", args.topk_ids},
                                                        {"topk_weights", args.topk_weights},
                                                        {"router_logits", args.router_logits},
                                                        {"correction_bias", args.correction_bias},
                                                        {"out", args.out},
                                                        {"workspace", args.workspace}};
  for (const auto& [field, pointer] : fields) {
    if (pointer != nullptr) MOEJIT_RETURN_IF_ERROR(state.device->check_pointer(field, pointer));
  }
  state.pointers_checked.store(true, std::memory_order_relaxed);
  return {};
}

}  // namespace

}  // namespace v1

namespace internal {
int64_t plan_workspace(const MoeConfig& config, const LaunchPlan& plan, int64_t tokens) {
  return workspace_offset(plan.regions, plan.regions.size(), tokens) + routed_bytes(config, tokens);
}
}  // namespace internal

inline namespace v1 {

const LaunchPlan& Kernel::State::plan_for(int64_t tokens) const {
  const Plans& all = plans();
  for (const LaunchPlan& plan : all) {
    if (tokens <= plan.upper) return plan;
  }
  return all.back();
}

void Kernel::State::publish(std::unique_ptr<const Plans> plans) const {
  const std::lock_guard lock(mutex_);
  all_.push_back(std::move(plans));
  plans_.store(all_.back().get(), std::memory_order_release);
}

int64_t Kernel::State::promised_workspace(int64_t tokens) const {
  const Plans* first = nullptr;
  {
    const std::lock_guard lock(mutex_);
    first = all_.front().get();
  }
  const LaunchPlan* plan = &first->back();
  for (const LaunchPlan& p : *first) {
    if (tokens <= p.upper) {
      plan = &p;
      break;
    }
  }
  return std::max<int64_t>({256, plan->smaller_workspace, plan_workspace(config, *plan, tokens)});
}

Status Kernel::launch(const LaunchArgs& args, void* stream) const {
  MOEJIT_RETURN_IF_ERROR(check_common(state_.get(), args));
  if (args.num_tokens == 0) return {};
  MOEJIT_RETURN_IF_ERROR(check_pointer("topk_ids", args.topk_ids, 4));
  MOEJIT_RETURN_IF_ERROR(check_pointer("topk_weights", args.topk_weights, 4));
  const LaunchPlan& plan = state_->plan_for(args.num_tokens);
  MOEJIT_RETURN_IF_ERROR(
      check_workspace(state_->config, plan, args.num_tokens, args.workspace_size));
  const int64_t slots = args.num_tokens * state_->config.top_k * 4;
  MOEJIT_RETURN_IF_ERROR(check_overlaps(
      *state_, args, plan_workspace(state_->config, plan, args.num_tokens),
      {{"topk_ids", args.topk_ids, slots}, {"topk_weights", args.topk_weights, slots}}));
  moejit_abi::MoeArgs abi{};
  abi.x = args.x;
  abi.w13 = args.w13;
  abi.w2 = args.w2;
  abi.b13 = args.b13;
  abi.b2 = args.b2;
  abi.topk_ids = args.topk_ids;
  abi.topk_weights = args.topk_weights;
  abi.out = args.out;
  abi.workspace = args.workspace;
  abi.num_tokens = args.num_tokens;
  MOEJIT_RETURN_IF_ERROR(check_places(*state_, abi, args.strict));
  internal::note_launch(*state_->device, stream);
  if (args.strict) MOEJIT_RETURN_IF_ERROR(check_ids(*state_, args));
  return plan.module->launch(abi, stream);
}

Status Kernel::launch_routed(const RoutedLaunchArgs& args, void* stream) const {
  MOEJIT_RETURN_IF_ERROR(check_common(state_.get(), args));
  if (args.num_tokens == 0) return {};
  const MoeConfig& config = state_->config;
  if (static_cast<int>(args.logits_dtype) < 0 || args.logits_dtype > DType::kF16) {
    return invalid_argument(
        "logits_dtype = " + std::to_string(static_cast<int>(args.logits_dtype)) +
        ": must be kF32, kBF16 or kF16");
  }
  const int64_t logit_size = size_of(args.logits_dtype);
  if (args.topk_ids != nullptr) MOEJIT_RETURN_IF_ERROR(check_pointer("topk_ids", args.topk_ids, 4));
  if (args.topk_weights != nullptr)
    MOEJIT_RETURN_IF_ERROR(check_pointer("topk_weights", args.topk_weights, 4));
  MOEJIT_RETURN_IF_ERROR(
      check_pointer("router_logits", args.router_logits, static_cast<uintptr_t>(logit_size)));
  if (config.router.correction_bias) {
    MOEJIT_RETURN_IF_ERROR(check_pointer("correction_bias", args.correction_bias, 4));
  } else if (args.correction_bias != nullptr) {
    return invalid_argument("correction_bias: must be null, as the config's router has none");
  }
  const LaunchPlan& plan = state_->plan_for(args.num_tokens);
  MOEJIT_RETURN_IF_ERROR(check_workspace(config, plan, args.num_tokens, args.workspace_size));
  const int64_t slots = args.num_tokens * config.top_k * 4;
  MOEJIT_RETURN_IF_ERROR(check_overlaps(
      *state_, args, plan_workspace(config, plan, args.num_tokens),
      {{"router_logits", args.router_logits, args.num_tokens * config.num_experts * logit_size},
       {"correction_bias", args.correction_bias, int64_t{config.num_experts} * 4},
       {"topk_ids", args.topk_ids, slots},
       {"topk_weights", args.topk_weights, slots}}));
  internal::note_launch(*state_->device, stream);
  char* routed = static_cast<char*>(args.workspace) +
                 internal::workspace_offset(plan.regions, plan.regions.size(), args.num_tokens);
  moejit_abi::MoeArgs abi{};
  abi.x = args.x;
  abi.w13 = args.w13;
  abi.w2 = args.w2;
  abi.b13 = args.b13;
  abi.b2 = args.b2;
  abi.topk_ids = args.topk_ids != nullptr ? args.topk_ids : reinterpret_cast<int32_t*>(routed);
  abi.topk_weights =
      args.topk_weights != nullptr
          ? args.topk_weights
          : reinterpret_cast<float*>(routed + round_up(args.num_tokens * config.top_k * 4));
  abi.router_logits = args.router_logits;
  abi.logits_dtype = static_cast<int>(args.logits_dtype);
  abi.correction_bias = args.correction_bias;
  abi.out = args.out;
  abi.workspace = args.workspace;
  abi.num_tokens = args.num_tokens;
  abi.routed = 1;
  MOEJIT_RETURN_IF_ERROR(check_places(*state_, abi, false));
  return plan.module->launch(abi, stream);
}

size_t Kernel::workspace_size(int64_t num_tokens) const {
  if (state_ == nullptr || num_tokens < 0) return 256;
  const int64_t tokens = std::min(num_tokens, state_->max_tokens);
  return static_cast<size_t>(state_->promised_workspace(tokens));
}

const MoeConfig& Kernel::config() const {
  static const MoeConfig empty;
  return state_ == nullptr ? empty : state_->config;
}

const std::string& Kernel::device() const {
  static const std::string empty;
  return state_ == nullptr ? empty : state_->device_name;
}

int64_t Kernel::max_tokens() const {
  return state_ == nullptr ? 0 : state_->max_tokens;
}

std::vector<BucketInfo> Kernel::buckets() const {
  std::vector<BucketInfo> out;
  if (state_ == nullptr) return out;
  for (const LaunchPlan& plan : state_->plans()) out.push_back(plan.info);
  return out;
}

const char* to_string(Source value) {
  switch (value) {
    case Source::kExact:
      return "exact";
    case Source::kNearest:
      return "nearest";
    case Source::kModel:
      break;
  }
  return "model";
}

}  // namespace v1
}  // namespace moejit
