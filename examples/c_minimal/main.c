/* One layer on the CPU through the C interface, the router included. Compares with a plain loop. */
#include <math.h>
#include <moejit/moejit_c.h>
#include <stdio.h>
#include <stdlib.h>

enum { kExperts = 8, kTopK = 2, kHidden = 32, kInner = 48, kTokens = 3 };

static void check(moejit_status status, const char* what) {
  if (status == MOEJIT_OK) return;
  fprintf(stderr, "%s: %s: %s\n", what, moejit_status_name(status), moejit_last_error());
  exit(1);
}

/* Tensors begin at multiples of 16 bytes, the workspace at 256. */
static void* allocate(size_t bytes) {
  void* memory = aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (memory == NULL) exit(1);
  return memory;
}

static float* make_random(size_t count, float scale) {
  static uint32_t state = 7;
  float* values = allocate(count * sizeof(float));
  for (size_t i = 0; i < count; ++i) {
    state = state * 1664525u + 1013904223u;
    values[i] = scale * ((float)(state >> 8) / 8388608.0f - 1.0f);
  }
  return values;
}

/* What the layer must give for one token whose router chose `ids` with `weights`. */
static void expected(const float* x, const float* w13, const float* w2, const int32_t* ids,
                     const float* weights, double* out) {
  for (int h = 0; h < kHidden; ++h) out[h] = 0;
  for (int k = 0; k < kTopK; ++k) {
    const float* gate_rows = w13 + (size_t)ids[k] * 2 * kInner * kHidden;
    const float* up_rows = gate_rows + (size_t)kInner * kHidden;
    const float* down = w2 + (size_t)ids[k] * kHidden * kInner;
    for (int i = 0; i < kInner; ++i) {
      double gate = 0, up = 0;
      for (int h = 0; h < kHidden; ++h) {
        gate += (double)x[h] * gate_rows[i * kHidden + h];
        up += (double)x[h] * up_rows[i * kHidden + h];
      }
      for (int h = 0; h < kHidden; ++h) {
        out[h] += weights[k] * gate / (1 + exp(-gate)) * up * down[h * kInner + i];
      }
    }
  }
}

int main(void) {
  if (moejit_abi_version() < MOEJIT_ABI_VERSION) {
    fprintf(stderr, "the library is older than the header\n");
    return 1;
  }
  moejit_config_desc desc;
  moejit_config_desc_init(&desc, sizeof desc);
  desc.num_experts = kExperts;
  desc.top_k = kTopK;
  desc.hidden_size = kHidden;
  desc.intermediate_size = kInner;
  desc.dtype = MOEJIT_F32;
  desc.router_renormalize = 1;
  moejit_config* config = NULL;
  check(moejit_config_create(&desc, &config), "moejit_config_create");

  moejit_options options;
  moejit_options_init(&options, sizeof options);
  options.device = "cpu";
  options.max_tokens = 16;
  moejit_kernel* kernel = NULL;
  check(moejit_get_kernel(config, &options, &kernel), "moejit_get_kernel");

  float* x = make_random(kTokens * kHidden, 1.0f);
  float* w13 = make_random(kExperts * 2 * kInner * kHidden, 0.3f);
  float* w2 = make_random(kExperts * kHidden * kInner, 0.3f);
  float* logits = make_random(kTokens * kExperts, 3.0f);
  int32_t* ids = allocate(kTokens * kTopK * sizeof(int32_t));
  float* weights = allocate(kTokens * kTopK * sizeof(float));
  float* out = allocate(kTokens * kHidden * sizeof(float));
  const size_t workspace_size = moejit_kernel_workspace_size(kernel, kTokens);
  void* workspace = allocate(workspace_size);

  const moejit_routed_launch_args args = {
      .struct_size = sizeof args,
      .logits_dtype = MOEJIT_F32,
      .num_tokens = kTokens,
      .x = x,
      .w13 = w13,
      .w2 = w2,
      .router_logits = logits,
      .topk_ids = ids,
      .topk_weights = weights,
      .out = out,
      .workspace = workspace,
      .workspace_size = workspace_size,
  };
  check(moejit_kernel_launch_routed(kernel, &args, NULL), "moejit_kernel_launch_routed");

  double worst = 0;
  for (int t = 0; t < kTokens; ++t) {
    double want[kHidden];
    expected(x + t * kHidden, w13, w2, ids + t * kTopK, weights + t * kTopK, want);
    for (int h = 0; h < kHidden; ++h) worst = fmax(worst, fabs(out[t * kHidden + h] - want[h]));
    if (fabs(weights[t * kTopK] + weights[t * kTopK + 1] - 1) > 1e-5) worst = INFINITY;
  }
  printf("moejit %s on %s: largest difference from a plain loop %.2g\n", moejit_version(),
         moejit_kernel_device(kernel), worst);

  moejit_kernel_destroy(kernel);
  moejit_config_destroy(config);
  free(workspace);
  free(out);
  free(weights);
  free(ids);
  free(logits);
  free(w2);
  free(w13);
  free(x);
  return worst < 1e-4 ? 0 : 1;
}
