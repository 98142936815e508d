// A HIP runtime whose device memory is the host's. It runs no kernel: launches are counted, and the
// count can be read through hipDeviceGetAttribute(1000).
#include <chrono>
#include <cstdlib>
#include <cstring>

namespace {
int g_device = 0;
int g_launches = 0;
int g_modules = 0;
bool g_capturing = false;
int g_handle;
constexpr int kDevices =
#ifdef FAKE_NO_DEVICE
    0;
#else
    2;
#endif
}  // namespace

extern "C" {
int hipInit(unsigned) {
  return kDevices == 0 ? 100 : 0;
}
int hipRuntimeGetVersion(int* version) {
  *version = 60443483;
  return 0;
}
const char* hipGetErrorName(int error) {
  return error == 209 ? "hipErrorNoBinaryForGpu" : error == 2 ? "hipErrorOutOfMemory" : "hipError";
}
const char* hipGetErrorString(int) {
  return "of the fake runtime";
}
int hipGetDeviceCount(int* count) {
  *count = kDevices;
  return 0;
}
int hipGetDevice(int* device) {
  *device = g_device;
  return 0;
}
int hipSetDevice(int device) {
  if (device < 0 || device >= kDevices) return 101;
  g_device = device;
  return 0;
}
// As ROCm 6 has it: a name first, the arch far behind.
int hipGetDevicePropertiesR0600(void* properties, int device) {
  auto* bytes = static_cast<char*>(properties);
  std::strcpy(bytes, device == 0 ? "AMD Instinct MI300X" : "AMD Radeon RX 6900 XT");
  std::strcpy(bytes + 1160, device == 0 ? "gfx942:sramecc+:xnack-" : "gfx1030");
  return 0;
}
int hipDeviceGetAttribute(int* value, int attribute, int) {
  *value = attribute == 63 ? 304 : attribute == 74 ? 65536 : attribute == 19 ? 4 << 20 : 0;
  if (attribute == 1000) *value = g_launches;
  if (attribute == 1001) *value = g_modules;
  return 0;
}
int hipDeviceTotalMem(size_t* bytes, int) {
  *bytes = size_t{192} << 30;
  return 0;
}
int hipDeviceSynchronize() {
  return 0;
}
int hipMalloc(void** pointer, size_t bytes) {
  if (bytes > size_t{1} << 40) return 2;
  *pointer = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  return *pointer == nullptr ? 2 : 0;
}
int hipFree(void* pointer) {
  std::free(pointer);
  return 0;
}
int hipMemcpy(void* to, const void* from, size_t bytes, int) {
  std::memcpy(to, from, bytes);
  return 0;
}
int hipModuleLoadData(void** module, const void*) {
  ++g_modules;
  *module = &g_handle;
  return 0;
}
int hipModuleUnload(void*) {
  --g_modules;
  return 0;
}
int hipModuleGetFunction(void** function, void*, const char*) {
  *function = &g_handle;
  return 0;
}
int hipModuleLaunchKernel(void*, unsigned blocks, unsigned, unsigned, unsigned threads, unsigned,
                          unsigned, unsigned shared, void*, void** parameters, void**) {
  if (blocks == 0 || threads == 0 || threads > 1024 || shared > 65536) return 1;
  if (parameters == nullptr || parameters[0] == nullptr) return 1;
  if (!g_capturing) ++g_launches;
  return 0;
}
int hipStreamCreateWithFlags(void** stream, unsigned) {
  *stream = &g_handle;
  return 0;
}
int hipStreamDestroy(void*) {
  return 0;
}
int hipStreamSynchronize(void*) {
  return 0;
}
int hipStreamIsCapturing(void*, int* capturing) {
  *capturing = g_capturing ? 1 : 0;
  return 0;
}
int hipStreamBeginCapture(void*, int) {
  g_capturing = true;
  return 0;
}
int hipStreamEndCapture(void*, void** graph) {
  g_capturing = false;
  *graph = &g_handle;
  return 0;
}
int hipGraphInstantiate(void** exec, void*, void**, char*, size_t) {
  *exec = &g_handle;
  return 0;
}
#ifndef FAKE_INCOMPLETE
int hipGraphLaunch(void*, void*) {
  return 0;
}
#endif
int hipGraphExecDestroy(void*) {
  return 0;
}
int hipGraphDestroy(void*) {
  return 0;
}
int hipEventCreateWithFlags(void** event, unsigned) {
  *event = &g_handle;
  return 0;
}
int hipEventDestroy(void*) {
  return 0;
}
int hipEventRecord(void*, void*) {
  return 0;
}
int hipEventElapsedTime(float* milliseconds, void*, void*) {
  *milliseconds = 0.25f;
  return 0;
}
}  // extern "C"
