// Simulated GPUs as devices: sim:sm_80, sim:sm_90a, sim:gfx90a, sim:gfx942, sim:gfx1100.
#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>

#include "backends/backend.h"
#include "backends/cpu/compiler_module.h"
#include "backends/cpu/cpu_info.h"
#include "backends/dump.h"
#include "backends/sim/allocations.h"
#include "backends/sim/sim_module.h"
#include "base/embedded.h"

namespace moejit::internal {
namespace {

using sim::SimModule;

constexpr const char* kFormat = "sim-elf-so";
// Raised when the table of functions or the layout of what a kernel sees changes.
constexpr const char* kVersion = "sim 2";
constexpr const char* kHostArch = "x86-64-v3";

struct Model {
  const char* arch;
  const char* product;
  int64_t shared_bytes;  // most of one block
  uint32_t shared_per_unit;
  int64_t l2_bytes;
  bool has_async_proxy;
};

// Shared memory per unit and per block as in the CUDA C++ programming guide's table of compute
// capabilities. Few units: persistent kernels then have several tiles per block even on small
// shapes.
constexpr Model kModels[] = {
    {"sm_80", "simulated GPU of compute capability 8.0", 163 << 10, 164 << 10, 40 << 20, false},
    {"sm_90a", "simulated GPU of compute capability 9.0", 227 << 10, 228 << 10, 50 << 20, true},
    // 64 KiB of LDS, and a 1 KiB that the engine takes of each block as on the others.
    {"gfx90a", "simulated AMD GPU gfx90a (CDNA 2)", 64 << 10, 65 << 10, 8 << 20, false},
    {"gfx942", "simulated AMD GPU gfx942 (CDNA 3)", 64 << 10, 65 << 10, 4 << 20, false},
    {"gfx1100", "simulated AMD GPU gfx1100 (RDNA 3)", 64 << 10, 130 << 10, 6 << 20, false},
};
constexpr uint32_t kUnits = 4;

class SimDevice : public Device {
 public:
  explicit SimDevice(const Model& model) {
    info_.name = std::string("sim:") + model.arch;
    info_.product = model.product;
    info_.target.backend = BackendKind::kSim;
    info_.target.arch = model.arch;
    info_.target.num_units = kUnits;
    info_.target.l1_bytes = model.shared_per_unit;
    info_.target.l2_bytes = model.l2_bytes;
    info_.target.shared_bytes = model.shared_bytes;
    info_.target.registers = 65536;
    info_.identity = std::string("{\"arch\":\"") + model.arch +
                     "\",\"backend\":\"sim\",\"units\":" + std::to_string(kUnits) +
                     ",\"version\":\"" + kVersion + "\"}";
    info_.memory_bytes = cpu_info().memory_bytes;
    limits_.units = kUnits;
    limits_.shared_per_unit = model.shared_per_unit;
    limits_.has_async_proxy = model.has_async_proxy;
  }

  const DeviceInfo& info() const override { return info_; }

  Result<std::string> compiler() const override {
    auto module = CompilerModule::get();
    if (!module.ok()) return module.status();
    return std::string(kVersion) + ", " + (*module)->identity();
  }

  Result<Binary> compile(const KernelSource& source) const override {
    auto module = CompilerModule::get();
    if (!module.ok()) return module.status();
    MOEJIT_RETURN_IF_ERROR(check_arch(source.arch));
    std::string dumped = dump_requested() ? dump_source(source) : "";
    std::string text;
    auto object = (*module)->compile(host_source(source, text));
    if (!object.ok()) return with_source(object.status(), source, dumped);
    Binary binary;
    binary.format = kFormat;
    binary.arch = source.arch;
    binary.compiler = std::string(kVersion) + ", " + (*module)->identity();
    binary.bytes = std::move(object->bytes);
    binary.compile_ms = object->compile_ms + object->link_ms;
    binary.log = std::move(object->log);
    for (const Entry& entry : source.entries) {
      binary.shared_bytes = std::max(binary.shared_bytes, entry.shared_bytes);
    }
    return binary;
  }

  Result<std::string> assembly(const KernelSource& source) const override {
    auto module = CompilerModule::get();
    if (!module.ok()) return module.status();
    MOEJIT_RETURN_IF_ERROR(check_arch(source.arch));
    std::string text;
    auto result = (*module)->assembly(host_source(source, text));
    if (!result.ok()) return with_source(result.status(), source, "");
    return result;
  }

  Result<std::shared_ptr<const Module>> load(const Binary& binary,
                                             const KernelSource& source) const override {
    if (binary.format != kFormat) {
      return Status(StatusCode::kDataError, "format = \"" + binary.format + "\": " + info_.name +
                                                " loads \"" + kFormat + "\" only");
    }
    MOEJIT_RETURN_IF_ERROR(check_arch(binary.arch));
    if (!cpu_runs(kHostArch)) {
      return Status(StatusCode::kUnsupported, info_.name + ": this CPU is below " + kHostArch +
                                                  ", for which kernels are compiled");
    }
    return SimModule::load(info_.name, limits_, binary, source);
  }

  Result<std::shared_ptr<void>> allocate(size_t bytes) const override {
    return sim::allocations().allocate(bytes);
  }
  Status copy_in(void* device, const void* host, size_t bytes) const override {
    MOEJIT_RETURN_IF_ERROR(check_range(device, bytes));
    if (bytes > 0) std::memcpy(device, host, bytes);
    return {};
  }
  Status copy_out(void* host, const void* device, size_t bytes) const override {
    MOEJIT_RETURN_IF_ERROR(check_range(device, bytes));
    if (bytes > 0) std::memcpy(host, device, bytes);
    return {};
  }
  Status synchronize() const override { return {}; }

  // The cost of what each run counted: the same numbers every time.
  Result<std::vector<double>> time(const std::function<Status(int, Stream)>& body,
                                   int repeats) const override {
    if (repeats < 0) {
      return invalid_argument("repeats = " + std::to_string(repeats) + ": must not be negative");
    }
    sim::TimedLaunches timed;
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
      sim::take_counters();
      MOEJIT_RETURN_IF_ERROR(body(i, nullptr));
      seconds.push_back(sim::cost_seconds(sim::take_counters()));
    }
    return seconds;
  }

 private:
  Status check_arch(const std::string& arch) const {
    if (arch == info_.target.arch) return {};
    return {StatusCode::kUnsupported,
            "arch = \"" + arch + "\": " + info_.name + " runs " + info_.target.arch + " only"};
  }

  // A range that starts in an allocation must end in it; other host memory is the caller's.
  Status check_range(const void* device, size_t bytes) const {
    const size_t room = sim::allocations().bytes_after(device);
    if (room == 0 || bytes <= room) return {};
    return invalid_argument("bytes = " + std::to_string(bytes) + ": the allocation has " +
                            std::to_string(room) + " from there");
  }

  static HostSource host_source(const KernelSource& source, std::string& text) {
    HostSource host;
    host.name = source.name;
    text = source.text;
    // Behind the kernel, so that its line numbers stay.
    if (text.find("constexpr int kNumExperts") != std::string::npos) {
      std::string_view extents = embedded_file("templates/device/sim/extents.h");
      const size_t body = extents.find("// Bytes of a tensor");
      text.append("\n").append(extents.substr(std::min(body, extents.size())));
    }
    host.text = &text;
    host.arch = kHostArch;
    host.options = {"-O1", "-Wno-unknown-pragmas"};
    host.options.insert(host.options.end(), source.options.begin(), source.options.end());
    for (const Entry& entry : source.entries) host.exports.push_back(entry.name);
    host.exports.push_back("moejit_sim_bind");
    if (text.find("moejit_sim_extent(") != std::string::npos) {
      host.exports.push_back("moejit_sim_extent");
    }
    return host;
  }

  static Status with_source(const Status& status, const KernelSource& source, std::string dumped) {
    if (status.code() != StatusCode::kCompileError) return status;
    if (dumped.empty()) dumped = dump_source(source);
    return {status.code(), status.message() + (dumped.empty() ? "" : "; source: " + dumped),
            status.log()};
  }

  DeviceInfo info_;
  sim::Limits limits_;
};

std::string why_not() {
#if defined(__SANITIZE_THREAD__)
  return "the simulator's fibers do not run under ThreadSanitizer";
#endif
  if (!cpu_runs(kHostArch)) return std::string("this CPU is below ") + kHostArch;
  auto module = CompilerModule::get();
  return module.ok() ? "" : module.status().message();
}

class SimBackend : public Backend {
 public:
  const char* name() const override { return "sim"; }

  std::vector<DeviceListing> devices(std::string* why_none) const override {
    const std::string why = why_not();
    if (!why.empty()) {
      if (why_none != nullptr) *why_none = why;
      return {};
    }
    std::vector<DeviceListing> list;
    for (const Model& model : kModels)
      list.push_back({std::string("sim:") + model.arch, model.product});
    return list;
  }

  Result<const Device*> open(const std::string& spec) const override {
    static std::mutex mutex;
    static auto* open_devices = new std::vector<std::pair<std::string, const Device*>>();
    std::lock_guard<std::mutex> lock(mutex);
    for (const auto& [name, device] : *open_devices) {
      if (name == spec) return device;
    }
    for (const Model& model : kModels) {
      if (spec != model.arch) continue;
      open_devices->emplace_back(spec, new SimDevice(model));
      return open_devices->back().second;
    }
    return Status(StatusCode::kNotFound,
                  "device = \"sim:" + spec +
                      "\": must be sim:sm_80, sim:sm_90a, sim:gfx90a, sim:gfx942 or sim:gfx1100");
  }

  std::vector<std::pair<std::string, std::string>> facts() const override {
    const std::string why = why_not();
    return {{"checks", sim::checks_in_force() == sim::Checks::kFast ? "fast" : "full"},
            {"compiler", why.empty() ? "the CPU backend's" : why}};
  }
};

}  // namespace

const Backend* sim_backend() {
  static const SimBackend* const kBackend = new SimBackend();
  return kBackend;
}

}  // namespace moejit::internal
