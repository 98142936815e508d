// How far the model is from measurements.
#pragma once

#include <string>

namespace moejit::gpu_bench {

// Reads what `gpu_moe perf --json` wrote and prints, per family and regime, the error of today's
// model on those measurements, then how much slower its pick is than the best measured schedule of
// each point. Needs no device: `arch` names the one that the file is from. Returns an exit status.
int run_model(const std::string& path, const std::string& arch);

}  // namespace moejit::gpu_bench
