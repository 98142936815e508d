// `moejit tune --compile-only`.
#pragma once

#include "moejit/tuning.h"
#include "tools/context.h"

namespace moejit::tools {

// Compiles what the request's device would be tuned with, and prints what the compiler made of it.
ExitCode run_compile_only(Context& context, TuneRequest request);

}  // namespace moejit::tools
