// How near to the limits measurements are.
#pragma once

#include <string>

namespace moejit::gpu_bench {

// Reads what `gpu_moe perf --json` wrote and prints, for each layer, routing and token count, the
// best time and its share of max(bytes / read, flops / dot), bytes and flops per second, then the
// geometric mean of each layer and of all layers of a routing. Points that were also timed in turns
// with cuBLAS (`perf --beside 1`) show that time, its share with cuBLAS's own rate there in place
// of `dot`, and a mean that takes it; what was timed in turns alone is counted and left out, as are
// rows without the router and a last line without its end. Needs no device. Returns an exit status.
int run_shares(const std::string& path, double read, double dot);

}  // namespace moejit::gpu_bench
