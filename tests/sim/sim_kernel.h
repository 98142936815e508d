// Hand-made kernels on the simulator.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "generator/template_store.h"

namespace moejit::internal::test {

struct KernelShape {
  int32_t blocks = 1;
  int32_t threads = 32;
  int32_t shared_bytes = 0;
  int32_t cluster = 1;
};

// A device buffer with host access: the simulator's memory is the host's.
template <typename T>
class Buffer {
 public:
  Buffer(const Device* device, size_t count) : count_(count) {
    auto memory = device->allocate(count * sizeof(T));
    EXPECT_TRUE(memory.ok());
    memory_ = *memory;
  }
  T* data() const { return static_cast<T*>(memory_.get()); }
  T& operator[](size_t i) const { return data()[i]; }
  size_t size() const { return count_; }

 private:
  size_t count_;
  std::shared_ptr<void> memory_;
};

inline const Device* sim_device(const std::string& arch) {
  auto device = sim_backend()->open(arch);
  EXPECT_TRUE(device.ok()) << device.status().to_string();
  return device.ok() ? *device : nullptr;
}

// The primitives of sm_90 (or sm_80) and then `body`, as one source. Entries are named k0, k1, ...
inline KernelSource sim_source(const std::string& arch, const std::string& body,
                               const std::vector<KernelShape>& shapes) {
  KernelSource source;
  source.name = "test.cc";
  source.arch = arch;
  source.language = "sim";
  source.text =
      expand_templates({"abi.h", arch == "sm_80" ? "device/sim/sm80.h" : "device/sim/sm90.h"}) +
      "using namespace dev;\nusing moejit_abi::MoeArgs;\n" + body;
  for (size_t i = 0; i < shapes.size(); ++i) {
    Entry entry;
    entry.name = "k" + std::to_string(i);
    entry.grid.fixed = shapes[i].blocks;
    entry.threads = shapes[i].threads;
    entry.shared_bytes = shapes[i].shared_bytes;
    entry.cluster = shapes[i].cluster;
    source.entries.push_back(entry);
  }
  return source;
}

// Compiles and runs; the Status of the launch, or of what failed before.
inline Status run_sim(const KernelSource& source, MoeArgs args) {
  const Device* device = sim_device(source.arch);
  if (device == nullptr) return {StatusCode::kInternal, "no device"};
  auto binary = device->compile(source);
  if (!binary.ok()) {
    return {binary.status().code(), binary.status().message() + "\n" + binary.status().log()};
  }
  auto module = device->load(*binary, source);
  if (!module.ok()) return module.status();
  if (args.num_tokens == 0) args.num_tokens = 1;
  return (*module)->launch(args, nullptr);
}

// One entry.
inline Status run_sim(const std::string& arch, const std::string& body, const KernelShape& shape,
                      const MoeArgs& args) {
  return run_sim(sim_source(arch, body, {shape}), args);
}

}  // namespace moejit::internal::test
