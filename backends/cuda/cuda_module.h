// A cubin loaded for launching: one CUmodule per context that it was used in.
#pragma once

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "backends/backend.h"
#include "backends/cuda/driver.h"

namespace moejit::internal::cuda {

// Tensor maps of one launch: the second parameter of entries that want them (dev::TensorMaps).
constexpr size_t kMaxTensorMaps = 4;
struct TensorMaps {
  CUtensorMap map[kMaxTensorMaps];
};

class CudaModule : public Module {
 public:
  // Loads into the current context. `source` must be the one that the cubin was compiled from.
  static Result<std::shared_ptr<const Module>> load(const Driver& api, CUdevice device,
                                                    CUcontext primary, int num_units,
                                                    const Binary& binary,
                                                    const KernelSource& source);
  ~CudaModule() override;
  Status launch(const MoeArgs& args, Stream stream) const override;

 private:
  struct Loaded {
    CUcontext context = nullptr;
    CUmodule module = nullptr;
    std::vector<CUfunction> functions;  // one per entry
  };
  CudaModule(const Driver& api, CUdevice device, CUcontext primary, int num_units)
      : api_(api), device_(device), primary_(primary), num_units_(num_units) {}
  Result<const Loaded*> load_into(CUcontext context) const;
  Result<const Loaded*> loaded(CUcontext context, CUstream stream) const;
  Status encode_maps(const MoeArgs& args, TensorMaps* maps) const;

  const Driver& api_;
  CUdevice device_;
  CUcontext primary_;
  int num_units_;
  std::string name_;
  std::vector<uint8_t> cubin_;
  std::vector<Entry> entries_;
  std::vector<WorkspaceRegion> workspace_;
  std::vector<TensorMapSpec> map_specs_;
  mutable std::shared_mutex mutex_;
  mutable std::vector<std::unique_ptr<Loaded>> loaded_;
};

// Blocks of an entry's launch for `tokens` tokens; at least 1.
int64_t grid_blocks(const Grid& grid, int64_t tokens, int num_units);

}  // namespace moejit::internal::cuda
