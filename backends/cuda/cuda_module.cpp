#include "backends/cuda/cuda_module.h"

#include <algorithm>

namespace moejit::internal::cuda {

int64_t grid_blocks(const Grid& grid, int64_t tokens, int num_units) {
  int64_t blocks = grid.fixed;
  if (grid.per_token_num > 0)
    blocks += (tokens * grid.per_token_num + grid.per_token_den - 1) / grid.per_token_den;
  if (grid.per_unit_cap > 0)
    blocks = std::min<int64_t>(blocks, int64_t{num_units} * grid.per_unit_cap);
  return std::max<int64_t>(blocks, 1);
}

Result<std::shared_ptr<const Module>> CudaModule::load(const Driver& api, CUdevice device,
                                                       CUcontext primary, int num_units,
                                                       const Binary& binary,
                                                       const KernelSource& source) {
  std::shared_ptr<CudaModule> module(new CudaModule(api, device, primary, num_units));
  if (source.tensor_maps.size() > kMaxTensorMaps) {
    return Status(StatusCode::kInternal,
                  source.name + ": more than " + std::to_string(kMaxTensorMaps) + " tensor maps");
  }
  module->name_ = source.name;
  module->cubin_ = binary.bytes;
  module->entries_ = source.entries;
  module->workspace_ = source.workspace;
  module->map_specs_ = source.tensor_maps;
  ScopedContext scope(api, device, primary);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  if (auto result = module->load_into(scope.context()); !result.ok()) return result.status();
  return std::shared_ptr<const Module>(std::move(module));
}

CudaModule::~CudaModule() {
  for (const auto& entry : loaded_) {
    // The context may be gone already; then its modules are, too.
    if (api_.cuCtxPushCurrent(entry->context) != kSuccess) continue;
    api_.cuModuleUnload(entry->module);
    CUcontext popped = nullptr;
    api_.cuCtxPopCurrent(&popped);
  }
}

// REQUIRES: `context` is current.
Result<const CudaModule::Loaded*> CudaModule::load_into(CUcontext context) const {
  auto loaded = std::make_unique<Loaded>();
  loaded->context = context;
  const RelaxedCapture relaxed(api_);
  if (const CUresult result = api_.cuModuleLoadData(&loaded->module, cubin_.data());
      result != kSuccess) {
    return failure(api_, result, "loading " + name_);
  }
  Status status;
  for (const Entry& entry : entries_) {
    CUfunction function = nullptr;
    CUresult result = api_.cuModuleGetFunction(&function, loaded->module, entry.name.c_str());
    if (result != kSuccess) {
      status = failure(api_, result, name_ + ": entry " + entry.name);
      break;
    }
    if (entry.shared_bytes > 0) {
      result = api_.cuFuncSetAttribute(function, kFuncMaxDynamicSharedBytes, entry.shared_bytes);
      if (result != kSuccess) {
        status = failure(api_, result,
                         name_ + ": " + std::to_string(entry.shared_bytes) +
                             " bytes of shared memory for " + entry.name);
        break;
      }
    }
    loaded->functions.push_back(function);
  }
  if (!status.ok()) {
    api_.cuModuleUnload(loaded->module);
    return status;
  }
  std::unique_lock lock(mutex_);
  loaded_.push_back(std::move(loaded));
  return static_cast<const Loaded*>(loaded_.back().get());
}

Result<const CudaModule::Loaded*> CudaModule::loaded(CUcontext context, CUstream stream) const {
  {
    std::shared_lock lock(mutex_);
    for (const auto& entry : loaded_) {
      if (entry->context == context) return static_cast<const Loaded*>(entry.get());
    }
  }
  // A context of the device that this kernel has not met yet: a function handle belongs to one
  // context.
  int capturing = 0;
  if (api_.cuStreamIsCapturing(stream, &capturing) == kSuccess && capturing != 0) {
    return Status(StatusCode::kNotReady,
                  name_ + ": not loaded in this context yet; launch once before capturing");
  }
  return load_into(context);
}

Status CudaModule::encode_maps(const MoeArgs& args, TensorMaps* maps) const {
  for (size_t i = 0; i < map_specs_.size(); ++i) {
    const TensorMapSpec& spec = map_specs_[i];
    const void* base = nullptr;
    switch (spec.base) {
      case TensorMapSpec::Base::kX:
        base = args.x;
        break;
      case TensorMapSpec::Base::kW13:
        base = args.w13;
        break;
      case TensorMapSpec::Base::kW2:
        base = args.w2;
        break;
      case TensorMapSpec::Base::kWorkspace:
        base = static_cast<const uint8_t*>(args.workspace) +
               workspace_offset(workspace_, static_cast<size_t>(spec.region), args.num_tokens);
        break;
    }
    uint64_t dims[3], strides[3];
    uint32_t box[3], steps[3];
    uint64_t stride = static_cast<uint64_t>(spec.element_bytes);
    const size_t rank = spec.dims.size();
    for (size_t d = 0; d < rank; ++d) {
      dims[d] = static_cast<uint64_t>(spec.dims[d]) +
                (d == 1 ? static_cast<uint64_t>(spec.rows_per_token * args.num_tokens) : 0);
      dims[d] = std::max<uint64_t>(dims[d], 1);
      stride *= dims[d];
      strides[d] = stride;  // of dimension d + 1
      box[d] = static_cast<uint32_t>(spec.box[d]);
      steps[d] = 1;
    }
    const int type = spec.element_bytes == 1   ? kTensorUint8
                     : spec.element_bytes == 2 ? kTensorUint16
                                               : kTensorUint32;
    // 128 bytes are a row of a box; promoted to 256, boxes come slower
    // (docs/performance_gpu_steps.md, 21).
    const CUresult result = api_.cuTensorMapEncodeTiled(
        &maps->map[i], type, static_cast<uint32_t>(rank), const_cast<void*>(base), dims, strides,
        box, steps,
        /*interleave=*/0, kTensorSwizzle128, kTensorL2Promotion128, /*oob_fill=*/0);
    if (result != kSuccess)
      return failure(api_, result, name_ + ": tensor map " + std::to_string(i));
  }
  return {};
}

Status CudaModule::launch(const MoeArgs& args, Stream stream_pointer) const {
  // A layer without tokens has nothing to write, and its pointers may be null; a probe has no
  // workspace.
  if (args.num_tokens == 0 && !workspace_.empty()) return {};
  CUstream stream = static_cast<CUstream>(stream_pointer);
  ScopedContext scope(api_, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  auto found = loaded(scope.context(), stream);
  if (!found.ok()) return found.status();
  const Loaded& module = **found;
  TensorMaps maps;
  if (!map_specs_.empty()) MOEJIT_RETURN_IF_ERROR(encode_maps(args, &maps));
  MoeArgs copy = args;
  bool first = true;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.when != When::kAlways && (entry.when == When::kRouted) != (args.routed != 0))
      continue;
    if (args.num_tokens < entry.min_tokens || args.num_tokens > entry.max_tokens) continue;
    int64_t blocks = grid_blocks(entry.grid, args.num_tokens, num_units_);
    blocks = (blocks + entry.cluster - 1) / entry.cluster * entry.cluster;
    CUlaunchAttribute attributes[2] = {};
    unsigned count = 0;
    if (entry.dependent_launch && !first) {
      attributes[count].id = kLaunchProgrammaticSerialization;
      attributes[count++].value.programmatic = 1;
    }
    if (entry.cluster > 1) {
      attributes[count].id = kLaunchClusterDimension;
      attributes[count].value.cluster[0] = static_cast<unsigned>(entry.cluster);
      attributes[count].value.cluster[1] = 1;
      attributes[count++].value.cluster[2] = 1;
    }
    const CUlaunchConfig config = {static_cast<unsigned>(blocks),
                                   1,
                                   1,
                                   static_cast<unsigned>(entry.threads),
                                   1,
                                   1,
                                   static_cast<unsigned>(entry.shared_bytes),
                                   stream,
                                   attributes,
                                   count};
    void* parameters[2] = {&copy, &maps};
    const CUresult result =
        api_.cuLaunchKernelEx(&config, module.functions[i], parameters, nullptr);
    if (result != kSuccess) return failure(api_, result, name_ + ": launch of " + entry.name);
    first = false;
  }
  return {};
}

}  // namespace moejit::internal::cuda
