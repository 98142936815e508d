// A device that is host memory and an invented clock: enough to test the tuner without a compiler.
#pragma once

#include <cstdlib>
#include <cstring>

#include "backends/backend.h"

namespace moejit_test {

using namespace moejit;
using namespace moejit::internal;

class HostDevice : public Device {
 public:
  HostDevice() {
    info_.name = "host";
    info_.target.arch = "x86-64-v4";
    info_.identity = "{\"device\":\"host\"}";
  }
  const DeviceInfo& info() const override { return info_; }
  Result<std::string> compiler() const override { return std::string("none"); }
  Result<Binary> compile(const KernelSource&) const override {
    return Status(StatusCode::kUnavailable, "host: has no compiler");
  }
  Result<std::string> assembly(const KernelSource&) const override {
    return Status(StatusCode::kUnavailable, "host: has no compiler");
  }
  Result<std::shared_ptr<const Module>> load(const Binary&, const KernelSource&) const override {
    return Status(StatusCode::kUnavailable, "host: loads nothing");
  }
  Result<std::shared_ptr<void>> allocate(size_t bytes) const override {
    void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    return std::shared_ptr<void>(memory, std::free);
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
  // Time is what the launched modules say (see SlowModule in session_test.cpp).
  Result<std::vector<double>> time(const std::function<Status(int, Stream)>& body,
                                   int repeats) const override {
    std::vector<double> seconds;
    for (int i = 0; i < repeats; ++i) {
      clock_s_ = 0;
      MOEJIT_RETURN_IF_ERROR(body(i, nullptr));
      seconds.push_back(clock_s_);
    }
    return seconds;
  }
  void spend(double seconds) const { clock_s_ += seconds; }
  DeviceInfo& mutable_info() { return info_; }

 private:
  DeviceInfo info_;
  mutable double clock_s_ = 0;
};

}  // namespace moejit_test
