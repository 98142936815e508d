// The part of the CUDA driver API that the backend calls, declared here so that the project builds
// without a CUDA toolkit. Names and values are the driver's ABI (libcuda.so.1, CUDA 12 and 13).
#pragma once

#include <cstddef>
#include <cstdint>

namespace moejit::internal::cuda {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
struct CUctx_st;
struct CUmod_st;
struct CUfunc_st;
struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;
using CUcontext = CUctx_st*;
using CUmodule = CUmod_st*;
using CUfunction = CUfunc_st*;
using CUstream = CUstream_st*;
using CUevent = CUevent_st*;
using CUgraph = CUgraph_st*;
using CUgraphExec = CUgraphExec_st*;

// CUresult
constexpr CUresult kSuccess = 0;
constexpr CUresult kErrorInvalidValue = 1;
constexpr CUresult kErrorOutOfMemory = 2;
constexpr CUresult kErrorNotInitialized = 3;
constexpr CUresult kErrorNoDevice = 100;
constexpr CUresult kErrorInvalidImage = 200;
constexpr CUresult kErrorNoBinaryForGpu = 209;
constexpr CUresult kErrorInvalidPtx = 218;
constexpr CUresult kErrorIllegalAddress = 700;
constexpr CUresult kErrorLaunchOutOfResources = 701;
constexpr CUresult kErrorMisalignedAddress = 716;
constexpr CUresult kErrorLaunchFailed = 719;
constexpr CUresult kErrorSystemDriverMismatch = 803;
constexpr CUresult kErrorStreamCaptureImplicit = 906;

// CUdevice_attribute
constexpr int kAttrClockRate = 13;
constexpr int kAttrMultiprocessorCount = 16;
constexpr int kAttrMemoryClockRate = 36;
constexpr int kAttrMemoryBusWidth = 37;
constexpr int kAttrL2Bytes = 38;
constexpr int kAttrComputeMajor = 75;
constexpr int kAttrComputeMinor = 76;
constexpr int kAttrRegistersPerMultiprocessor = 82;
constexpr int kAttrPageableMemoryAccess = 88;
constexpr int kAttrSharedPerBlockOptin = 97;

// CUpointer_attribute
constexpr int kPointerMemoryType = 2;

// CUfunction_attribute
constexpr int kFuncMaxDynamicSharedBytes = 8;
constexpr int kFuncPreferredSharedCarveout = 9;

// CUlaunchAttributeID and its value
constexpr unsigned kLaunchClusterDimension = 4;
constexpr unsigned kLaunchProgrammaticSerialization = 6;
struct CUlaunchAttribute {
  unsigned id;
  char pad[4];
  union {
    char bytes[64];
    unsigned cluster[3];
    int programmatic;
  } value;
};
struct CUlaunchConfig {
  unsigned grid_x, grid_y, grid_z;
  unsigned block_x, block_y, block_z;
  unsigned shared_bytes;
  CUstream stream;
  CUlaunchAttribute* attrs;
  unsigned num_attrs;
};

struct alignas(64) CUtensorMap {
  uint64_t opaque[16];
};
constexpr int kTensorUint8 = 0;
constexpr int kTensorUint16 = 1;
constexpr int kTensorUint32 = 2;
constexpr int kTensorSwizzle128 = 3;
constexpr int kTensorL2Promotion128 = 2;

constexpr int kCaptureModeThreadLocal = 1;
constexpr int kCaptureModeRelaxed = 2;
constexpr unsigned kStreamNonBlocking = 1;
constexpr unsigned kEventRecordExternal = 1;

// One row per function: result name, exported symbol, parameters.
#define MOEJIT_CUDA_FUNCTIONS(F)                                                               \
  F(cuInit, "cuInit", (unsigned))                                                              \
  F(cuDriverGetVersion, "cuDriverGetVersion", (int*))                                          \
  F(cuGetErrorName, "cuGetErrorName", (CUresult, const char**))                                \
  F(cuGetErrorString, "cuGetErrorString", (CUresult, const char**))                            \
  F(cuDeviceGetCount, "cuDeviceGetCount", (int*))                                              \
  F(cuDeviceGet, "cuDeviceGet", (CUdevice*, int))                                              \
  F(cuDeviceGetName, "cuDeviceGetName", (char*, int, CUdevice))                                \
  F(cuDeviceGetAttribute, "cuDeviceGetAttribute", (int*, int, CUdevice))                       \
  F(cuDeviceTotalMem, "cuDeviceTotalMem_v2", (size_t*, CUdevice))                              \
  F(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", (CUcontext*, CUdevice))              \
  F(cuCtxGetCurrent, "cuCtxGetCurrent", (CUcontext*))                                          \
  F(cuCtxGetDevice, "cuCtxGetDevice", (CUdevice*))                                             \
  F(cuCtxPushCurrent, "cuCtxPushCurrent_v2", (CUcontext))                                      \
  F(cuCtxPopCurrent, "cuCtxPopCurrent_v2", (CUcontext*))                                       \
  F(cuCtxSynchronize, "cuCtxSynchronize", ())                                                  \
  F(cuMemAlloc, "cuMemAlloc_v2", (CUdeviceptr*, size_t))                                       \
  F(cuMemFree, "cuMemFree_v2", (CUdeviceptr))                                                  \
  F(cuMemcpyHtoD, "cuMemcpyHtoD_v2", (CUdeviceptr, const void*, size_t))                       \
  F(cuMemcpyDtoH, "cuMemcpyDtoH_v2", (void*, CUdeviceptr, size_t))                             \
  F(cuPointerGetAttribute, "cuPointerGetAttribute", (void*, int, CUdeviceptr))                 \
  F(cuModuleLoadData, "cuModuleLoadData", (CUmodule*, const void*))                            \
  F(cuModuleUnload, "cuModuleUnload", (CUmodule))                                              \
  F(cuModuleGetFunction, "cuModuleGetFunction", (CUfunction*, CUmodule, const char*))          \
  F(cuFuncSetAttribute, "cuFuncSetAttribute", (CUfunction, int, int))                          \
  F(cuLaunchKernelEx, "cuLaunchKernelEx", (const CUlaunchConfig*, CUfunction, void**, void**)) \
  F(cuTensorMapEncodeTiled, "cuTensorMapEncodeTiled",                                          \
    (CUtensorMap*, int, uint32_t, void*, const uint64_t*, const uint64_t*, const uint32_t*,    \
     const uint32_t*, int, int, int, int))                                                     \
  F(cuStreamCreate, "cuStreamCreate", (CUstream*, unsigned))                                   \
  F(cuStreamDestroy, "cuStreamDestroy_v2", (CUstream))                                         \
  F(cuStreamSynchronize, "cuStreamSynchronize", (CUstream))                                    \
  F(cuStreamIsCapturing, "cuStreamIsCapturing", (CUstream, int*))                              \
  F(cuStreamBeginCapture, "cuStreamBeginCapture_v2", (CUstream, int))                          \
  F(cuStreamEndCapture, "cuStreamEndCapture", (CUstream, CUgraph*))                            \
  F(cuThreadExchangeStreamCaptureMode, "cuThreadExchangeStreamCaptureMode", (int*))            \
  F(cuGraphInstantiate, "cuGraphInstantiateWithFlags",                                         \
    (CUgraphExec*, CUgraph, unsigned long long))                                               \
  F(cuGraphLaunch, "cuGraphLaunch", (CUgraphExec, CUstream))                                   \
  F(cuGraphExecDestroy, "cuGraphExecDestroy", (CUgraphExec))                                   \
  F(cuGraphDestroy, "cuGraphDestroy", (CUgraph))                                               \
  F(cuEventCreate, "cuEventCreate", (CUevent*, unsigned))                                      \
  F(cuEventDestroy, "cuEventDestroy_v2", (CUevent))                                            \
  F(cuEventRecordWithFlags, "cuEventRecordWithFlags", (CUevent, CUstream, unsigned))           \
  F(cuEventElapsedTime, "cuEventElapsedTime", (float*, CUevent, CUevent))

}  // namespace moejit::internal::cuda
