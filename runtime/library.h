// What a process holds once: stores by directory, loaded modules by device and source.
#pragma once

#include <memory>
#include <string>

#include "backends/backend.h"
#include "cache/store.h"
#include "generator/family.h"
#include "moejit/tuning.h"
#include "tuner/trial.h"

namespace moejit::internal {

// The store of a cache directory ("" : the default of the settings), opened on first use.
std::shared_ptr<Store> open_store(const std::string& cache_path);

// Digest of what a kernel is compiled from: backend, arch, text, options.
Digest source_digest(const Device& device, const KernelSource& source);

// Digest of all that gives a schedule its meaning on a backend: the text that its families emit
// for a fixed layer. A template edit changes it, and tuned choices become seeds. It is alike for
// all GPUs of an architecture.
const std::string& generator_digest(const Target& target);
std::string compute_generator_digest(Target target);  // without remembering it

enum class MayCompile { kYes, kNo };
enum class MayLoad { kYes, kNo };  // kNo: BuiltKernel::binary in place of its module

// Generates `schedule`'s kernel and finds, compiles or loads it. kNotReady where compiling is
// needed and forbidden (kNo, or the device is capturing a graph).
Result<BuiltKernel> build_kernel(const Device& device, Store& store, const MoeConfig& config,
                                 const Schedule& schedule, MayCompile may_compile,
                                 MayLoad may_load = MayLoad::kYes);

// Identities under which measurements and choices are kept.
std::string policy_of(const std::string& routing);
MeasurementKey measurement_key(const MoeConfig& config, const Device& device, int64_t tokens,
                               const std::string& routing);
// The routing name under which get_kernel looks choices up: the most recent tune of any routing.
inline constexpr const char* kServingRouting = "serving";

// The device's limits: from the store, else a guess.
DeviceLimits known_limits(const Device& device, Store& store, DType dtype);
// Measured now, and kept; the known ones where the device has no probes.
Result<DeviceLimits> renew_limits(const Device& device, Store& store, DType dtype);

// kIoError where the request insists on a cache that keeps results and the store is none.
Status check_keeps(const TuneRequest& request, const Store& store);

// A row count that stands for T uniformly routed tokens, without drawing: the expected number of
// touched experts, E (1 - (1 - K/E)^T), shares T*K rows evenly.
RowCounts typical_rows(const MoeConfig& config, int64_t tokens);

// Drops every Kernel that get_kernel has handed out from its map, so that new choices are seen.
void forget_kernels();

// Families that cannot run the layer there: "cpu_moe: reason".
std::vector<std::string> refusals(const MoeConfig& config, const Target& target);

}  // namespace moejit::internal
