#include "bench/cpu_moe/limits.h"

#include <algorithm>

namespace moejit_bench {

using moejit::Result;
using moejit::Status;
using moejit::StatusCode;
using moejit::internal::Device;
using moejit::internal::KernelSource;
using moejit::internal::Module;
using moejit::internal::MoeArgs;

namespace {

Result<std::shared_ptr<const Module>> build(const Device& device, const KernelSource& source) {
  const auto binary = device.compile(source);
  if (!binary.ok()) return binary.status();
  return device.load(*binary, source);
}

Result<double> median_seconds(const Device& device, const Module& module, const MoeArgs& args) {
  auto times = device.time([&](int, void* stream) { return module.launch(args, stream); }, 7);
  if (!times.ok()) return times.status();
  std::sort(times->begin(), times->end());
  return (*times)[times->size() / 2];
}

}  // namespace

Result<std::shared_ptr<const Limits>> Limits::make(const Device& device, moejit::DType dtype) {
  const auto probe = moejit::internal::emit_probe(device.info().target, dtype);
  if (!probe) return Status(StatusCode::kUnsupported, "device: has no probe kernels");
  auto limits = std::make_shared<Limits>();
  limits->device_ = &device;
  limits->probe_ = *probe;
  auto read = build(device, probe->read);
  if (!read.ok()) return read.status();
  auto dot = build(device, probe->dot);
  if (!dot.ok()) return dot.status();
  auto out = device.allocate(static_cast<size_t>(probe->out_bytes));
  if (!out.ok()) return out.status();
  limits->read_ = *read;
  limits->dot_ = *dot;
  limits->out_ = *out;
  return std::shared_ptr<const Limits>(limits);
}

Result<Rates> Limits::measure(const void* data, int64_t bytes) const {
  MoeArgs args{};
  args.x = data;
  args.out = out_.get();
  args.num_tokens = bytes;
  const auto read = median_seconds(*device_, *read_, args);
  if (!read.ok()) return read.status();
  args.num_tokens = 150000;
  const auto dot = median_seconds(*device_, *dot_, args);
  if (!dot.ok()) return dot.status();
  return Rates{static_cast<double>(bytes) * probe_.read_passes / *read,
               probe_.dot_flops_per_iteration * static_cast<double>(args.num_tokens) / *dot};
}

}  // namespace moejit_bench
