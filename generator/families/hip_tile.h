// Family hip_tile: prefill on AMD's matrix cores.
#pragma once

#include "generator/family.h"

namespace moejit::internal {

const Family* hip_tile_family();

}  // namespace moejit::internal
