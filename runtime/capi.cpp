// The C ABI: each function turns its arguments into those of moejit.h and its Status into a number,
// and lets nothing be thrown past it.
#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "base/json_util.h"
#include "moejit/moejit.h"
#include "moejit/moejit_c.h"
#include "runtime/capi_guard.h"
#include "runtime/capi_handles.h"

namespace {

using moejit::invalid_argument;
using moejit::Status;
using moejit::StatusCode;
using moejit::internal::guarded;
using moejit::internal::last_error;
using moejit::internal::null;
using moejit::internal::read_struct;

Status read_flag(const char* name, int32_t value, bool* out) {
  if (value != 0 && value != 1) {
    return invalid_argument(std::string(name) + " = " + std::to_string(value) + ": must be 0 or 1");
  }
  *out = value == 1;
  return Status();
}

Status read_config(const moejit_config_desc& d, moejit::MoeConfig* c) {
  c->num_experts = d.num_experts;
  c->top_k = d.top_k;
  c->hidden_size = d.hidden_size;
  c->intermediate_size = d.intermediate_size;
  c->dtype = static_cast<moejit::DType>(d.dtype);
  c->activation = static_cast<moejit::Activation>(d.activation);
  MOEJIT_RETURN_IF_ERROR(read_flag("gated", d.gated, &c->gated));
  MOEJIT_RETURN_IF_ERROR(read_flag("bias", d.bias, &c->bias));
  MOEJIT_RETURN_IF_ERROR(read_flag("transposed", d.transposed, &c->transposed));
  MOEJIT_RETURN_IF_ERROR(read_flag("interleaved", d.interleaved, &c->interleaved));
  MOEJIT_RETURN_IF_ERROR(read_flag("up_first", d.up_first, &c->up_first));
  MOEJIT_RETURN_IF_ERROR(read_flag("packed", d.packed, &c->packed));
  if (d.reserved != 0) {
    return invalid_argument("reserved = " + std::to_string(d.reserved) + ": must be 0");
  }
  c->num_shared_experts = d.num_shared_experts;
  MOEJIT_RETURN_IF_ERROR(read_flag("weight_on_input", d.weight_on_input, &c->weight_on_input));
  c->swiglu_alpha = d.swiglu_alpha;
  c->swiglu_limit = d.swiglu_limit;
  moejit::RouterConfig& r = c->router;
  r.scoring = static_cast<moejit::Scoring>(d.router_scoring);
  r.order = static_cast<moejit::RouterOrder>(d.router_order);
  MOEJIT_RETURN_IF_ERROR(
      read_flag("router_correction_bias", d.router_correction_bias, &r.correction_bias));
  r.n_group = d.router_n_group;
  r.topk_group = d.router_topk_group;
  MOEJIT_RETURN_IF_ERROR(read_flag("router_renormalize", d.router_renormalize, &r.renormalize));
  r.scaling_factor = d.router_scaling_factor;
  return c->check();
}

moejit_config_desc describe(const moejit::MoeConfig& c, uint32_t struct_size) {
  moejit_config_desc d{};
  d.struct_size = struct_size;
  d.num_experts = c.num_experts;
  d.top_k = c.top_k;
  d.hidden_size = c.hidden_size;
  d.intermediate_size = c.intermediate_size;
  d.dtype = static_cast<int32_t>(c.dtype);
  d.activation = static_cast<int32_t>(c.activation);
  d.gated = c.gated;
  d.bias = c.bias;
  d.transposed = c.transposed;
  d.interleaved = c.interleaved;
  d.up_first = c.up_first;
  d.packed = c.packed;
  d.num_shared_experts = c.num_shared_experts;
  d.weight_on_input = c.weight_on_input;
  d.swiglu_alpha = c.swiglu_alpha;
  d.swiglu_limit = c.swiglu_limit;
  d.router_scoring = static_cast<int32_t>(c.router.scoring);
  d.router_order = static_cast<int32_t>(c.router.order);
  d.router_correction_bias = c.router.correction_bias;
  d.router_n_group = c.router.n_group;
  d.router_topk_group = c.router.topk_group;
  d.router_renormalize = c.router.renormalize;
  d.router_scaling_factor = c.router.scaling_factor;
  return d;
}

// Fills as much of the caller's struct as he says that he has; what lies beyond today's struct is
// 0.
template <typename T>
void write_struct(const T& value, uint32_t struct_size, T* out) {
  if (out == nullptr) return;
  std::memset(static_cast<void*>(out), 0, struct_size);
  std::memcpy(out, &value, std::min<size_t>(sizeof(T), struct_size));
}

Status give(moejit::Result<moejit::MoeConfig> config, moejit_config** out) {
  if (!config.ok()) return config.status();
  *out = new moejit_config{*config, config->to_json()};
  return Status();
}

Status read_options(const moejit_options* given, moejit::Options* out) {
  if (given == nullptr) return Status();
  moejit_options o;
  MOEJIT_RETURN_IF_ERROR(read_struct("options", given, &o, offsetof(moejit_options, stream)));
  if (o.policy < MOEJIT_POLICY_CACHED || o.policy > MOEJIT_POLICY_FROZEN) {
    return invalid_argument("policy = " + std::to_string(o.policy) +
                            ": must be an enum value between 0 and 2");
  }
  if (o.tokens == nullptr && o.num_tokens != 0) return null("tokens");
  out->policy = static_cast<moejit::Policy>(o.policy);
  if (o.device != nullptr) out->device = o.device;
  out->max_tokens = o.max_tokens;
  if (o.tokens != nullptr) out->tokens.assign(o.tokens, o.tokens + o.num_tokens);
  out->tune_budget_s = o.tune_budget_s;
  if (o.cache_path != nullptr) out->cache_path = o.cache_path;
  out->num_threads = o.num_threads;
  out->stream = o.stream;
  return Status();
}

std::string buckets_text(const moejit::Kernel& kernel) {
  using moejit::internal::json_number;
  std::string text = "[";
  for (const moejit::BucketInfo& bucket : kernel.buckets()) {
    if (text.size() > 1) text += ',';
    text += "{\"tokens\":" + std::to_string(bucket.tokens) + ",\"source\":\"" +
            moejit::to_string(bucket.source) + "\",\"schedule\":" + bucket.schedule +
            ",\"measured_s\":" + json_number(bucket.measured_s) +
            ",\"predicted_s\":" + json_number(bucket.predicted_s) +
            ",\"floor_s\":" + json_number(bucket.floor_s) +
            ",\"reason\":" + moejit::internal::json_string(bucket.reason) + "}";
  }
  return text + "]";
}

}  // namespace

extern "C" {

uint32_t moejit_abi_version(void) {
  return MOEJIT_ABI_VERSION;
}
const char* moejit_version(void) {
  return moejit::version();
}
const char* moejit_status_name(moejit_status status) {
  return moejit::to_string(static_cast<StatusCode>(status));
}
const char* moejit_last_error(void) {
  return last_error().message.c_str();
}
const char* moejit_last_error_log(void) {
  return last_error().log.c_str();
}
void moejit_string_free(char* text) {
  std::free(text);
}
void moejit_set_log_callback(moejit_log_callback callback, void* user) {
  moejit::set_log_callback(callback, user);
}

void moejit_config_desc_init(moejit_config_desc* desc, uint32_t struct_size) {
  write_struct(describe(moejit::MoeConfig(), struct_size), struct_size, desc);
}

moejit_status moejit_config_create(const moejit_config_desc* desc, moejit_config** config) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(config);
    *config = nullptr;
    moejit_config_desc copy;
    MOEJIT_RETURN_IF_ERROR(read_struct("desc", desc, &copy, offsetof(moejit_config_desc, packed)));
    moejit::MoeConfig made;
    MOEJIT_RETURN_IF_ERROR(read_config(copy, &made));
    return give(made, config);
  });
}

moejit_status moejit_config_from_json(const char* json, moejit_config** config) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(config);
    *config = nullptr;
    MOEJIT_REQUIRE(json);
    return give(moejit::MoeConfig::from_json(json), config);
  });
}

moejit_status moejit_config_from_hf_json(const char* json, moejit_config** config) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(config);
    *config = nullptr;
    MOEJIT_REQUIRE(json);
    return give(moejit::config_from_hf_json(json), config);
  });
}

moejit_status moejit_config_from_preset(const char* name, moejit_config** config) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(config);
    *config = nullptr;
    MOEJIT_REQUIRE(name);
    const moejit::Result<moejit::ModelPreset> preset = moejit::find_model_preset(name);
    if (!preset.ok()) return preset.status();
    return give(preset->config, config);
  });
}

moejit_status moejit_config_shard(const moejit_config* config, int32_t tp, moejit_config** shard) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(shard);
    *shard = nullptr;
    MOEJIT_REQUIRE(config);
    return give(moejit::shard_tensor_parallel(config->config, tp), shard);
  });
}

moejit_status moejit_config_get(const moejit_config* config, moejit_config_desc* desc) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(config);
    MOEJIT_REQUIRE(desc);
    moejit_config_desc old;  // checks the size that the caller claims
    MOEJIT_RETURN_IF_ERROR(read_struct("desc", desc, &old, offsetof(moejit_config_desc, packed)));
    write_struct(describe(config->config, old.struct_size), old.struct_size, desc);
    return Status();
  });
}

const char* moejit_config_json(const moejit_config* config) {
  return config == nullptr ? nullptr : config->json.c_str();
}
void moejit_config_destroy(moejit_config* config) {
  delete config;
}

void moejit_options_init(moejit_options* options, uint32_t struct_size) {
  moejit_options value{};
  value.struct_size = struct_size;
  value.max_tokens = moejit::Options().max_tokens;
  write_struct(value, struct_size, options);
}

moejit_status moejit_get_kernel(const moejit_config* config, const moejit_options* options,
                                moejit_kernel** kernel) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(kernel);
    *kernel = nullptr;
    MOEJIT_REQUIRE(config);
    moejit::Options read;
    MOEJIT_RETURN_IF_ERROR(read_options(options, &read));
    moejit::Result<moejit::Kernel> found = moejit::get_kernel(config->config, read);
    if (!found.ok()) return found.status();
    *kernel = new moejit_kernel{*std::move(found), config->json};
    return Status();
  });
}

void moejit_kernel_destroy(moejit_kernel* kernel) {
  delete kernel;
}

moejit_status moejit_kernel_launch(const moejit_kernel* kernel, const moejit_launch_args* args,
                                   void* stream) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(kernel);
    moejit_launch_args a;
    MOEJIT_RETURN_IF_ERROR(read_struct("args", args, &a));
    moejit::LaunchArgs launch{.num_tokens = a.num_tokens,
                              .x = a.x,
                              .w13 = a.w13,
                              .w2 = a.w2,
                              .b13 = a.b13,
                              .b2 = a.b2,
                              .topk_ids = a.topk_ids,
                              .topk_weights = a.topk_weights,
                              .out = a.out,
                              .workspace = a.workspace,
                              .workspace_size = a.workspace_size};
    MOEJIT_RETURN_IF_ERROR(read_flag("strict", a.strict, &launch.strict));
    return kernel->kernel.launch(launch, stream);
  });
}

moejit_status moejit_kernel_launch_routed(const moejit_kernel* kernel,
                                          const moejit_routed_launch_args* args, void* stream) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(kernel);
    moejit_routed_launch_args a;
    MOEJIT_RETURN_IF_ERROR(read_struct("args", args, &a));
    if (a.logits_dtype < MOEJIT_F32 || a.logits_dtype > MOEJIT_F16) {
      return invalid_argument("logits_dtype = " + std::to_string(a.logits_dtype) +
                              ": must be an enum value between 0 and 2");
    }
    return kernel->kernel.launch_routed({.num_tokens = a.num_tokens,
                                         .x = a.x,
                                         .w13 = a.w13,
                                         .w2 = a.w2,
                                         .b13 = a.b13,
                                         .b2 = a.b2,
                                         .router_logits = a.router_logits,
                                         .logits_dtype = static_cast<moejit::DType>(a.logits_dtype),
                                         .correction_bias = a.correction_bias,
                                         .topk_ids = a.topk_ids,
                                         .topk_weights = a.topk_weights,
                                         .out = a.out,
                                         .workspace = a.workspace,
                                         .workspace_size = a.workspace_size},
                                        stream);
  });
}

size_t moejit_kernel_workspace_size(const moejit_kernel* kernel, int64_t num_tokens) {
  return kernel == nullptr ? 0 : kernel->kernel.workspace_size(num_tokens);
}
int64_t moejit_kernel_max_tokens(const moejit_kernel* kernel) {
  return kernel == nullptr ? -1 : kernel->kernel.max_tokens();
}
const char* moejit_kernel_device(const moejit_kernel* kernel) {
  return kernel == nullptr ? nullptr : kernel->kernel.device().c_str();
}
const char* moejit_kernel_config_json(const moejit_kernel* kernel) {
  return kernel == nullptr ? nullptr : kernel->config_json.c_str();
}

moejit_status moejit_kernel_buckets_json(const moejit_kernel* kernel, char** json) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(json);
    *json = nullptr;
    MOEJIT_REQUIRE(kernel);
    *json = moejit::internal::give_string(buckets_text(kernel->kernel));
    return Status();
  });
}

moejit_status moejit_supports(const moejit_config* config, const char* device) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(config);
    MOEJIT_REQUIRE(device);
    return moejit::supports(config->config, device);
  });
}

}  // extern "C"
