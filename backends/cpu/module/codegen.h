// Inside the module: optimisation and emission, apart from Clang.
#pragma once

#include <string>
#include <vector>

#include "backends/cpu/module/module.h"

namespace llvm {
class Module;
}

namespace moejit_cpu {

// Optimises `module` and leaves its object code, or its assembly, in out.bytes.
void generate_code(llvm::Module& module, const std::string& cpu,
                   const std::vector<std::string>& features, bool assembly, Output& out);

}  // namespace moejit_cpu
