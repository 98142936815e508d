// The CPU as a device: Clang in a module of its own compiles, the dynamic loader maps, a thread
// pool runs.
#include "backends/cpu/cpu_backend.h"

#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <map>
#include <mutex>

#include "backends/cpu/compiler_module.h"
#include "backends/cpu/cpu_info.h"
#include "backends/cpu/elf_image.h"
#include "backends/cpu/thread_pool.h"
#include "backends/dump.h"
#include "base/settings.h"

namespace moejit::internal {
namespace {

constexpr const char* kFormat = "elf-so";
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kMuchMemory = size_t{256} << 20;  // is asked for only where so much is left
std::atomic<int64_t> allocated{0};                 // by allocate(), of all devices of the process
constexpr int kMostThreads = 1024;

class CpuModule : public Module {
 public:
  struct Call {
    KernelFunction run;
    When when;
    int64_t serial_up_to;
  };
  static constexpr size_t kMostEntries = 16;

  CpuModule(std::shared_ptr<const LoadedImage> image, std::vector<Call> calls,
            int64_t rows_per_token, ThreadPool* pool)
      : image_(std::move(image)),
        calls_(std::move(calls)),
        rows_per_token_(rows_per_token),
        pool_(pool) {}

  Status launch(const MoeArgs& args, Stream) const override {
    PoolStep steps[kMostEntries];
    const int64_t rows = args.num_tokens * rows_per_token_;
    size_t count = 0;
    for (const Call& call : calls_) {
      if (call.when == When::kAlways || (call.when == When::kRouted) == (args.routed != 0)) {
        steps[count++] = {call.run, call.serial_up_to > 0 && rows <= call.serial_up_to};
      }
    }
    pool_->run(steps, count, args);
    return {};
  }

 private:
  std::shared_ptr<const LoadedImage> image_;
  std::vector<Call> calls_;
  int64_t rows_per_token_;
  ThreadPool* pool_;
};

HostSource host_source(const KernelSource& source) {
  HostSource host;
  host.name = source.name;
  host.text = &source.text;
  host.arch = source.arch;
  host.options = source.options;
  for (const Entry& entry : source.entries) host.exports.push_back(entry.name);
  return host;
}

std::string quoted_list(const std::vector<std::string>& items) {
  std::string text = "[";
  for (const std::string& item : items) text += (text.size() > 1 ? ",\"" : "\"") + item + "\"";
  return text + "]";
}

// Silicon facts and the share of the machine that kernels use; keys in alphabetical order.
std::string identity_json(const CpuInfo& info, const std::string& arch, int threads) {
  return "{\"arch\":\"" + arch + "\",\"backend\":\"cpu\",\"cores\":" + std::to_string(info.cores) +
         ",\"family\":" + std::to_string(info.family) +
         ",\"features\":" + quoted_list(info.features) +
         ",\"l1\":" + std::to_string(info.l1_bytes) + ",\"l2\":" + std::to_string(info.l2_bytes) +
         ",\"l3\":" + std::to_string(info.l3_bytes) + ",\"model\":" + std::to_string(info.model) +
         ",\"stepping\":" + std::to_string(info.stepping) +
         ",\"threads\":" + std::to_string(threads) + ",\"vendor\":\"" + info.vendor + "\"}";
}

class CpuDevice : public Device {
 public:
  CpuDevice(const std::string& spec, const std::string& arch, int threads) : pool_(threads) {
    const CpuInfo& info = cpu_info();
    info_.name = spec.empty() ? "cpu" : "cpu:" + spec;
    info_.product = info.product;
    info_.target.backend = BackendKind::kCpu;
    info_.target.arch = arch;
    info_.target.num_units = threads;
    info_.target.l1_bytes = info.l1_bytes;
    info_.target.l2_bytes = info.l2_bytes;
    info_.target.l3_bytes = info.l3_bytes;
    info_.identity = identity_json(info, arch, threads);
    info_.memory_bytes = info.memory_bytes;
  }

  const DeviceInfo& info() const override { return info_; }

  Result<std::string> compiler() const override {
    Result<const CompilerModule*> module = CompilerModule::get();
    if (!module.ok()) return module.status();
    return (*module)->identity();
  }

  Result<Binary> compile(const KernelSource& source) const override {
    Result<const CompilerModule*> module = CompilerModule::get();
    if (!module.ok()) return module.status();
    std::string dumped = dump_requested() ? dump_source(source) : "";
    Result<HostObject> object = (*module)->compile(host_source(source));
    if (!object.ok()) return with_source(object.status(), source, std::move(dumped));
    Binary binary;
    binary.format = kFormat;
    binary.arch = source.arch;
    binary.compiler = (*module)->identity();
    binary.bytes = std::move(object->bytes);
    binary.compile_ms = object->compile_ms + object->link_ms;
    binary.log = std::move(object->log);
    return binary;
  }

  Result<std::string> assembly(const KernelSource& source) const override {
    Result<const CompilerModule*> module = CompilerModule::get();
    if (!module.ok()) return module.status();
    Result<std::string> text = (*module)->assembly(host_source(source));
    if (!text.ok()) return with_source(text.status(), source, "");
    return text;
  }

  Result<std::shared_ptr<const Module>> load(const Binary& binary,
                                             const KernelSource& source) const override {
    if (binary.format != kFormat) {
      return Status(StatusCode::kDataError,
                    "format = \"" + binary.format + "\": the CPU loads \"" + kFormat + "\" only");
    }
    if (!cpu_runs(binary.arch)) {
      return Status(StatusCode::kUnsupported,
                    "arch = \"" + binary.arch + "\": this CPU runs code up to " + cpu_info().arch);
    }
    if (source.entries.empty() || source.entries.size() > CpuModule::kMostEntries) {
      return invalid_argument("entries: " + std::to_string(source.entries.size()) +
                              " of them, must be 1 to " + std::to_string(CpuModule::kMostEntries));
    }
    Result<std::shared_ptr<const LoadedImage>> image = LoadedImage::load(binary.bytes, source.name);
    if (!image.ok()) return image.status();
    std::vector<CpuModule::Call> calls;
    for (const Entry& entry : source.entries) {
      void* function = (*image)->symbol(entry.name.c_str());
      if (function == nullptr) {
        return Status(StatusCode::kDataError,
                      "compiled kernel: entry \"" + entry.name + "\" is not in the binary");
      }
      calls.push_back({reinterpret_cast<KernelFunction>(function), entry.when, entry.serial_up_to});
    }
    return std::shared_ptr<const Module>(std::make_shared<CpuModule>(
        std::move(*image), std::move(calls), source.rows_per_token, &pool_));
  }

  Result<std::shared_ptr<void>> allocate(size_t bytes) const override {
    const bool huge = bytes >= 2 * kHugePage;
    const size_t alignment = huge ? kHugePage : 256;
    const size_t size = (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
    // More than the machine has, or has left, would only be granted to fail at the first touch.
    bool possible = size >= bytes && size <= static_cast<uint64_t>(info_.memory_bytes);
    int64_t left = info_.memory_bytes;
    if (possible && size >= kMuchMemory) {
      // What was allocated and not touched yet is still counted as available.
      if (const int64_t now = available_bytes(); now >= 0)
        left = std::max<int64_t>(0, now - std::max<int64_t>(0, allocated - resident_bytes()));
      possible = size <= static_cast<uint64_t>(left);
    }
    void* memory = possible ? aligned_alloc(alignment, size) : nullptr;
    if (memory == nullptr) {
      return Status(StatusCode::kOutOfMemory,
                    std::to_string(bytes) + " bytes of memory: of the machine's " +
                        std::to_string(info_.memory_bytes) + " that many are not to be had" +
                        (left < info_.memory_bytes ? ", " + std::to_string(left) + " are left"
                                                   : std::string()));
    }
    if (huge)
      madvise(memory, size, MADV_HUGEPAGE);  // a hint: without it the memory is slower, no more
    allocated += static_cast<int64_t>(size);
    return std::shared_ptr<void>(memory, [size](void* p) {
      free(p);
      allocated -= static_cast<int64_t>(size);
    });
  }

  Status copy_in(void* device, const void* host, size_t bytes) const override {
    if (bytes > 0) std::memcpy(device, host, bytes);
    return {};
  }
  Status copy_out(void* host, const void* device, size_t bytes) const override {
    if (bytes > 0) std::memcpy(host, device, bytes);
    return {};
  }
  Status synchronize() const override { return {}; }

  Result<std::vector<double>> time(const std::function<Status(int, Stream)>& body,
                                   int repeats) const override {
    if (repeats < 0)
      return invalid_argument("repeats = " + std::to_string(repeats) + ": must not be negative");
    std::vector<double> seconds;
    seconds.reserve(static_cast<size_t>(repeats));
    for (int i = 0; i < repeats; ++i) {
      const auto start = std::chrono::steady_clock::now();
      MOEJIT_RETURN_IF_ERROR(body(i, nullptr));
      seconds.push_back(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return seconds;
  }

 private:
  // A compiler's refusal with the path of the source that it is about.
  static Status with_source(const Status& status, const KernelSource& source, std::string dumped) {
    if (status.code() != StatusCode::kCompileError) return status;
    if (dumped.empty()) dumped = dump_source(source);
    return {status.code(),
            status.message() +
                (dumped.empty() ? "; the source could not be written out" : "; source: " + dumped),
            status.log()};
  }

  DeviceInfo info_;
  mutable ThreadPool pool_;
};

Status check_threads(int& num_threads) {
  if (num_threads == 0) num_threads = settings().num_threads;
  if (num_threads == 0) num_threads = usable_cpus();
  if (num_threads < 1 || num_threads > kMostThreads) {
    return invalid_argument("num_threads = " + std::to_string(num_threads) +
                            ": must be 0 (all) to " + std::to_string(kMostThreads));
  }
  return {};
}

class CpuBackend : public Backend {
 public:
  const char* name() const override { return "cpu"; }

  std::vector<DeviceListing> devices(std::string* why_none) const override {
    const CpuInfo& info = cpu_info();
    if (info.arch.empty()) {
      if (why_none != nullptr) *why_none = "this CPU is below x86-64-v3 (AVX2, FMA, F16C)";
      return {};
    }
    return {{"cpu", info.product + ", " + info.arch + ", " + std::to_string(usable_cpus()) +
                        " threads, " + std::to_string(info.memory_bytes >> 30) + " GiB"}};
  }

  Result<const Device*> open(const std::string& spec) const override {
    return open_cpu_device(spec, 0);
  }

  std::vector<std::pair<std::string, std::string>> facts() const override {
    const CpuInfo& info = cpu_info();
    std::string features;
    for (const std::string& feature : info.features)
      features += (features.empty() ? "" : " ") + feature;
    std::vector<std::pair<std::string, std::string>> facts = {
        {"product", info.product},
        {"arch", info.arch.empty() ? "below x86-64-v3: not supported" : info.arch},
        {"features", features},
        {"caches", std::to_string(info.l1_bytes >> 10) + " KiB L1d, " +
                       std::to_string(info.l2_bytes >> 10) + " KiB L2, " +
                       std::to_string(info.l3_bytes >> 10) + " KiB L3"},
        {"threads", std::to_string(usable_cpus()) + " of " + std::to_string(info.cores)}};
    Result<const CompilerModule*> module = CompilerModule::get();
    if (module.ok()) {
      facts.emplace_back("compiler", (*module)->identity());
      facts.emplace_back("compiler module", (*module)->path());
    } else {
      facts.emplace_back("compiler", module.status().message());
    }
    return facts;
  }
};

}  // namespace

Result<const Device*> open_cpu_device(const std::string& spec, int num_threads) {
  const CpuInfo& info = cpu_info();
  if (info.arch.empty()) {
    return Status(
        StatusCode::kUnsupported,
        "device = \"cpu\": " + info.product + " is below x86-64-v3; AVX2, FMA and F16C are needed");
  }
  MOEJIT_RETURN_IF_ERROR(check_threads(num_threads));
  const std::string arch = spec.empty() ? info.arch : spec;
  const bool known =
      std::find(std::begin(kCpuArchs), std::end(kCpuArchs), arch) != std::end(kCpuArchs);
  if (!known) {
    return Status(StatusCode::kNotFound,
                  "device = \"cpu:" + spec +
                      "\": must be cpu, or cpu: and one of x86-64-v3, x86-64-v4, "
                      "x86-64-v4+bf16");
  }
  if (!cpu_runs(arch)) {
    return Status(StatusCode::kUnsupported,
                  "device = \"cpu:" + spec + "\": this CPU runs code up to " + info.arch);
  }
  static std::mutex mutex;
  static auto* const kDevices = new std::map<std::pair<std::string, int>, const Device*>;
  std::lock_guard<std::mutex> lock(mutex);
  const Device*& device = (*kDevices)[{spec, num_threads}];
  if (device == nullptr) device = new CpuDevice(spec, arch, num_threads);
  return device;
}

const Backend* cpu_backend() {
  static const CpuBackend kBackend;
  return &kBackend;
}

}  // namespace moejit::internal
