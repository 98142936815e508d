#include "generator/families/cpu_probe.h"

#include "generator/emit.h"
#include "generator/template_store.h"

namespace moejit::internal {

Probe emit_cpu_probe(const Target& target, DType dtype) {
  // The templates read the dtype alone of these.
  const MoeConfig config{.num_experts = 1,
                         .top_k = 1,
                         .hidden_size = 64,
                         .intermediate_size = 64,
                         .dtype = dtype,
                         .router = {}};
  KernelSource source;
  source.text = emit_constants(config, Schedule{.family = "cpu_probe", .params = {}}) +
                expand_template("cpu/probe.h");
  source.arch = target.arch;
  source.language = "c++";
  source.options = {"-Wno-unused-const-variable"};

  Probe probe;
  probe.read = source;
  probe.read.name = std::string("probe_read_") + to_string(dtype) + ".cc";
  probe.read.entries = {Entry{.name = "probe_read", .grid = {}}};
  probe.dot = source;
  probe.dot.name = std::string("probe_dot_") + to_string(dtype) + ".cc";
  probe.dot.entries = {Entry{.name = "probe_dot", .grid = {}}};

  const bool wide = target.arch != "x86-64-v3";
  const bool native_dot = target.arch == "x86-64-v4+bf16" && dtype == DType::kBF16;
  const double accumulators = wide ? 24 : 12;
  const double lanes = wide ? 16 : 8;
  probe.dot_flops_per_iteration =
      accumulators * lanes * (native_dot ? 4.0 : 2.0) * static_cast<double>(target.num_units);
  probe.out_bytes = int64_t{64} * target.num_units;
  return probe;
}

}  // namespace moejit::internal
