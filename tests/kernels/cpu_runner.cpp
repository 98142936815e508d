#include "tests/kernels/cpu_runner.h"

#include "backends/cpu/cpu_backend.h"
#include "moejit/pack.h"

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
                     const Schedule& schedule)
    : arch_(arch) {
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

bool CpuKernel::pack(const Problem& p, GuardedBuffer* w13, GuardedBuffer* w2) const {
  const std::string device = "cpu:" + arch_;
  const auto bytes = moejit::packed_bytes(p.config, device);
  if (!bytes.ok()) return false;
  *w13 = GuardedBuffer(static_cast<size_t>(bytes->w13), 16);
  *w2 = GuardedBuffer(static_cast<size_t>(bytes->w2), 16);
  w13->fill_nan();
  w2->fill_nan();
  return moejit::pack_weights(p.config, p.w13.data(), p.w2.data(), w13->data(), w2->data(), device)
             .ok() &&
         w13->intact() && w2->intact();
}

std::string CpuKernel::run(Problem* p, bool routed) const {
  GuardedBuffer packed_w13(16, 16), packed_w2(16, 16);
  const bool packed = p->config.packed;
  if (packed && !pack(*p, &packed_w13, &packed_w2)) return "the weights were not packed";
  const int64_t bytes =
      workspace_offset(source_.workspace, source_.workspace.size(), p->options.tokens);
  GuardedBuffer workspace(static_cast<size_t>(bytes), 256);
  p->out.fill_nan();
  if (routed) {
    p->ids.fill_nan();
    p->weights.fill_nan();
  }
  const MoeArgs args{.x = p->x.data(),
                     .w13 = packed ? packed_w13.data() : p->w13.data(),
                     .w2 = packed ? packed_w2.data() : p->w2.data(),
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
