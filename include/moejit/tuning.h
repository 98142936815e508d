// Offline work: tuning, benchmarking, verifying and explaining. What the `moejit` command calls.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "moejit/moejit.h"

// The shared library exports what is declared from here to the pop.
#pragma GCC visibility push(default)
namespace moejit {
inline namespace v1 {

// Measured rates of a device; every share of a limit refers to these.
struct DeviceLimits {
  double read_bytes_per_s = 0;    // streaming read of DRAM / HBM by all units
  double dot_flops_per_s = 0;     // the dtype's fastest unit (vdpbf16ps, tensor cores), all units
  double vector_flops_per_s = 0;  // f32 multiply-add, all units
  double l2_bytes_per_s = 0;      // out of a GPU's L2 by all units, from their number; 0 on a CPU
  double launch_s = 0;            // one launch or barrier
  bool measured = false;          // false: a guess from core count and cache sizes
};

enum class TuneStage : int32_t {
  kProbe = 0,
  kPrepare = 1,
  kCompile = 2,
  kScreen = 3,
  kFinal = 4,
  kDone = 5
};

const char* to_string(TuneStage value);  // "probe", ..., "done"

struct TuneProgress {
  int64_t tokens = 0;  // bucket at work
  int32_t bucket = 0, num_buckets = 0;
  TuneStage stage = TuneStage::kProbe;
  int32_t done = 0, total = 0;  // candidates of this bucket
  int32_t failed = 0;
  double best_s = 0;                      // 0 while unknown
  double best_share = 0;                  // floor / best
  double elapsed_s = 0, remaining_s = 0;  // remaining: an estimate, 0 while unknown
  std::string schedule;                   // at work
  int32_t layer = 0, num_layers = 1;      // of TuneRequest::layers; bucket counts over all of them
};

// Where candidates run before they are known to be harmless. A kernel that hangs or faults takes
// its process along, and on a GPU the context with it.
enum class Isolation : int32_t {
  kAuto = 0,  // a child process for GPUs where the helper is found, else this process
  kOn = 1,    // a child process; kUnavailable where the helper is not found
  kOff = 2,   // this process
};

struct TuneRequest {
  MoeConfig config = {};
  std::string device = "auto";
  std::vector<int64_t> tokens = {};  // empty: 1,2,4,...,8192
  std::string routing = "uniform";   // uniform | zipf:S | trace:FILE
  // For all buckets together, kept to within a few seconds; the limits of the device, measured once
  // (about 2 s), are not part of it. 0: no limit.
  double budget_s = 0;
  int32_t jobs = 0;            // compile threads; 0: all cores
  int32_t num_threads = 0;     // as Options
  int32_t max_candidates = 0;  // measured per bucket; 0: the default of 14
  bool exhaustive = false;     // measure every legal schedule
  bool force = false;          // measure again what is cached, and the device's limits
  std::string cache_path = {};
  // Called often from the tuning thread; returning false stops after the current measurement, which
  // keeps everything finished and makes the result kCancelled buckets missing. May be empty.
  std::function<bool(const TuneProgress&)> progress = {};
  // Instead of `config`: several layers under one budget, each with all of `tokens`.
  std::vector<MoeConfig> layers = {};
  // Tunes the part of the (layer, token count) pairs that falls to this one of shard_count
  // processes, 0..shard_count-1: every pair to exactly one, the same one everywhere.
  int32_t shard_index = 0, shard_count = 1;
  Isolation isolation = Isolation::kAuto;
  // The `moejit` command that the child process executes; "": the one that this process runs,
  // else the one beside the library or in ../bin of it.
  std::string helper = {};
  // Seconds beyond the expected ones after which a candidate counts as hung; 0: 20.
  double trial_timeout_s = 0;
  // kIoError at once where the cache cannot keep results, instead of tuning for this process only.
  bool require_cache = false;
};

struct BenchRow {
  int64_t tokens = 0;
  std::string routing;
  std::string schedule;  // canonical JSON
  Source source = Source::kModel;
  double median_s = 0, p20_s = 0, p80_s = 0;
  int32_t samples = 0;
  double predicted_s = 0;
  double floor_s = 0;  // max(bytes / read rate, operations / dot rate) of this routing
  double bytes = 0, flops = 0;
  double share = 0;  // floor_s / median_s
  double error = 0;  // relative Frobenius error against float64 on sampled tokens
};

struct TuneRow : BenchRow {
  int32_t candidates = 0, failed = 0;
  double versus_default = 0;  // default schedule's time / this time
  int32_t model_rank = 0;     // of the winner, 1 = the model's pick
  bool from_cache = false;
  std::string advice;  // what it would take to do better
  MoeConfig config;    // the layer
};

// A token count without a result although there was time: every candidate failed.
struct TuneFailure {
  MoeConfig config;
  int64_t tokens = 0;
  std::string why;
};

struct TuneReport {
  std::string device;
  DeviceLimits limits;
  std::vector<TuneRow> rows;
  bool cancelled = false;
  double seconds = 0;
  int32_t missing = 0;         // buckets without a result: stopped, or out of budget
  bool out_of_budget = false;  // the same request goes on from here
  std::vector<TuneFailure> failures;
  // Why the newest results are in this process's memory only (a full disk): the run ended there.
  // "": everything is in the cache, or nothing was to be kept from the start.
  std::string not_kept;
};

// Tunes every bucket; each finished measurement is committed to the cache before the next begins.
Result<TuneReport> tune(const TuneRequest& request);

// One schedule that compile_only compiled.
struct CompileRow {
  int32_t layer = 0;                         // index into TuneRequest::layers; 0 where there is one
  std::vector<int64_t> tokens;               // the buckets that want it
  std::string schedule;                      // canonical JSON
  bool planned = false;                      // get_kernel would take it before anything is measured
  double predicted_s = 0;                    // for the first of `tokens`
  int32_t registers = -1, spill_bytes = -1;  // -1: the compiler does not say
  int64_t binary_bytes = 0;
  bool ok = false;
  std::string error;  // the compiler's message where not ok
};
struct CompileReport {
  std::string device;
  std::vector<CompileRow> rows;  // by layer and first bucket
  double seconds = 0;
  bool cancelled = false;
  std::string not_kept;  // why binaries are not in the cache; "" where they are
};
// Fills the cache with the binaries that get_kernel would take for the request's buckets, and with
// what tune would measure first (max_candidates for each bucket; 0: 3), for a device that need not
// be here: "cuda:sm_90a", "cpu:x86-64-v4". Measures nothing and chooses nothing; a machine with the
// device finds the binaries by their source. Compile errors are rows; routing and budget are not
// used.
Result<CompileReport> compile_only(const TuneRequest& request);

// Tuning in a server, on a thread of the library's own and off the launch path: token counts whose
// schedule is not an exact tuned choice are tuned while no launch has come for a while, and better
// plans then replace those of the kernels in use, atomically. Nothing is measured, loaded or
// replaced while a launch into a capturing stream was seen in the last `capture_quiet_s`; replays
// of captured graphs are not seen at all, so a server that lives on them calls
// pause_background_tuning(true) while it serves. A captured graph keeps the plan that it was
// captured with. All functions are thread-safe.
struct BackgroundOptions {
  double idle_s = 2;             // without a launch before a measurement begins
  double capture_quiet_s = 30;   // after a launch into a stream that was being captured
  double bucket_budget_s = 20;   // of measuring for each token count
  int64_t max_weight_bytes = 0;  // larger layers are left alone; 0: a quarter of the memory
  std::string routing = "uniform";
  Isolation isolation = Isolation::kAuto;
  std::string helper = {};
  int32_t jobs = 1;  // compile threads
};
struct BackgroundStatus {
  bool running = false, paused = false;
  int32_t queued = 0;    // token counts that wait
  int32_t tuned = 0;     // that were tuned since the start
  int32_t failed = 0;    // that could not be
  int32_t replaced = 0;  // kernels in use that got a better plan
  int64_t at_work = 0;   // token count, 0: none
  std::string last_error;
};
// kInvalidArgument for options out of range; kNotReady where it is running already. Kernels that
// exist are queued too.
Status start_background_tuning(const BackgroundOptions& options = {});
void pause_background_tuning(bool paused);  // also before a start, which then begins paused
// Returns when the measurement that is running has ended and the thread is gone.
void stop_background_tuning();
BackgroundStatus background_tuning_status();

struct BenchRequest {
  MoeConfig config = {};
  std::string device = "auto";
  std::vector<int64_t> tokens = {};
  std::string routing = "uniform";
  int32_t samples = 20;
  int32_t num_threads = 0;
  std::string cache_path = {};
  bool check = true;  // compute `error`
  // Called before each row with how many are done, of how many; returning false ends with the rows
  // so far, or kCancelled where there are none. May be empty.
  std::function<bool(int32_t done, int32_t total)> progress = {};
};
struct BenchReport {
  std::string device;
  DeviceLimits limits;
  std::vector<BenchRow> rows;
};
// Measures what get_kernel returns, cold weights, as a user would run it.
Result<BenchReport> bench(const BenchRequest& request);

struct VerifyRow {
  int64_t tokens = 0;
  std::string routing;
  std::string schedule;
  double error = 0, tolerance = 0;
  bool ok = false;
  std::string note;
};
struct VerifyRequest {
  MoeConfig config = {};
  std::string device = "auto";
  std::vector<int64_t> tokens = {};  // empty: 0,1,2,7,32,129
  // Empty: uniform, zipf:1.2, one (all on one expert), skip (many sentinels).
  std::vector<std::string> routings = {};
  bool all_schedules = false;  // every legal schedule, not only the chosen ones
  int32_t num_threads = 0;
  std::string cache_path = {};
  std::function<bool(int32_t done, int32_t total)> progress = {};  // as in BenchRequest
};
// Runs kernels on random inputs against float64 on the host; poisoned outputs and workspace.
Result<std::vector<VerifyRow>> verify(const VerifyRequest& request);

struct ExplainCandidate {
  std::string schedule;
  double predicted_s = 0, measured_s = 0;
  std::string status;   // "ok", "not measured", "wrong", ...
  std::string routing;  // under which it was measured; "" where it was not
};
struct Explanation {
  int64_t tokens = 0;
  // key: hex, as `moejit cache show` takes it: of the kept choice, else of the kernel.
  std::string device, key;
  BucketInfo choice;
  DeviceLimits limits;
  std::vector<ExplainCandidate> runners_up;
  std::vector<std::string> refused;  // "family: reason"
  // What the look-up matched: "exact", "bucket" (another token count), "other driver", "same arch",
  // "model".
  std::string level;
  std::string kernel;  // hex digest of the kernel's source, which `moejit cache show` takes too
};
Result<std::vector<Explanation>> explain(const MoeConfig& config, const Options& options,
                                         const std::vector<int64_t>& tokens);

struct GeneratedFile {
  std::string name;  // "moe_....cc", "moe_....s", "report.json"
  std::string text;
};
// Source, assembly and the compiler's report of the schedule that get_kernel would use for `tokens`
// (or of `schedule`, canonical JSON, when not empty). Needs the compiler, not the device.
Result<std::vector<GeneratedFile>> generate(const MoeConfig& config, const std::string& device,
                                            int64_t tokens, const std::string& schedule = {});

// The device's limits: from the cache, or measured now (about 2 s) when `measure`.
Result<DeviceLimits> device_limits(const std::string& device, DType dtype, bool measure,
                                   const std::string& cache_path = {}, int32_t num_threads = 0);

}  // namespace v1
}  // namespace moejit
#pragma GCC visibility pop
