#include "backends/sim/regions.h"

#include <cstring>

#include "backends/sim/allocations.h"

namespace moejit::internal::sim {
namespace {

struct Tensor {
  int which;  // as in templates/device/sim/extents.h
  const char* name;
  const void* pointer;
  bool writable;
};

}  // namespace

Result<std::vector<Region>> make_regions(const MoeArgs& args, const KernelSource& source,
                                         ExtentFunction extent) {
  const bool routed = args.routed != 0;
  const Tensor tensors[] = {
      {0, "x", args.x, false},
      {1, "w13", args.w13, false},
      {2, "w2", args.w2, false},
      {3, "b13", args.b13, false},
      {4, "b2", args.b2, false},
      {5, "topk_ids", args.topk_ids, routed},
      {6, "topk_weights", args.topk_weights, routed},
      {7, "router_logits", args.router_logits, false},
      {8, "correction_bias", args.correction_bias, false},
      {9, "out", args.out, true},
      {10, "workspace", args.workspace, true},
  };
  std::vector<Region> regions;
  const auto* workspace = static_cast<const char*>(args.workspace);
  int64_t workspace_bytes = -1;
  if (!source.workspace.empty()) {
    workspace_bytes = workspace_offset(source.workspace, source.workspace.size(), args.num_tokens);
  }
  for (const Tensor& tensor : tensors) {
    if (tensor.pointer == nullptr) continue;
    long long bytes = tensor.which == 10 ? workspace_bytes : -1;
    if (extent != nullptr && tensor.which < 10) {
      bytes = extent(tensor.which, args.num_tokens, args.logits_dtype);
    }
    const bool known = bytes >= 0;
    if (!known) bytes = static_cast<long long>(allocations().bytes_after(tensor.pointer));
    if (!known && bytes == 0) {
      return invalid_argument(
          std::string(tensor.name) +
          " is a pointer that this device did not allocate, and the kernel does "
          "not tell its size");
    }
    const auto* begin = static_cast<const char*>(tensor.pointer);
    // Routing may go to the workspace, whose region then covers it.
    if (tensor.which != 10 && workspace != nullptr && workspace_bytes > 0 && begin >= workspace &&
        begin < workspace + workspace_bytes) {
      continue;
    }
    Region region;
    region.name = tensor.name;
    region.begin = reinterpret_cast<uintptr_t>(begin);
    region.end = region.begin + static_cast<uintptr_t>(bytes);
    region.writable = tensor.writable;
    region.must_cover = tensor.writable && tensor.which != 10 && known;
    if (bytes > 0) regions.push_back(std::move(region));
  }
  return regions;
}

void poison(std::vector<Region>& regions) {
  for (Region& region : regions) {
    if (!region.writable) continue;
    const size_t bytes = region.end - region.begin;
    std::memset(reinterpret_cast<void*>(region.begin), 0xff, bytes);
    region.shadow.reset(bytes, false);
  }
}

std::vector<std::vector<char>> save_results(const std::vector<Region>& regions) {
  std::vector<std::vector<char>> results;
  for (const Region& region : regions) {
    if (!region.writable || region.name == "workspace") continue;
    results.emplace_back(reinterpret_cast<const char*>(region.begin),
                         reinterpret_cast<const char*>(region.end));
  }
  return results;
}

}  // namespace moejit::internal::sim
