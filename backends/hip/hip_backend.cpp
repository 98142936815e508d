// The HIP backend: devices of the runtime by number, architectures to compile for by name.
#include <map>
#include <mutex>

#include "backends/cpu/compiler_module.h"
#include "backends/hip/hip_device.h"
#include "backends/hip/hiprtc.h"

namespace moejit::internal {
namespace {

using hip::HipDevice;

class HipBackend : public Backend {
 public:
  const char* name() const override { return "hip"; }

  std::vector<DeviceListing> devices(std::string* why_none) const override {
    const auto& api = hip::runtime();
    if (!api.ok()) {
      if (why_none != nullptr) *why_none = api.status().message();
      return {};
    }
    int count = 0;
    (*api)->hipGetDeviceCount(&count);
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
    const auto& api = hip::runtime();
    facts.emplace_back("runtime", api.ok() ? std::to_string((*api)->version) + ", " + (*api)->path
                                           : api.status().message());
    const auto& hiprtc = hip::Hiprtc::get();
    facts.emplace_back("hiprtc", hiprtc.ok() ? (*hiprtc)->identity() + ", " + (*hiprtc)->path()
                                             : hiprtc.status().message());
    const auto clang = CompilerModule::get();
    facts.emplace_back("clang", clang.ok() ? (*clang)->identity() : clang.status().message());
    return facts;
  }

 private:
  static Result<std::unique_ptr<const HipDevice>> make(const std::string& key) {
    if (key.rfind("gfx", 0) == 0) return HipDevice::compile_only(key);
    const auto& api = hip::runtime();
    if (!api.ok()) return api.status();
    int count = 0;
    (*api)->hipGetDeviceCount(&count);
    const bool number = key.size() <= 4 && key.find_first_not_of("0123456789") == std::string::npos;
    const int ordinal = number ? std::stoi(key) : -1;
    if (ordinal < 0 || ordinal >= count) {
      return Status(StatusCode::kNotFound,
                    "device = \"hip:" + key +
                        "\": must be hip:0 to hip:" + std::to_string(count - 1) +
                        ", or an architecture to compile for such as hip:gfx942");
    }
    return HipDevice::open(**api, ordinal);
  }

  mutable std::mutex mutex_;
  mutable std::map<std::string, std::unique_ptr<const HipDevice>> open_;
};

}  // namespace

const Backend* hip_backend() {
  static const HipBackend* const kBackend = new HipBackend;
  return kBackend;
}

}  // namespace moejit::internal
