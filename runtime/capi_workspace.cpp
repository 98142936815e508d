// Workspace for callers that have no allocator of their own, or whose allocator keeps count of what
// is alive, as torch's does while it records a graph.
#include <memory>

#include "backends/backend.h"
#include "moejit/moejit_c.h"
#include "runtime/capi_guard.h"
#include "runtime/capi_handles.h"

struct moejit_workspace {
  std::shared_ptr<void> memory;
};

extern "C" {

moejit_status moejit_workspace_create(const moejit_kernel* kernel, size_t size,
                                      moejit_workspace** workspace) {
  return moejit::internal::guarded([&]() -> moejit::Status {
    MOEJIT_REQUIRE(workspace);
    *workspace = nullptr;
    MOEJIT_REQUIRE(kernel);
    auto device = moejit::internal::open_device(kernel->kernel.device());
    if (!device.ok()) return device.status();
    auto memory = (*device)->allocate(size);
    if (!memory.ok()) return memory.status();
    *workspace = new moejit_workspace{*std::move(memory)};
    return {};
  });
}

void* moejit_workspace_data(const moejit_workspace* workspace) {
  return workspace == nullptr ? nullptr : workspace->memory.get();
}

void moejit_workspace_destroy(moejit_workspace* workspace) {
  delete workspace;
}

}  // extern "C"
