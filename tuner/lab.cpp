#include "tuner/lab.h"

#include <algorithm>

#include "tuner/session.h"

namespace moejit::internal {
namespace {

class LocalLab : public Lab {
 public:
  LocalLab(const Device& device, const MoeConfig& config, const RoutingSpec& routing)
      : device_(device), config_(config), routing_(routing) {}

  Status enter(const LabBucket& bucket) override {
    modules_.clear();
    load_.reset();
    if (weights_ == nullptr) {
      const Target& target = device_.info().target;
      // Cold weights: at least four times the last-level cache between two uses of the same bytes.
      auto weights = Weights::make(config_, device_, 4 * std::max(target.l2_bytes, target.l3_bytes),
                                   [this] { return late(); });
      if (!weights.ok()) return weights.status();
      weights_ = *weights;
    }
    auto load = Workload::make(weights_, device_, routing_, bucket.tokens, bucket.num_routings,
                               bucket.seed);
    if (!load.ok()) return load.status();
    load_ = *load;
    expected_ = expected_rows(*load_, 0, bucket.check_operations);
    return late() ? Status(StatusCode::kCancelled, "out of time while making inputs") : Status();
  }

  Result<int> add(const BuiltKernel& kernel, const Schedule&) override {
    std::shared_ptr<const Module> module = kernel.module;
    if (module == nullptr) {
      if (kernel.binary == nullptr)
        return invalid_argument("kernel: has neither module nor binary");
      auto loaded = device_.load(*kernel.binary, kernel.source);
      if (!loaded.ok()) return loaded.status();
      module = *loaded;
    }
    const auto& regions = kernel.source.workspace;
    MOEJIT_RETURN_IF_ERROR(load_->reserve_workspace(
        device_, workspace_offset(regions, regions.size(), load_->tokens())));
    modules_.push_back(std::move(module));
    return static_cast<int>(modules_.size()) - 1;
  }

  Result<CheckResult> check(int kernel, double) override {
    return check_module(device_, *modules_[static_cast<size_t>(kernel)], *load_, 0, expected_);
  }

  Result<std::vector<double>> measure(int kernel, int warmup, int first, int samples,
                                      double) override {
    const int copy = next_copy_;
    next_copy_ = (copy + warmup + samples) % load_->weights().copies();
    return internal::measure(device_, *modules_[static_cast<size_t>(kernel)], *load_, warmup, first,
                             samples, copy);
  }

 private:
  const Device& device_;
  const MoeConfig config_;
  const RoutingSpec routing_;
  std::shared_ptr<const Weights> weights_;
  std::shared_ptr<Workload> load_;
  std::vector<std::shared_ptr<const Module>> modules_;
  Expected expected_;
  int next_copy_ = 0;  // of the weights: the one that was read longest ago
};

}  // namespace

const char* failure_status(const Status& status) {
  return status.message().starts_with("hung") ? "timeout" : "fault";
}

std::unique_ptr<Lab> make_local_lab(const Device& device, const MoeConfig& config,
                                    const RoutingSpec& routing) {
  return std::make_unique<LocalLab>(device, config, routing);
}

}  // namespace moejit::internal
