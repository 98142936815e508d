// What a Kernel handle points to. Immutable after get_kernel but for the table of plans, which
// background tuning may replace as a whole.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "generator/packed_layout.h"
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

// Bytes of workspace of a launch, ids and weights of a routed one included.
int64_t plan_workspace(const MoeConfig& config, const LaunchPlan& plan, int64_t tokens);

}  // namespace moejit::internal

namespace moejit {
inline namespace v1 {

struct Kernel::State {
  MoeConfig config;
  const internal::Device* device = nullptr;
  std::string device_name;
  internal::WeightElements weights;
  int64_t max_tokens = 0;
  // Where pointers lie is asked on a handle's first good launch only: whoever passes host pointers
  // to a GPU does so from the start.
  mutable std::atomic<bool> pointers_checked{false};
  Options options;  // that get_kernel was given

  // Ascending by `upper`; the last one's is max_tokens. Valid as long as the state: a launch takes
  // no lock and a captured graph keeps its code.
  using Plans = std::vector<internal::LaunchPlan>;
  const Plans& plans() const { return *plans_.load(std::memory_order_acquire); }
  const internal::LaunchPlan& plan_for(int64_t tokens) const;

  // Launches that begin from now on follow `plans`.
  void publish(std::unique_ptr<const Plans> plans) const;
  // Bytes by the plans of get_kernel, whatever replaced them: callers have allocated so much.
  int64_t promised_workspace(int64_t tokens) const;

 private:
  mutable std::atomic<const Plans*> plans_{nullptr};
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<const Plans>> all_;  // the first is get_kernel's
};

}  // namespace v1
}  // namespace moejit
