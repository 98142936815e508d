// The interface of a device, the same for CPU, CUDA, HIP and the simulator.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "generator/kernel_source.h"
#include "generator/target.h"
#include "moejit/status.h"
#include "templates/abi.h"

namespace moejit::internal {

using moejit_abi::MoeArgs;
using Stream = void*;  // CUstream, hipStream_t; null on the CPU

// Compiled code, ready to be stored and loaded again in another process on the same arch.
struct Binary {
  std::string format;  // "elf-so" (CPU), "cubin", "hsaco"
  std::string arch;
  std::string compiler;  // name, version and digest of the compiler library
  std::vector<uint8_t> bytes;
  // What the compiler reported, worst entry; -1 where unknown.
  int32_t registers = -1;
  int32_t spill_bytes = -1;
  int32_t shared_bytes = -1;
  double compile_ms = 0;
  std::string log;
};

// A loaded binary. Launching is const and thread-safe.
class Module {
 public:
  virtual ~Module() = default;
  // Enqueues the entries that apply (When) in order. Allocates and synchronises nothing.
  virtual Status launch(const MoeArgs& args, Stream stream) const = 0;
};

struct DeviceInfo {
  std::string name;     // "cpu", "cuda:0", "sim:sm_90a"
  std::string product;  // for people only; drives nothing
  Target target;
  std::string identity;  // canonical JSON of the silicon facts and the driver; key of measurements
  std::string driver;    // part of identity, "" on the CPU
  int64_t memory_bytes = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;

  // Name, version and digest of the compiler, without compiling; kUnavailable with the package to
  // install where there is none.
  virtual Result<std::string> compiler() const = 0;
  // Thread-safe. kCompileError carries the compiler's log and the path of the dumped source.
  virtual Result<Binary> compile(const KernelSource& source) const = 0;
  // Human-readable assembly of what compile() makes (PTX and SASS report on a GPU).
  virtual Result<std::string> assembly(const KernelSource& source) const = 0;
  // Thread-safe. Checks format and arch against the device before anything is run.
  virtual Result<std::shared_ptr<const Module>> load(const Binary& binary,
                                                     const KernelSource& source) const = 0;

  // Memory for tuning, verification and tools; 256-byte aligned. The deleter frees it.
  virtual Result<std::shared_ptr<void>> allocate(size_t bytes) const = 0;
  virtual Status copy_in(void* device, const void* host, size_t bytes) const = 0;
  virtual Status copy_out(void* host, const void* device, size_t bytes) const = 0;
  virtual Status synchronize() const = 0;

  // Seconds that each of `repeats` runs of `body` took on the device (GPU: events around graph
  // replays of it; CPU: a monotonic clock). `body(i, stream)` only launches.
  virtual Result<std::vector<double>> time(const std::function<Status(int, Stream)>& body,
                                           int repeats) const = 0;
  // True while the given stream is being captured into a graph.
  virtual bool is_capturing(Stream) const { return false; }
  // kInvalidArgument, naming the field, where the device cannot reach the memory. Costs well under
  // a microsecond; says ok where it cannot know.
  virtual Status check_pointer(const char* /*field*/, const void* /*pointer*/) const { return {}; }
};

struct DeviceListing {
  std::string name;    // as open() takes it
  std::string detail;  // product, memory
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual const char* name() const = 0;  // "cpu"
  // Devices present now; where none, `why_none` is a sentence ("libcuda.so.1 not found").
  virtual std::vector<DeviceListing> devices(std::string* why_none) const = 0;
  // `spec` is what follows the colon ("0", "sm_90a"), maybe empty. The device lives for the
  // process.
  virtual Result<const Device*> open(const std::string& spec) const = 0;
  // Facts for `moejit doctor`: (what, value) pairs, e.g. compiler library, path, version.
  virtual std::vector<std::pair<std::string, std::string>> facts() const = 0;
};

const Backend* cpu_backend();
const Backend* cuda_backend();
const Backend* hip_backend();
const Backend* sim_backend();

// Every backend of this build, in the order in which "auto" prefers their devices.
const std::vector<const Backend*>& backends();
// "cpu", "cuda:0", "sim:sm_90a", "auto"; kNotFound lists what exists. num_threads as in Options.
Result<const Device*> open_device(const std::string& name, int num_threads = 0);

}  // namespace moejit::internal
