// What a Kernel handle points to. Immutable after get_kernel.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "moejit/moejit.h"
#include "runtime/library.h"

namespace moejit::internal {

struct LaunchPlan {
  int64_t tokens = 0;  // the bucket
  int64_t upper = 0;   // serves token counts up to here
  std::shared_ptr<const Module> module;
  std::vector<WorkspaceRegion> regions;
  int64_t smaller_workspace = 0;  // most that any smaller token count needs
  BucketInfo info;
};

}  // namespace moejit::internal

namespace moejit {
inline namespace v1 {

struct Kernel::State {
  MoeConfig config;
  const internal::Device* device = nullptr;
  std::string device_name;
  int64_t max_tokens = 0;
  // Where pointers lie is asked on a handle's first good launch only: whoever passes host pointers
  // to a GPU does so from the start.
  mutable std::atomic<bool> pointers_checked{false};
  std::vector<internal::LaunchPlan> plans;  // ascending by `upper`; the last one's is max_tokens

  const internal::LaunchPlan& plan_for(int64_t tokens) const;
};

}  // namespace v1
}  // namespace moejit
