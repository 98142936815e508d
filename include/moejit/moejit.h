// moejit: fused Mixture-of-Experts kernels, generated, compiled, tuned and cached at run time.
//
//   moejit::MoeConfig config{.num_experts = 128, .top_k = 8, .hidden_size = 2048,
//                            .intermediate_size = 768, .dtype = moejit::DType::kBF16};
//   auto kernel = moejit::get_kernel(config);
//   if (!kernel.ok()) { puts(kernel.status().to_string().c_str()); return 1; }
//   void* ws = std::aligned_alloc(256, kernel->workspace_size(T));  // on a GPU: device memory
//   moejit::Status status =
//       kernel->launch({.num_tokens = T, .x = x, .w13 = w13, .w2 = w2, .topk_ids = ids,
//                       .topk_weights = weights, .out = out, .workspace = ws});
//   if (!status.ok()) puts(status.to_string().c_str());
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "moejit/config.h"
#include "moejit/status.h"

// The shared library exports what is declared from here to the pop.
#pragma GCC visibility push(default)
namespace moejit {
inline namespace v1 {

// What get_kernel may do when the cache has no tuned choice.
enum class Policy : int32_t {
  kCached = 0,  // take the nearest tuned bucket or the model's pick; never measure (default)
  kTune = 1,    // measure now (seconds to minutes), keep the result in the cache, then return it
  kFrozen = 2,  // only what the cache holds, binaries included; else kNotReady
};

struct Options {
  // "auto" (the first GPU, else the CPU), "cpu", "cuda:0", "hip:0", "sim:sm_90a".
  std::string device = "auto";
  // Launches may have 0..max_tokens tokens.
  int64_t max_tokens = 8192;
  // Token counts to prepare a schedule for; empty: 1,2,4,... up to max_tokens.
  std::vector<int64_t> tokens = {};
  Policy policy = Policy::kCached;
  // Seconds that kTune may spend; 0: until done.
  double tune_budget_s = 0;
  // Directory of the cache; empty: MOEJIT_CACHE_DIR, else $XDG_CACHE_HOME/moejit, else
  // ~/.cache/moejit.
  std::string cache_path = {};
  // CPU threads that launches use; 0: MOEJIT_NUM_THREADS, else every core of the affinity mask.
  int32_t num_threads = 0;
  // A stream that the caller may be capturing into a graph; get_kernel then answers kNotReady where
  // it would have to compile, load or measure. Null: the default stream is asked, which knows of
  // captures on streams that wait for it. Not part of what identifies a kernel.
  void* stream = nullptr;

  // Of everything but the stream.
  bool operator==(const Options& other) const;
};

// Pointers are device pointers of the kernel's device (host pointers for "cpu" and "sim:*").
// All tensors dense and row-major; shapes as in MoeConfig. Nothing is retained after the launch
// completes. Out and workspace may overlap nothing else: a launch that says so is refused.
struct LaunchArgs {
  int64_t num_tokens = 0;
  const void* x = nullptr;  // [T,H] dtype, 16-byte aligned, as are w13, w2, b13, b2, out
  const void* w13 = nullptr;
  const void* w2 = nullptr;
  const void* b13 = nullptr;  // required exactly when config.bias
  const void* b2 = nullptr;
  const int32_t* topk_ids = nullptr;    // [T,K]; an id outside [0,E) is skipped and adds 0
  const float* topk_weights = nullptr;  // [T,K]; not read where the id is skipped
  void* out = nullptr;                  // [T,H] dtype; every element is written
  void* workspace = nullptr;            // workspace_size(T) bytes, 256-byte aligned; any content
  size_t workspace_size = 0;            // checked when not 0
  // Reject ids outside [0,E) instead of skipping them. Reads topk_ids on the host; on a GPU this
  // synchronises the stream, so it is for debugging and not capturable.
  bool strict = false;
};

// As LaunchArgs, with the router in front.
struct RoutedLaunchArgs {
  int64_t num_tokens = 0;
  const void* x = nullptr;
  const void* w13 = nullptr;
  const void* w2 = nullptr;
  const void* b13 = nullptr;
  const void* b2 = nullptr;
  const void* router_logits = nullptr;  // [T,E]
  DType logits_dtype = DType::kF32;
  const float* correction_bias = nullptr;  // [E], required exactly when router.correction_bias
  int32_t* topk_ids = nullptr;             // [T,K] written when not null
  float* topk_weights = nullptr;           // [T,K] written when not null
  void* out = nullptr;
  void* workspace = nullptr;
  size_t workspace_size = 0;
};

// Where a bucket's schedule came from.
enum class Source : int32_t { kExact = 0, kNearest = 1, kModel = 2 };
const char* to_string(Source value);  // "exact", "nearest", "model"

struct BucketInfo {
  int64_t tokens = 0;  // the bucket's token count; it serves counts up to the next bucket
  Source source = Source::kModel;
  std::string schedule;   // canonical JSON
  double measured_s = 0;  // 0 where never measured on this device
  double predicted_s = 0;
  double floor_s = 0;  // max(bytes / read bandwidth, operations / rate) for uniform routing
  std::string reason;  // one sentence
};

// A handle to compiled code for one layer on one device. Cheap to copy; all methods are const and
// safe to call from any thread. Two launches may overlap if their workspaces and outputs differ;
// on the CPU they then take turns.
class Kernel {
 public:
  Kernel() = default;
  explicit operator bool() const { return state_ != nullptr; }

  // Enqueues the layer on `stream` (a CUstream / hipStream_t; ignored on the CPU, where the call
  // returns when the result is there). Compiles, allocates and synchronises nothing. T = 0 is ok.
  Status launch(const LaunchArgs& args, void* stream = nullptr) const;
  Status launch_routed(const RoutedLaunchArgs& args, void* stream = nullptr) const;

  // Bytes of workspace for `num_tokens` tokens, at least 256; grows with the token count, so the
  // size for the most tokens serves all. Pure.
  size_t workspace_size(int64_t num_tokens) const;

  const MoeConfig& config() const;
  const std::string& device() const;  // resolved: "cpu", "cuda:0"
  int64_t max_tokens() const;
  std::vector<BucketInfo> buckets() const;

  struct State;
  explicit Kernel(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  const std::shared_ptr<const State>& state() const { return state_; }

 private:
  std::shared_ptr<const State> state_;
};

// The kernel for a layer. First call for a (config, options): reads the cache, generates and
// compiles what it lacks. Later calls: a hash-map hit. Thread-safe; concurrent first calls for one
// key compile once. Cache trouble is never an error of get_kernel (one warning, normal work).
Result<Kernel> get_kernel(const MoeConfig& config, const Options& options = {});

// Why `device` cannot run `config`, or ok.
Status supports(const MoeConfig& config, const std::string& device);

// Library version, "0.1.0".
const char* version();

// Receives every log line (level 0 error, 1 warning, 2 info, 3 debug). Default: warnings and errors
// to stderr, MOEJIT_LOG sets the level. Passing nullptr restores the default.
using LogCallback = void (*)(int level, const char* message, void* user);
void set_log_callback(LogCallback callback, void* user);

}  // namespace v1
}  // namespace moejit
#pragma GCC visibility pop
