#include "tests/sim/moe_runner.h"

namespace moejit_test {

using namespace moejit::internal;  // NOLINT: a helper of the tests

const std::vector<std::string>& sim_archs() {
  static const std::vector<std::string> archs = [] {
    std::vector<std::string> found;
    std::string why;
    for (const DeviceListing& device : sim_backend()->devices(&why)) {
      found.push_back(device.name.substr(4));
    }
    return found;
  }();
  return archs;
}

const Target& sim_target(const std::string& arch) {
  return (*sim_backend()->open(arch))->info().target;
}

std::vector<const Family*> gpu_families(const moejit::MoeConfig& config, const std::string& arch) {
  std::vector<const Family*> list;
  for (const Family* family : families()) {
    if (family->backend() == BackendKind::kCpu || family->params().empty()) continue;
    if (!family->why_not(config, sim_target(arch))) list.push_back(family);
  }
  return list;
}

std::vector<Schedule> gpu_schedules(const moejit::MoeConfig& config, const std::string& arch) {
  return legal_schedules(config, sim_target(arch));
}

SimKernel::SimKernel(const moejit::MoeConfig& config, const std::string& arch, const Family& family,
                     const Schedule& schedule)
    : name_(arch + " " + schedule.to_json()) {
  const Device& device = **sim_backend()->open(arch);
  if (const auto reason = family.why_not(config, device.info().target, schedule)) {
    error_ = name_ + ": illegal schedule: " + *reason;
    return;
  }
  source_ = family.emit(config, device.info().target, schedule);
  build(arch);
}

SimKernel::SimKernel(const std::string& arch, const KernelSource& source)
    : name_(arch + " " + source.name), source_(source) {
  build(arch);
}

void SimKernel::build(const std::string& arch) {
  const Device& device = **sim_backend()->open(arch);
  const auto binary = device.compile(source_);
  if (!binary.ok()) {
    error_ = name_ + ": " + binary.status().to_string() + "\n" + binary.status().log();
    return;
  }
  auto module = device.load(*binary, source_);
  if (!module.ok()) {
    error_ = name_ + ": " + module.status().to_string();
    return;
  }
  module_ = *module;
}

std::string SimKernel::run(Problem* p, bool routed, std::vector<unsigned char>* left) const {
  const int64_t bytes =
      workspace_offset(source_.workspace, source_.workspace.size(), p->options.tokens);
  GuardedBuffer workspace(static_cast<size_t>(std::max<int64_t>(bytes, 256)), 256);
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
  if (!status.ok()) return status.to_string() + "\n" + status.log();
  if (left != nullptr) {
    const auto* begin = static_cast<const unsigned char*>(workspace.data());
    left->assign(begin, begin + bytes);
  }
  if (!workspace.intact()) return "wrote outside the workspace";
  if (!p->intact()) return "wrote outside a tensor";
  return "";
}

}  // namespace moejit_test
