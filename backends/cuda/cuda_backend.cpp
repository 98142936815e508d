// The CUDA backend: devices of the driver by number, architectures to compile for by name.
#include <map>
#include <mutex>

#include "backends/cuda/cuda_device.h"
#include "backends/cuda/nvrtc.h"

namespace moejit::internal {
namespace {

using cuda::CudaDevice;

class CudaBackend : public Backend {
 public:
  const char* name() const override { return "cuda"; }

  std::vector<DeviceListing> devices(std::string* why_none) const override {
    const auto& api = cuda::driver();
    if (!api.ok()) {
      if (why_none != nullptr) *why_none = api.status().message();
      return {};
    }
    int count = 0;
    (*api)->cuDeviceGetCount(&count);
    std::vector<DeviceListing> listings;
    for (int i = 0; i < count; ++i) {
      const Result<const Device*> device = open(std::to_string(i));
      if (!device.ok()) {
        if (why_none != nullptr) *why_none = device.status().message();
        continue;
      }
      const DeviceInfo& info = (*device)->info();
      listings.push_back({info.name, info.product + ", " + info.target.arch + ", " +
                                         std::to_string(info.memory_bytes >> 30) + " GiB"});
    }
    if (count == 0 && why_none != nullptr) *why_none = "no CUDA device: the driver finds none";
    return listings;
  }

  Result<const Device*> open(const std::string& spec) const override {
    const std::string key = spec.empty() ? "0" : spec;
    std::lock_guard lock(mutex_);
    if (const auto it = open_.find(key); it != open_.end())
      return static_cast<const Device*>(it->second.get());
    auto device = make(key);
    if (!device.ok()) return device.status();
    const Device* opened = device->get();
    open_.emplace(key, *std::move(device));
    return opened;
  }

  std::vector<std::pair<std::string, std::string>> facts() const override {
    std::vector<std::pair<std::string, std::string>> facts;
    const auto& api = cuda::driver();
    facts.emplace_back(
        "driver", api.ok() ? "CUDA " + cuda::version_text((*api)->version) + ", " + (*api)->path
                           : api.status().message());
    const auto& nvrtc = cuda::Nvrtc::get();
    facts.emplace_back("compiler", nvrtc.ok() ? (*nvrtc)->identity() : nvrtc.status().message());
    if (nvrtc.ok()) facts.emplace_back("compiler library", (*nvrtc)->path());
    return facts;
  }

 private:
  static Result<std::unique_ptr<const CudaDevice>> make(const std::string& key) {
    if (key.rfind("sm_", 0) == 0) return CudaDevice::compile_only(key);
    const auto& api = cuda::driver();
    if (!api.ok()) return api.status();
    int count = 0;
    (*api)->cuDeviceGetCount(&count);
    const bool number = key.size() <= 4 && key.find_first_not_of("0123456789") == std::string::npos;
    const int ordinal = number ? std::stoi(key) : -1;
    if (ordinal < 0 || ordinal >= count) {
      return Status(StatusCode::kNotFound,
                    "device = \"cuda:" + key +
                        "\": must be cuda:0 to cuda:" + std::to_string(count - 1) +
                        ", or an architecture to compile for such as cuda:sm_90a");
    }
    return CudaDevice::open(**api, ordinal);
  }

  mutable std::mutex mutex_;
  mutable std::map<std::string, std::unique_ptr<const CudaDevice>> open_;
};

}  // namespace

const Backend* cuda_backend() {
  static const CudaBackend* const kBackend = new CudaBackend;
  return kBackend;
}

}  // namespace moejit::internal
