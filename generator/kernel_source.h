// KernelSource: everything a backend needs to compile and launch; plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moejit::internal {

// Blocks of one launch as a function of T and the device:
//   x = fixed + ceil(T * per_token_num / per_token_den), then at most units * per_unit_cap if that
//   is > 0.
struct Grid {
  int64_t fixed = 1;
  int64_t per_token_num = 0;
  int64_t per_token_den = 1;
  int32_t per_unit_cap = 0;
  int32_t y = 1;
};

enum class When : int32_t { kAlways = 0, kRouted = 1, kUnrouted = 2 };

// One launch. CPU: `extern "C" void name(const MoeArgs*, int worker, int num_workers)`, run by
// every worker, with a barrier after each entry. GPU: `extern "C" __global__ void name(MoeArgs)`.
struct Entry {
  std::string name;
  When when = When::kAlways;
  Grid grid;                 // GPU
  int32_t threads = 0;       // GPU: threads of one block
  int32_t shared_bytes = 0;  // GPU: dynamic shared memory
  int32_t cluster = 1;       // GPU
  int64_t min_tokens = 0;    // GPU: launched only for T in [min_tokens, max_tokens]
  int64_t max_tokens = INT64_MAX;
  bool dependent_launch = false;  // GPU: programmatic dependent launch on the entry before
  bool tensor_maps = false;       // GPU: takes KernelSource::tensor_maps as its second parameter
  // CPU: run by the calling thread alone when T*K is at most this (0: never), to skip a wake-up.
  int64_t serial_up_to = 0;
};

// A piece of the workspace: fixed_bytes + T * bytes_per_token bytes, each piece rounded up to 256.
// The generated text carries the same table, so host and kernel agree on every offset.
struct WorkspaceRegion {
  std::string name;
  int64_t fixed_bytes = 0;
  int64_t bytes_per_token = 0;
};

// Offset of region `index` (index == regions.size(): the total) for `tokens` tokens.
int64_t workspace_offset(const std::vector<WorkspaceRegion>& regions, size_t index, int64_t tokens);

// A TMA tensor map (sm_90) that the backend encodes for every launch from the launch's pointers:
// a dense row-major tensor read in 128B-swizzled boxes, zeros outside. Entries with
// `tensor_maps` take them all, in this order, as a second parameter (dev::TensorMaps, at most 4).
struct TensorMapSpec {
  enum class Base : int32_t { kX = 0, kW13 = 1, kW2 = 2, kWorkspace = 3 };
  Base base = Base::kW13;
  int32_t region = 0;  // kWorkspace: index of the region
  int32_t element_bytes = 2;
  std::vector<int64_t> dims;   // elements, innermost first; at most 3
  int64_t rows_per_token = 0;  // added T times to dims[1]
  std::vector<int32_t> box;    // elements; box[0] * element_bytes is 128
};

struct KernelSource {
  std::string name;      // file name for the compiler's messages, "moe_e128_k8_....cc"
  std::string text;      // self-contained
  std::string arch;      // exact target, part of the compile key
  std::string language;  // "c++" (CPU, Clang), "cuda" (NVRTC), "hip", "sim" (host Clang)
  std::vector<std::string> options;  // code-generation options beyond the backend's own
  std::vector<Entry> entries;
  std::vector<WorkspaceRegion> workspace;
  std::vector<TensorMapSpec> tensor_maps;
  int64_t rows_per_token = 1;  // CPU: K, by which Entry::serial_up_to is reckoned
};

}  // namespace moejit::internal
