#include "tests/kernels/cpu_runner.h"

#include "backends/cpu/cpu_backend.h"

namespace moejit_test {

using namespace moejit::internal;  // NOLINT: a helper of the tests

const std::vector<std::string>& cpu_archs() {
  static const std::vector<std::string> archs = [] {
    std::vector<std::string> found;
    for (const char* name : {"x86-64-v3", "x86-64-v4", "x86-64-v4+bf16"}) {
      const auto device = open_cpu_device(name, 2);
      if (device.ok() && (*device)->compiler().ok()) found.push_back(name);
    }
    return found;
  }();
  return archs;
}

const Device& cpu_device(const std::string& arch, int threads) {
  return **open_cpu_device(arch, threads);
}

Schedule default_cpu_schedule(const moejit::MoeConfig& config, const std::string& arch, int threads,
                              int64_t tokens) {
  return find_family("cpu_moe")->default_schedule(config, cpu_device(arch, threads).info().target,
                                                  tokens);
}

CpuKernel::CpuKernel(const moejit::MoeConfig& config, const std::string& arch, int threads,
                     const Schedule& schedule) {
  const Device& device = cpu_device(arch, threads);
  const Family* family = find_family("cpu_moe");
  if (const auto reason = family->why_not(config, device.info().target, schedule)) {
    error_ = "illegal schedule: " + *reason;
    return;
  }
  source_ = family->emit(config, device.info().target, schedule);
  const auto binary = device.compile(source_);
  if (!binary.ok()) {
    error_ = binary.status().to_string() + "\n" + binary.status().log();
    return;
  }
  auto module = device.load(*binary, source_);
  if (!module.ok()) {
    error_ = module.status().to_string();
    return;
  }
  module_ = *module;
}

std::string CpuKernel::run(Problem* p, bool routed) const {
  const int64_t bytes =
      workspace_offset(source_.workspace, source_.workspace.size(), p->options.tokens);
  GuardedBuffer workspace(static_cast<size_t>(bytes), 256);
  p->out.fill_nan();
  if (routed) {
    p->ids.fill_nan();
    p->weights.fill_nan();
  }
  const MoeArgs args{.x = p->x.data(),
                     .w13 = p->w13.data(),
                     .w2 = p->w2.data(),
                     .b13 = p->config.bias ? p->b13.data() : nullptr,
                     .b2 = p->config.bias ? p->b2.data() : nullptr,
                     .topk_ids = p->ids.as<int>(),
                     .topk_weights = p->weights.as<float>(),
                     .router_logits = routed ? p->logits.data() : nullptr,
                     .correction_bias = routed && p->config.router.correction_bias
                                            ? p->correction_bias.as<float>()
                                            : nullptr,
                     .out = p->out.data(),
                     .workspace = workspace.data(),
                     .num_tokens = p->options.tokens,
                     .logits_dtype = static_cast<int>(p->options.logits_dtype),
                     .routed = routed ? 1 : 0};
  const auto status = module_->launch(args, nullptr);
  if (!status.ok()) return status.to_string();
  if (!workspace.intact()) return "wrote outside the workspace";
  if (!p->intact()) return "wrote outside a tensor";
  return "";
}

}  // namespace moejit_test
