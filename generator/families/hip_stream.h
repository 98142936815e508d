// Family hip_stream: decode on AMD's matrix cores.
#pragma once

#include "generator/family.h"

namespace moejit::internal {

const Family* hip_stream_family();

}  // namespace moejit::internal
