#include "tuner/limits.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "generator/probe.h"
#include "tuner/estimator.h"

namespace moejit::internal {
namespace {

// Of the probe kernels, of how they are timed and of the guessed rates stored beside them. Limits
// of another one are measured again: the model's constants belong to the rates of this one.
constexpr int kProbeVersion = 3;
constexpr double kProbeSeconds = 0.02;  // one sample of the arithmetic probe
constexpr int kSamples = 9;

Result<std::shared_ptr<const Module>> build(const Device& device, const KernelSource& source) {
  auto binary = device.compile(source);
  if (!binary.ok()) return binary.status();
  return device.load(*binary, source);
}

Result<std::vector<double>> time_launches(const Device& device, const Module& module, MoeArgs args,
                                          int samples) {
  MOEJIT_RETURN_IF_ERROR(module.launch(args, nullptr));
  MOEJIT_RETURN_IF_ERROR(device.synchronize());
  return device.time([&](int, Stream stream) { return module.launch(args, stream); }, samples);
}

// A limit is what the device can do: its rates are those of a low quantile of the times, because
// what else runs on the machine only adds to them.
Result<double> probe_read(const Device& device, const Module& module, int passes, void* out) {
  const Target& target = device.info().target;
  // Far beyond every cache, and small enough to be had.
  int64_t bytes =
      std::max<int64_t>(int64_t{512} << 20, 8 * std::max(target.l2_bytes, target.l3_bytes));
  if (device.info().memory_bytes > 0) bytes = std::min(bytes, device.info().memory_bytes / 4);
  bytes = bytes / (1 << 20) * (1 << 20);
  auto buffer = device.allocate(static_cast<size_t>(bytes));
  // Where so much is not left: as long as it is larger than the caches.
  const int64_t least =
      std::max<int64_t>(int64_t{64} << 20, 2 * std::max(target.l2_bytes, target.l3_bytes));
  while (!buffer.ok() && bytes / 2 >= least) {
    bytes = bytes / 2 / (1 << 20) * (1 << 20);
    buffer = device.allocate(static_cast<size_t>(bytes));
  }
  if (!buffer.ok()) return buffer.status();
  // Untouched pages all map to one page of zeros: every page has to be written first.
  const std::vector<uint8_t> block(1 << 20, 0x3c);
  for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(block.size())) {
    MOEJIT_RETURN_IF_ERROR(
        device.copy_in(static_cast<uint8_t*>(buffer->get()) + at, block.data(), block.size()));
  }
  MoeArgs args{};
  args.x = buffer->get();
  args.out = out;
  args.num_tokens = bytes;
  const auto samples = time_launches(device, module, args, kSamples);
  if (!samples.ok()) return samples.status();
  return static_cast<double>(bytes) * passes / summarize(*samples).p20_s;
}

Result<double> probe_dot(const Device& device, const Module& module, void* out, double flops) {
  MoeArgs args{};
  args.out = out;
  args.num_tokens = 1000;
  auto samples = time_launches(device, module, args, 3);
  if (!samples.ok()) return samples.status();
  const double once = std::max(summarize(*samples).median_s, 1e-7);
  args.num_tokens = std::clamp<int64_t>(static_cast<int64_t>(1000 * kProbeSeconds / once), 1000,
                                        int64_t{1} << 40);
  samples = time_launches(device, module, args, kSamples);
  if (!samples.ok()) return samples.status();
  return flops * static_cast<double>(args.num_tokens) / summarize(*samples).p20_s;
}

// Published peaks times what kernels are known to sustain of them: four fifths of a bandwidth, half
// of a matrix rate. Per unit, so that a partition of a package counts as what it is. Peaks: AMD
// Instinct MI300X data sheet (5.3 TB/s, 1307.4 TFLOP/s in 16 bits, 163.4 in f32, 17.2 TB/s of the
// Infinity Cache, 304 units) and MI250X data sheet, one die of two (1.6 TB/s, 191.5, 47.9 by matrix
// cores, 110 units; its L2 gives 128 bytes a clock of 1.7 GHz from each of 32 channels), and Radeon
// RX 7900 XTX product page (960 GB/s, 122.8 TFLOP/s of 16-bit matrix products, 61.4 in f32 with two
// operations issued at once, which FMAs across lanes are not; 3500 GB/s of the Infinity Cache).
DeviceLimits published_amd_limits(const Target& target, DType dtype) {
  struct Peaks {
    double units, read, dot, dot_f32, vector, l2;
  };
  const Peaks peaks =
      target.arch == "gfx942"    ? Peaks{304, 5.3e12, 1307.4e12, 163.4e12, 163.4e12, 17.2e12}
      : target.arch == "gfx1100" ? Peaks{48, 0.96e12, 122.8e12, 30.7e12, 61.4e12, 3.5e12}
                                 : Peaks{110, 1.6e12, 191.5e12, 47.9e12, 23.9e12, 6.96e12};
  const double share = std::max(target.num_units, 1) / peaks.units;
  DeviceLimits limits;
  limits.read_bytes_per_s = 0.8 * peaks.read * share;
  limits.dot_flops_per_s = 0.5 * (dtype == DType::kF32 ? peaks.dot_f32 : peaks.dot) * share;
  limits.vector_flops_per_s = 0.5 * peaks.vector * share;
  limits.l2_bytes_per_s = 0.8 * peaks.l2 * share;
  limits.launch_s = 4e-6;
  return limits;
}

}  // namespace

DeviceLimits guess_limits(const Target& target, DType dtype) {
  DeviceLimits limits;
  const double units = std::max(target.num_units, 1);
  if (target.backend == BackendKind::kCpu) {
    // One core of a server part streams about 20 GB/s, a socket's worth of channels saturate near
    // ten cores; vector rates at 3 GHz with two FMA units.
    const bool wide = target.arch.find("v4") != std::string::npos;
    const bool bf16_dot = target.arch.find("bf16") != std::string::npos;
    limits.read_bytes_per_s = 18e9 * std::min(units, 10.0);
    limits.vector_flops_per_s = (wide ? 96e9 : 48e9) * units;
    limits.dot_flops_per_s =
        limits.vector_flops_per_s * (bf16_dot && dtype == DType::kBF16 ? 2 : 1);
    limits.launch_s = 1e-6;
  } else if (target.backend == BackendKind::kHip) {
    limits = published_amd_limits(target, dtype);
  } else {
    // Per multiprocessor of a recent data-centre GPU: a share of HBM, of the tensor cores, of the
    // FMA units.
    limits.read_bytes_per_s = 25e9 * units;
    limits.dot_flops_per_s = (dtype == DType::kF32 ? 2.5e12 : 5e12) * units;
    limits.vector_flops_per_s = 0.4e12 * units;
    // Fitted with the model's other constants to an H200: 9.2 TB/s, a rate by which the tiles with
    // the most traffic (8 TB/s over a whole layer) are not held up.
    limits.l2_bytes_per_s = 70e9 * units;
    limits.launch_s = 2.5e-6;
  }
  return limits;
}

Result<DeviceLimits> probe_limits(const Device& device, DType dtype) {
  const auto probe = emit_probe(device.info().target, dtype);
  if (!probe)
    return Status(StatusCode::kUnsupported,
                  "device " + device.info().name + ": has no probe kernels");
  DeviceLimits limits = guess_limits(device.info().target, dtype);
  auto out = device.allocate(static_cast<size_t>(std::max<int64_t>(probe->out_bytes, 4096)));
  if (!out.ok()) return out.status();
  const auto read = build(device, probe->read);
  if (!read.ok()) return read.status();
  const auto bandwidth = probe_read(device, **read, probe->read_passes, out->get());
  if (!bandwidth.ok()) return bandwidth.status();
  limits.read_bytes_per_s = *bandwidth;

  const auto dot = build(device, probe->dot);
  if (!dot.ok()) return dot.status();
  const auto rate = probe_dot(device, **dot, out->get(), probe->dot_flops_per_iteration);
  if (!rate.ok()) return rate.status();
  // The plain-vector rate keeps the guess's ratio to the dot rate: one probe sets the scale of
  // both.
  limits.vector_flops_per_s *= *rate / limits.dot_flops_per_s;
  limits.dot_flops_per_s = *rate;

  MoeArgs nothing{};
  nothing.out = out->get();
  nothing.num_tokens = 0;
  const auto empty = time_launches(device, **dot, nothing, 50);
  if (empty.ok()) limits.launch_s = std::clamp(summarize(*empty).median_s, 1e-7, 2e-5);
  limits.measured = true;
  return limits;
}

std::optional<DeviceLimits> limits_from_json(const std::string& text, DType dtype) {
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object() || !json.contains(to_string(dtype))) return std::nullopt;
  const auto& entry = json[to_string(dtype)];
  if (!entry.is_object() || entry.value("probe", nlohmann::json()) != kProbeVersion)
    return std::nullopt;
  DeviceLimits limits;
  const auto read = [&](const char* name, double* value) {
    if (!entry.contains(name) || !entry[name].is_number()) return false;
    *value = entry[name].get<double>();
    return std::isfinite(*value) && *value > 0;
  };
  if (!read("read_bytes_per_s", &limits.read_bytes_per_s) ||
      !read("dot_flops_per_s", &limits.dot_flops_per_s) ||
      !read("vector_flops_per_s", &limits.vector_flops_per_s) ||
      !read("launch_s", &limits.launch_s)) {
    return std::nullopt;
  }
  if (entry.contains("l2_bytes_per_s") && !read("l2_bytes_per_s", &limits.l2_bytes_per_s))
    return std::nullopt;
  limits.measured = true;
  return limits;
}

std::string add_limits_to_json(const std::string& text, DType dtype, const DeviceLimits& limits) {
  auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) json = nlohmann::json::object();
  json[to_string(dtype)] = {{"probe", kProbeVersion},
                            {"read_bytes_per_s", limits.read_bytes_per_s},
                            {"dot_flops_per_s", limits.dot_flops_per_s},
                            {"vector_flops_per_s", limits.vector_flops_per_s},
                            {"launch_s", limits.launch_s}};
  if (limits.l2_bytes_per_s > 0) json[to_string(dtype)]["l2_bytes_per_s"] = limits.l2_bytes_per_s;
  return json.dump();
}

}  // namespace moejit::internal
