// Pieces of text that all emitters share.
#pragma once

#include <string>
#include <vector>

#include "generator/kernel_source.h"
#include "generator/schedule.h"
#include "moejit/config.h"

namespace moejit::internal {

// `namespace moejit_cfg { constexpr int kNumExperts = 128; ... }` : every field of the config as a
// named constant (see templates/config_example.h, which the editor sees instead), then one constant
// per schedule parameter, kSched_<name>.
std::string emit_constants(const MoeConfig& config, const Schedule& schedule);

// The workspace table as constants plus `moejit_cfg::workspace_offset(index, tokens)`, and one
// `kRegion_<name>` index per region.
std::string emit_workspace(const std::vector<WorkspaceRegion>& regions);

// kL2Bytes: of the GPU's cache, what templates/kernels/keep.h may count on; 0: nothing is kept
// there.
std::string emit_cache(int64_t l2_bytes);

// "e128_k8_h2048_i768_bf16"
std::string short_name(const MoeConfig& config);

}  // namespace moejit::internal
