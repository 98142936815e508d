// A code object loaded on one device.
#pragma once

#include <vector>

#include "backends/backend.h"
#include "backends/hip/runtime.h"

namespace moejit::internal::hip {

class HipModule : public Module {
 public:
  // Loads on device `ordinal`. `source` must be the one that the binary was compiled from.
  static Result<std::shared_ptr<const Module>> load(const Runtime& api, int ordinal, int num_units,
                                                    const Binary& binary,
                                                    const KernelSource& source);
  ~HipModule() override;
  Status launch(const MoeArgs& args, Stream stream) const override;

 private:
  HipModule(const Runtime& api, int ordinal, int num_units)
      : api_(api), ordinal_(ordinal), num_units_(num_units) {}

  const Runtime& api_;
  int ordinal_;
  int num_units_;
  bool probe_ = false;  // has no workspace
  std::string name_;
  std::vector<uint8_t> code_;
  std::vector<Entry> entries_;
  hipModule_t module_ = nullptr;
  std::vector<hipFunction_t> functions_;  // one per entry
};

// Blocks of an entry's launch for `tokens` tokens; at least 1.
int64_t grid_blocks(const Grid& grid, int64_t tokens, int num_units);

}  // namespace moejit::internal::hip
