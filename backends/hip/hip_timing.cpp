// HipDevice::time: one graph per run with an event on either side, so that the host's launches are
// not in the figures. Events inside a graph, as CUDA has them, need a ROCm newer than those that
// this backend accepts.
#include "backends/hip/hip_device.h"

namespace moejit::internal::hip {
namespace {

// Frees what a measurement made, whatever way it ends.
struct Resources {
  explicit Resources(const Runtime& runtime) : api(runtime) {}
  ~Resources() {
    for (hipGraphExec_t exec : execs) api.hipGraphExecDestroy(exec);
    for (hipGraph_t graph : graphs) api.hipGraphDestroy(graph);
    for (hipEvent_t event : events) api.hipEventDestroy(event);
    if (stream != nullptr) api.hipStreamDestroy(stream);
  }
  Resources(const Resources&) = delete;
  Resources& operator=(const Resources&) = delete;
  const Runtime& api;
  hipStream_t stream = nullptr;
  std::vector<hipGraph_t> graphs;
  std::vector<hipGraphExec_t> execs;
  std::vector<hipEvent_t> events;
};

}  // namespace

Result<std::vector<double>> HipDevice::time(const std::function<Status(int, Stream)>& body,
                                            int repeats) const {
  MOEJIT_RETURN_IF_ERROR(need_device());
  if (repeats <= 0) return std::vector<double>();
  const Runtime& api = *api_;
  ScopedDevice scope(api, ordinal_);
  MOEJIT_RETURN_IF_ERROR(scope.status());
  Resources r(api);
  const auto check = [&](hipError_t result, const char* what) {
    return result == kSuccess ? Status() : failure(api, result, info_.name + ": " + what);
  };
  MOEJIT_RETURN_IF_ERROR(
      check(api.hipStreamCreateWithFlags(&r.stream, kStreamNonBlocking), "creating a stream"));
  for (int i = 0; i < 2 * repeats; ++i) {
    hipEvent_t event = nullptr;
    MOEJIT_RETURN_IF_ERROR(check(api.hipEventCreateWithFlags(&event, 0), "creating an event"));
    r.events.push_back(event);
  }
  // Outside a capture first: a failing launch is reported as such, and lazy set-up is over.
  MOEJIT_RETURN_IF_ERROR(body(0, r.stream));
  MOEJIT_RETURN_IF_ERROR(check(api.hipStreamSynchronize(r.stream), "running the kernel"));
  for (int i = 0; i < repeats; ++i) {
    MOEJIT_RETURN_IF_ERROR(
        check(api.hipStreamBeginCapture(r.stream, kCaptureModeThreadLocal), "beginning a capture"));
    const Status launched = body(i, r.stream);
    hipGraph_t graph = nullptr;
    const Status ended = check(api.hipStreamEndCapture(r.stream, &graph), "ending a capture");
    if (graph != nullptr) r.graphs.push_back(graph);
    MOEJIT_RETURN_IF_ERROR(launched);
    MOEJIT_RETURN_IF_ERROR(ended);
    hipGraphExec_t exec = nullptr;
    MOEJIT_RETURN_IF_ERROR(
        check(api.hipGraphInstantiate(&exec, graph, nullptr, nullptr, 0), "instantiating a graph"));
    r.execs.push_back(exec);
  }
  std::vector<double> seconds(static_cast<size_t>(repeats));
  // The first round also uploads the graphs and brings the clocks up.
  for (int round = 0; round < 2; ++round) {
    for (size_t i = 0; i < seconds.size(); ++i) {
      MOEJIT_RETURN_IF_ERROR(check(api.hipEventRecord(r.events[2 * i], r.stream), "an event"));
      MOEJIT_RETURN_IF_ERROR(check(api.hipGraphLaunch(r.execs[i], r.stream), "launching a graph"));
      MOEJIT_RETURN_IF_ERROR(check(api.hipEventRecord(r.events[2 * i + 1], r.stream), "an event"));
    }
    MOEJIT_RETURN_IF_ERROR(check(api.hipStreamSynchronize(r.stream), "running the kernel"));
  }
  for (size_t i = 0; i < seconds.size(); ++i) {
    float milliseconds = 0;
    MOEJIT_RETURN_IF_ERROR(
        check(api.hipEventElapsedTime(&milliseconds, r.events[2 * i], r.events[2 * i + 1]),
              "reading an event"));
    seconds[i] = static_cast<double>(milliseconds) * 1e-3;
  }
  return seconds;
}

}  // namespace moejit::internal::hip
