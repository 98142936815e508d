// CudaDevice::time: all repeats go into one CUDA graph with an event between them, so that neither
// the host nor launch latency of separate graphs is in the figures.
#include "backends/cuda/cuda_device.h"

namespace moejit::internal::cuda {
namespace {

// Frees what a measurement made, whatever way it ends.
struct Resources {
  explicit Resources(const Driver& driver_api) : api(driver_api) {}
  ~Resources() {
    if (exec != nullptr) api.cuGraphExecDestroy(exec);
    if (graph != nullptr) api.cuGraphDestroy(graph);
    for (CUevent event : events) api.cuEventDestroy(event);
    if (stream != nullptr) api.cuStreamDestroy(stream);
  }
  const Driver& api;
  CUstream stream = nullptr;
  CUgraph graph = nullptr;
  CUgraphExec exec = nullptr;
  std::vector<CUevent> events;
};

}  // namespace

Result<std::vector<double>> CudaDevice::time(const std::function<Status(int, Stream)>& body,
                                             int repeats) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (repeats <= 0) return std::vector<double>();
  const Driver& api = *api_;
  ScopedContext scope(api, device_, primary_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  Resources r(api);
  const auto check = [&](CUresult result, const char* what) {
    return result == kSuccess ? Status() : failure(api, result, info_.name + ": " + what);
  };
  MOEJIT_RETURN_IF_ERROR(
      check(api.cuStreamCreate(&r.stream, kStreamNonBlocking), "creating a stream"));
  for (int i = 0; i <= repeats; ++i) {
    CUevent event = nullptr;
    MOEJIT_RETURN_IF_ERROR(check(api.cuEventCreate(&event, 0), "creating an event"));
    r.events.push_back(event);
  }
  // Outside a capture first: a failing launch is reported as such, and lazy set-up is over.
  MOEJIT_RETURN_IF_ERROR(body(0, r.stream));
  MOEJIT_RETURN_IF_ERROR(check(api.cuStreamSynchronize(r.stream), "running the kernel"));

  MOEJIT_RETURN_IF_ERROR(
      check(api.cuStreamBeginCapture(r.stream, kCaptureModeThreadLocal), "beginning a capture"));
  Status status = check(api.cuEventRecordWithFlags(r.events[0], r.stream, kEventRecordExternal),
                        "recording an event");
  for (int i = 0; i < repeats && status.ok(); ++i) {
    status = body(i, r.stream);
    if (status.ok()) {
      status = check(api.cuEventRecordWithFlags(r.events[static_cast<size_t>(i) + 1], r.stream,
                                                kEventRecordExternal),
                     "recording an event");
    }
  }
  const Status ended = check(api.cuStreamEndCapture(r.stream, &r.graph), "ending a capture");
  MOEJIT_RETURN_IF_ERROR(status);
  MOEJIT_RETURN_IF_ERROR(ended);
  MOEJIT_RETURN_IF_ERROR(
      check(api.cuGraphInstantiate(&r.exec, r.graph, 0), "instantiating a graph"));

  std::vector<double> seconds(static_cast<size_t>(repeats));
  double total = 0;
  // The first replay also uploads the graph; a short one is repeated with clocks up.
  for (int round = 0; round < (total > 0.2 ? 1 : 2); ++round) {
    MOEJIT_RETURN_IF_ERROR(check(api.cuGraphLaunch(r.exec, r.stream), "launching a graph"));
    MOEJIT_RETURN_IF_ERROR(check(api.cuStreamSynchronize(r.stream), "running the kernel"));
    total = 0;
    for (int i = 0; i < repeats; ++i) {
      float milliseconds = 0;
      MOEJIT_RETURN_IF_ERROR(
          check(api.cuEventElapsedTime(&milliseconds, r.events[static_cast<size_t>(i)],
                                       r.events[static_cast<size_t>(i) + 1]),
                "reading an event"));
      seconds[static_cast<size_t>(i)] = static_cast<double>(milliseconds) * 1e-3;
      total += seconds[static_cast<size_t>(i)];
    }
  }
  return seconds;
}

}  // namespace moejit::internal::cuda
