#include "backends/hip/hip_module.h"

#include <algorithm>

namespace moejit::internal::hip {

int64_t grid_blocks(const Grid& grid, int64_t tokens, int num_units) {
  int64_t blocks = grid.fixed;
  if (grid.per_token_num > 0)
    blocks += (tokens * grid.per_token_num + grid.per_token_den - 1) / grid.per_token_den;
  if (grid.per_unit_cap > 0)
    blocks = std::min<int64_t>(blocks, int64_t{num_units} * grid.per_unit_cap);
  return std::max<int64_t>(blocks, 1);
}

Result<std::shared_ptr<const Module>> HipModule::load(const Runtime& api, int ordinal,
                                                      int num_units, const Binary& binary,
                                                      const KernelSource& source) {
  std::shared_ptr<HipModule> module(new HipModule(api, ordinal, num_units));
  module->name_ = source.name;
  module->probe_ = source.workspace.empty();
  module->code_ = binary.bytes;  // some versions read it after the load
  module->entries_ = source.entries;
  ScopedDevice scope(api, ordinal);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  if (const hipError_t r = api.hipModuleLoadData(&module->module_, module->code_.data());
      r != kSuccess) {
    module->module_ = nullptr;
    return failure(api, r, "loading " + source.name);
  }
  for (const Entry& entry : source.entries) {
    hipFunction_t function = nullptr;
    const hipError_t r = api.hipModuleGetFunction(&function, module->module_, entry.name.c_str());
    if (r != kSuccess) return failure(api, r, source.name + ": entry " + entry.name);
    module->functions_.push_back(function);
  }
  return std::shared_ptr<const Module>(std::move(module));
}

HipModule::~HipModule() {
  if (module_ == nullptr) return;
  ScopedDevice scope(api_, ordinal_);
  if (scope.status().ok()) api_.hipModuleUnload(module_);
}

Status HipModule::launch(const MoeArgs& args, Stream stream_pointer) const {
  // A layer without tokens has nothing to write, and its pointers may be null.
  if (args.num_tokens == 0 && !probe_) return {};
  ScopedDevice scope(api_, ordinal_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  MoeArgs copy = args;
  void* parameters[1] = {&copy};
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.when != When::kAlways && (entry.when == When::kRouted) != (args.routed != 0))
      continue;
    if (args.num_tokens < entry.min_tokens || args.num_tokens > entry.max_tokens) continue;
    const hipError_t r = api_.hipModuleLaunchKernel(
        functions_[i], static_cast<unsigned>(grid_blocks(entry.grid, args.num_tokens, num_units_)),
        1, 1, static_cast<unsigned>(entry.threads), 1, 1, static_cast<unsigned>(entry.shared_bytes),
        static_cast<hipStream_t>(stream_pointer), parameters, nullptr);
    if (r != kSuccess) return failure(api_, r, name_ + ": launch of " + entry.name);
  }
  return {};
}

}  // namespace moejit::internal::hip
