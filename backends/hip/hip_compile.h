// From HIP text to a code object, by hiprtc or by Clang in process.
#pragma once

#include "backends/backend.h"

namespace moejit::internal::hip {

enum class Prefer { kHiprtc, kClang };

Result<std::string> compiler_identity(Prefer prefer);
// The preferred compiler where it is there, else the other. A hiprtc whose process dies (it may not
// know the architecture) is followed by Clang; one that refuses the source is not.
Result<Binary> compile_source(const KernelSource& source, Prefer prefer);
Result<std::string> clang_assembly(const KernelSource& source);

}  // namespace moejit::internal::hip
