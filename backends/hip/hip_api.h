// The part of the HIP runtime that the backend calls, declared here so that the project builds
// without ROCm. Names and values are those of libamdhip64 from ROCm 5 to 7.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moejit::internal::hip {

using hipError_t = int;
struct ihipModule_t;
struct ihipModuleSymbol_t;
struct ihipStream_t;
struct ihipEvent_t;
struct ihipGraph;
struct hipGraphExec;
using hipModule_t = ihipModule_t*;
using hipFunction_t = ihipModuleSymbol_t*;
using hipStream_t = ihipStream_t*;
using hipEvent_t = ihipEvent_t*;
using hipGraph_t = ihipGraph*;
using hipGraphExec_t = hipGraphExec*;

// hipError_t
constexpr hipError_t kSuccess = 0;
constexpr hipError_t kErrorOutOfMemory = 2;
constexpr hipError_t kErrorNoDevice = 100;
constexpr hipError_t kErrorInvalidDevice = 101;  // what ROCm 5.2 says where there is no /dev/kfd
constexpr hipError_t kErrorInvalidImage = 200;
constexpr hipError_t kErrorNoBinaryForGpu = 209;
constexpr hipError_t kErrorIllegalAddress = 700;
constexpr hipError_t kErrorLaunchOutOfResources = 701;
constexpr hipError_t kErrorLaunchFailure = 719;

// hipDeviceAttribute_t
constexpr int kAttrClockRate = 5;
constexpr int kAttrL2Bytes = 19;
constexpr int kAttrMemoryBusWidth = 59;
constexpr int kAttrMemoryClockRate = 60;
constexpr int kAttrMultiprocessorCount = 63;
constexpr int kAttrSharedPerBlock = 74;

constexpr int kCopyHostToDevice = 1;
constexpr int kCopyDeviceToHost = 2;
constexpr int kCaptureModeThreadLocal = 1;
constexpr unsigned kStreamNonBlocking = 1;

// One row per function: name and parameters; all return hipError_t. hipGetErrorName and
// hipGetErrorString return text and have rows of their own in runtime.h.
#define MOEJIT_HIP_FUNCTIONS(F)                                                              \
  F(hipInit, (unsigned))                                                                     \
  F(hipRuntimeGetVersion, (int*))                                                            \
  F(hipGetDeviceCount, (int*))                                                               \
  F(hipGetDevice, (int*))                                                                    \
  F(hipSetDevice, (int))                                                                     \
  F(hipDeviceGetAttribute, (int*, int, int))                                                 \
  F(hipDeviceTotalMem, (size_t*, int))                                                       \
  F(hipDeviceSynchronize, ())                                                                \
  F(hipMalloc, (void**, size_t))                                                             \
  F(hipFree, (void*))                                                                        \
  F(hipMemcpy, (void*, const void*, size_t, int))                                            \
  F(hipModuleLoadData, (hipModule_t*, const void*))                                          \
  F(hipModuleUnload, (hipModule_t))                                                          \
  F(hipModuleGetFunction, (hipFunction_t*, hipModule_t, const char*))                        \
  F(hipModuleLaunchKernel, (hipFunction_t, unsigned, unsigned, unsigned, unsigned, unsigned, \
                            unsigned, unsigned, hipStream_t, void**, void**))                \
  F(hipStreamCreateWithFlags, (hipStream_t*, unsigned))                                      \
  F(hipStreamDestroy, (hipStream_t))                                                         \
  F(hipStreamSynchronize, (hipStream_t))                                                     \
  F(hipStreamIsCapturing, (hipStream_t, int*))                                               \
  F(hipStreamBeginCapture, (hipStream_t, int))                                               \
  F(hipStreamEndCapture, (hipStream_t, hipGraph_t*))                                         \
  F(hipGraphInstantiate, (hipGraphExec_t*, hipGraph_t, void**, char*, size_t))               \
  F(hipGraphLaunch, (hipGraphExec_t, hipStream_t))                                           \
  F(hipGraphExecDestroy, (hipGraphExec_t))                                                   \
  F(hipGraphDestroy, (hipGraph_t))                                                           \
  F(hipEventCreateWithFlags, (hipEvent_t*, unsigned))                                        \
  F(hipEventDestroy, (hipEvent_t))                                                           \
  F(hipEventRecord, (hipEvent_t, hipStream_t))                                               \
  F(hipEventElapsedTime, (float*, hipEvent_t, hipEvent_t))

}  // namespace moejit::internal::hip
