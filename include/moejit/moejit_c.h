/* The C interface of moejit: the stable ABI, over moejit.h.
 *
 * Conventions
 * - Functions that can fail return a moejit_status; the sentence that names field, value and rule
 *   is moejit_last_error() of the same thread, and stays there until that thread's next failure.
 * - No exception and no signal of the library crosses this interface.
 * - Structs begin with struct_size, which the caller sets (moejit_*_init does). A library newer
 * than its caller fills in what the caller's struct lacks; an older one refuses, with
 *   MOEJIT_UNSUPPORTED, a larger struct whose further bytes are not all zero. Flags are int32: 0
 * or 1.
 * - Handles are opaque; each create or get has a destroy, which takes NULL too. A handle may be
 * used from several threads at once, except while it is being destroyed.
 * - Strings are UTF-8 and end with a zero byte. A `const char*` result lives as long as the handle
 * it came from; a `char*` result is the caller's, who returns it with moejit_string_free.
 * - Numbers of enums are permanent. What is new is appended.
 * - Pointers may not be NULL unless the comment says so; NULL is MOEJIT_INVALID_ARGUMENT, no crash.
 *
 * Not here
 * - Memory for the device, streams and copies between host and device: they are the caller's.
 * - Cancelling a get_kernel that is under way.
 */
#ifndef MOEJIT_MOEJIT_C_H_
#define MOEJIT_MOEJIT_C_H_

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MOEJIT_C_API __attribute__((visibility("default")))
#else
#define MOEJIT_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The ABI that this header describes; grows when functions or fields are appended. */
#define MOEJIT_ABI_VERSION 1u

typedef int32_t moejit_status;
enum {
  MOEJIT_OK = 0,
  MOEJIT_INVALID_ARGUMENT = 1, /* the caller's value breaks a documented rule */
  MOEJIT_NOT_FOUND = 2,        /* a name, file, key or device that does not exist */
  MOEJIT_UNSUPPORTED = 3,      /* valid, but this build or this device cannot do it */
  MOEJIT_UNAVAILABLE = 4,      /* a compiler, driver or device missing on this machine */
  MOEJIT_NOT_READY = 5,        /* would have to compile or load where that is forbidden */
  MOEJIT_COMPILE_ERROR = 6,    /* moejit_last_error_log() has the compiler's words */
  MOEJIT_DEVICE_ERROR = 7,
  MOEJIT_OUT_OF_MEMORY = 8,
  MOEJIT_IO_ERROR = 9,
  MOEJIT_DATA_ERROR = 10, /* malformed JSON or file */
  MOEJIT_VERIFICATION_FAILED = 11,
  MOEJIT_CANCELLED = 12,
  MOEJIT_INTERNAL = 13
};

enum { MOEJIT_F32 = 0, MOEJIT_BF16 = 1, MOEJIT_F16 = 2 };
enum {
  MOEJIT_SILU = 0,
  MOEJIT_GELU = 1,
  MOEJIT_GELU_TANH = 2,
  MOEJIT_RELU2 = 3,
  MOEJIT_SWIGLU_OAI = 4,
  MOEJIT_SILU_CLAMP = 5
};
enum { MOEJIT_SOFTMAX = 0, MOEJIT_SIGMOID = 1, MOEJIT_SQRTSOFTPLUS = 2 };
enum { MOEJIT_SCORE_THEN_TOPK = 0, MOEJIT_TOPK_THEN_SCORE = 1 };
enum { MOEJIT_POLICY_CACHED = 0, MOEJIT_POLICY_TUNE = 1, MOEJIT_POLICY_FROZEN = 2 };

typedef struct moejit_config moejit_config; /* one valid layer, immutable */
typedef struct moejit_kernel moejit_kernel; /* compiled code for one layer on one device */

/* ---- the library ---- */

/* MOEJIT_ABI_VERSION of the library: must be at least the header's. */
MOEJIT_C_API uint32_t moejit_abi_version(void);
MOEJIT_C_API const char* moejit_version(void); /* "0.1.0" */
/* "INVALID_ARGUMENT"; "UNKNOWN" for a number that is no status. */
MOEJIT_C_API const char* moejit_status_name(moejit_status status);
/* Of the calling thread's last failed call; "" before the first. Valid until its next failure. */
MOEJIT_C_API const char* moejit_last_error(void);
MOEJIT_C_API const char* moejit_last_error_log(void);
MOEJIT_C_API void moejit_string_free(char* text); /* NULL is allowed */

/* Every log line; level 0 error, 1 warning, 2 info, 3 debug. Called from any thread, must not
 * throw. NULL: back to stderr. */
typedef void (*moejit_log_callback)(int level, const char* message, void* user);
MOEJIT_C_API void moejit_set_log_callback(moejit_log_callback callback, void* user);

/* ---- the layer ---- */

/* As MoeConfig in moejit/config.h, which has shapes and formulas. */
typedef struct moejit_config_desc {
  uint32_t struct_size;
  int32_t num_experts;
  int32_t top_k;
  int32_t hidden_size;
  int32_t intermediate_size;
  int32_t dtype;
  int32_t activation;
  int32_t gated;
  int32_t bias;
  int32_t transposed;
  int32_t interleaved;
  int32_t up_first;
  int32_t num_shared_experts;
  int32_t weight_on_input;
  double swiglu_alpha;
  double swiglu_limit;
  int32_t router_scoring;
  int32_t router_order;
  int32_t router_correction_bias;
  int32_t router_n_group;
  int32_t router_topk_group;
  int32_t router_renormalize;
  double router_scaling_factor;
  int32_t packed;   /* 0 where struct_size ends before it */
  int32_t reserved; /* 0 */
} moejit_config_desc;

/* Defaults everywhere, 0 in the four fields that every layer must give. */
MOEJIT_C_API void moejit_config_desc_init(moejit_config_desc* desc, uint32_t struct_size);

MOEJIT_C_API moejit_status moejit_config_create(const moejit_config_desc* desc,
                                                moejit_config** config);
/* The JSON of MoeConfig::to_json, or any part of it that has the four fields. */
MOEJIT_C_API moejit_status moejit_config_from_json(const char* json, moejit_config** config);
/* The text of a Hugging Face config.json. */
MOEJIT_C_API moejit_status moejit_config_from_hf_json(const char* json, moejit_config** config);
/* A published model, "qwen3-30b-a3b". */
MOEJIT_C_API moejit_status moejit_config_from_preset(const char* name, moejit_config** config);
/* The layer of one of `tp` tensor-parallel ranks. */
MOEJIT_C_API moejit_status moejit_config_shard(const moejit_config* config, int32_t tp,
                                               moejit_config** shard);
/* desc->struct_size says how much of it is filled in. */
MOEJIT_C_API moejit_status moejit_config_get(const moejit_config* config, moejit_config_desc* desc);
/* Canonical JSON: equal layers give equal text. NULL where config is NULL. */
MOEJIT_C_API const char* moejit_config_json(const moejit_config* config);
MOEJIT_C_API void moejit_config_destroy(moejit_config* config);

/* ---- kernels ---- */

typedef struct moejit_options {
  uint32_t struct_size;
  int32_t policy;         /* MOEJIT_POLICY_* */
  const char* device;     /* NULL: "auto" */
  int64_t max_tokens;     /* launches may have 0..max_tokens tokens */
  const int64_t* tokens;  /* token counts to prepare for; NULL: 1,2,4,... */
  size_t num_tokens;      /* how many those are */
  double tune_budget_s;   /* of MOEJIT_POLICY_TUNE; 0: until done */
  const char* cache_path; /* NULL: the default directory */
  int32_t num_threads;    /* CPU; 0: all */
  void* stream;           /* NULL, or one that may be being captured: then nothing is compiled */
} moejit_options;
MOEJIT_C_API void moejit_options_init(moejit_options* options, uint32_t struct_size);

/* The kernel of a layer; options may be NULL. The first call for a layer may compile (or, with the
 * tune policy, measure for minutes), later ones are a look-up. */
MOEJIT_C_API moejit_status moejit_get_kernel(const moejit_config* config,
                                             const moejit_options* options, moejit_kernel** kernel);
/* No launch of it may be running. */
MOEJIT_C_API void moejit_kernel_destroy(moejit_kernel* kernel);

/* Pointers of the kernel's device, shapes and alignment as LaunchArgs in moejit/moejit.h. */
typedef struct moejit_launch_args {
  uint32_t struct_size;
  int32_t strict; /* 1: refuse ids outside [0, num_experts) instead of skipping them */
  int64_t num_tokens;
  const void* x;
  const void* w13;
  const void* w2;
  const void* b13; /* NULL unless the layer has a bias, as b2 */
  const void* b2;
  const int32_t* topk_ids;
  const float* topk_weights;
  void* out;
  void* workspace;
  size_t workspace_size; /* checked when not 0 */
} moejit_launch_args;

/* Enqueues the layer on `stream` (CUstream, hipStream_t; NULL on the CPU, where it returns when the
 * result is there). Compiles, allocates and synchronises nothing. */
MOEJIT_C_API moejit_status moejit_kernel_launch(const moejit_kernel* kernel,
                                                const moejit_launch_args* args, void* stream);

typedef struct moejit_routed_launch_args {
  uint32_t struct_size;
  int32_t logits_dtype;
  int64_t num_tokens;
  const void* x;
  const void* w13;
  const void* w2;
  const void* b13;
  const void* b2;
  const void* router_logits;
  const float* correction_bias; /* NULL unless the router has one */
  int32_t* topk_ids;            /* NULL, or where the chosen ids go */
  float* topk_weights;
  void* out;
  void* workspace;
  size_t workspace_size;
} moejit_routed_launch_args;
MOEJIT_C_API moejit_status moejit_kernel_launch_routed(const moejit_kernel* kernel,
                                                       const moejit_routed_launch_args* args,
                                                       void* stream);

/* Bytes of workspace for that many tokens; 0 where kernel is NULL. Grows with the count. */
MOEJIT_C_API size_t moejit_kernel_workspace_size(const moejit_kernel* kernel, int64_t num_tokens);
MOEJIT_C_API int64_t moejit_kernel_max_tokens(const moejit_kernel* kernel); /* -1 for NULL */
MOEJIT_C_API const char* moejit_kernel_device(const moejit_kernel* kernel); /* NULL for NULL */
MOEJIT_C_API const char* moejit_kernel_config_json(const moejit_kernel* kernel);
/* Memory of the kernel's device, 256-aligned, for callers without an allocator of their own. Not
 * from torch's pools; may be called while a stream is captured. Destroying it waits for the device,
 * must come after the last launch that uses it was enqueued, and NULL is allowed. */
typedef struct moejit_workspace moejit_workspace;
MOEJIT_C_API moejit_status moejit_workspace_create(const moejit_kernel* kernel, size_t size,
                                                   moejit_workspace** workspace);
MOEJIT_C_API void* moejit_workspace_data(const moejit_workspace* workspace); /* NULL for NULL */
MOEJIT_C_API void moejit_workspace_destroy(moejit_workspace* workspace);
/* Packed weights, as in moejit/pack.h; device NULL: "auto". */
MOEJIT_C_API moejit_status moejit_packed_bytes(const moejit_config* config, const char* device,
                                               int64_t* w13_bytes, int64_t* w2_bytes);
MOEJIT_C_API moejit_status moejit_pack_weights(const moejit_config* config, const char* device,
                                               const void* w13, const void* w2, void* packed_w13,
                                               void* packed_w2);
/* [{"tokens":1,"source":"exact","schedule":{...},"measured_s":0,"predicted_s":1e-6,"floor_s":1e-6,
 *   "reason":"..."}, ...] */
MOEJIT_C_API moejit_status moejit_kernel_buckets_json(const moejit_kernel* kernel, char** json);

/* ---- for bindings of an interpreter ----
 *
 * A launch on tensors that are objects of an interpreter, described by their framework's exchange
 * table (DLPack 1.3). Shapes, types, devices, density and overlaps are checked here, in nanoseconds
 * an object.
 */
typedef struct moejit_caller moejit_caller; /* a kernel, a workspace and a stream */

typedef struct moejit_caller_desc {
  uint32_t struct_size;
  uint32_t reserved; /* 0 */
  /* dltensor_from_py_object_no_sync of the table: fills a DLTensor and returns 0, or sets an error
   */
  int (*describe)(void* object, void* dl_tensor);
  void* (*item)(void* objects, ptrdiff_t index); /* borrowed, as PyTuple_GetItem */
  void (*clear_error)(void);
  void* (*unlock)(void);     /* lets other threads of the interpreter run during the launch; */
  void (*lock)(void* state); /* NULL, both: no */
  void* stream;
  void* workspace; /* of this caller alone, as in moejit_launch_args */
  size_t workspace_size;
} moejit_caller_desc;

/* The kernel must outlive the caller. A caller must not be used by two threads at once. */
MOEJIT_C_API moejit_status moejit_caller_create(const moejit_kernel* kernel,
                                                const moejit_caller_desc* desc,
                                                moejit_caller** caller);
/* objects: x, w13, w2, topk_weights (f32), topk_ids (i32), out, and b13, b2 where the layer has a
 * bias. Launches 1..max_tokens tokens, or fails and has launched nothing. */
MOEJIT_C_API moejit_status moejit_caller_launch(const moejit_caller* caller, void* objects);
MOEJIT_C_API void moejit_caller_destroy(moejit_caller* caller); /* NULL is allowed */

/* ---- offline work: JSON in, JSON out ----
 *
 * Requests are one object. The layer is "config": {...} as moejit_config_json gives it, or "model":
 * "deepseek-v3", either with an optional "tp": N. Also for every request: "device" ("auto"),
 * "tokens" [1,8], "num_threads", "cache_path". A field that is unknown or has the wrong type is an
 * error that names it. Names and meanings are those of the structs in moejit/tuning.h; so are the
 * reports', with the schedule as an object and what is not known as null. *report is the caller's
 * (moejit_string_free) and NULL after a failure.
 */

/* Receives one JSON object; called from the thread that called moejit_tune_json, often. Returning 0
 * stops after the current measurement; what is finished is kept. Must not throw. */
typedef int32_t (*moejit_progress_callback)(const char* progress_json, void* user);

/* Measures schedules and keeps the best in the cache. Further fields: "layers" [config, ...] in
 * place of "config", "routing" ("uniform"), "budget_s", "jobs", "max_candidates", "exhaustive",
 * "force", "shard_index", "shard_count", "isolation" ("auto", "on", "off"), "helper",
 * "trial_timeout_s", "require_cache". Progress may be NULL. A call that was stopped is MOEJIT_OK
 * with "cancelled": true; so is one that ended because the disk is full, with "not_kept": why.
 *   {"device":"cpu","limits":{...},"cancelled":false,"out_of_budget":false,"missing":0,
 *    "failures":[{"config":{...},"tokens":8,"why":"..."}],"not_kept":"","seconds":1.5,
 *    "rows":[{"tokens":1,"median_s":1e-5,"share":0.9,"schedule":{...},...}]} */
MOEJIT_C_API moejit_status moejit_tune_json(const char* request, moejit_progress_callback progress,
                                            void* user, char** report);
/* Times what moejit_get_kernel returns. Further fields: "routing", "samples", "check". */
MOEJIT_C_API moejit_status moejit_bench_json(const char* request, char** report);
/* Kernels on random inputs against float64. Further fields: "routings" [...], "all_schedules".
 *   {"ok":true,"rows":[{"tokens":1,"routing":"uniform","error":1e-3,"tolerance":5e-3,"ok":true,
 *    "note":"","schedule":{...}}]} */
MOEJIT_C_API moejit_status moejit_verify_json(const char* request, char** report);
/* Why a schedule is used: {"rows":[{"tokens":1,"key":"...","level":"exact","choice":{...},
 * "runners_up":[...],"refused":[...]}]}. */
MOEJIT_C_API moejit_status moejit_explain_json(const char* request, char** report);

/* Background tuning, as start_background_tuning and its kin in moejit/tuning.h. `options` is NULL
 * or an object with any of "idle_s", "capture_quiet_s", "bucket_budget_s", "max_weight_bytes",
 * "routing", "isolation", "helper", "jobs". The status is
 * {"running":true,"paused":false,"queued":3,
 * "tuned":1,"failed":0,"replaced":1,"at_work":8,"last_error":""}. */
MOEJIT_C_API moejit_status moejit_background_start(const char* options);
MOEJIT_C_API moejit_status moejit_background_pause(int32_t paused);
MOEJIT_C_API moejit_status moejit_background_stop(void);
MOEJIT_C_API moejit_status moejit_background_status_json(char** status);

/* MOEJIT_OK, or why the device cannot run the layer. */
MOEJIT_C_API moejit_status moejit_supports(const moejit_config* config, const char* device);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MOEJIT_MOEJIT_C_H_ */
