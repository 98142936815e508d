// The tuning protocol against modules whose answers are right or wrong and whose times are
// invented.
#include "tuner/session.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/generators/small_types.h"
#include "tests/reference/moe_reference.h"
#include "tests/tuner/host_device.h"

namespace moejit_test {
namespace {

MoeConfig layer() {
  return {.num_experts = 4,
          .top_k = 2,
          .hidden_size = 64,
          .intermediate_size = 32,
          .dtype = DType::kF32};
}

enum class Fault { kNone, kWrong, kUnwritten, kChanging, kError };

// Computes the layer with the reference and spends an invented time.
class InventedModule : public Module {
 public:
  InventedModule(const HostDevice& device, double seconds, Fault fault)
      : device_(device), seconds_(seconds), fault_(fault) {}

  Status launch(const MoeArgs& args, Stream) const override {
    device_.spend(seconds_);
    if (fault_ == Fault::kError) return {StatusCode::kDeviceError, "invented failure"};
    const MoeConfig c = layer();
    const auto size = [](int64_t n) { return static_cast<size_t>(n); };
    moejit_reference::Tensors in;
    in.x = load(c.dtype, args.x, size(args.num_tokens * c.hidden_size));
    in.w13 = load(c.dtype, args.w13, size(c.num_experts * c.w13_rows() * c.hidden_size));
    in.w2 =
        load(c.dtype, args.w2, size(int64_t{c.num_experts} * c.hidden_size * c.intermediate_size));
    const std::vector<int32_t> ids(args.topk_ids, args.topk_ids + args.num_tokens * c.top_k);
    const std::vector<double> weights(args.topk_weights, args.topk_weights + ids.size());
    auto out = moejit_reference::layer(c, args.num_tokens, in, ids, weights);
    if (fault_ == Fault::kWrong) out[3] += 1;
    if (fault_ == Fault::kChanging) out[5] *= 1 + 1e-6 * ++launches_;
    if (fault_ == Fault::kUnwritten) out.pop_back();
    store(c.dtype, out, args.out);
    return {};
  }

 private:
  const HostDevice& device_;
  const double seconds_;
  const Fault fault_;
  mutable int launches_ = 0;
};

class RecordingSink : public TrialSink {
 public:
  void on_trial(const Trial& trial) override { trials.push_back(trial); }
  int count(const std::string& status) const {
    int n = 0;
    for (const Trial& t : trials) n += t.status == status;
    return n;
  }
  std::vector<Trial> trials;
};

class SessionTest : public testing::Test {
 protected:
  SessionTest() {
    limits_ = {.read_bytes_per_s = 1e10,
               .dot_flops_per_s = 1e11,
               .vector_flops_per_s = 1e11,
               .launch_s = 1e-6,
               .measured = true};
    space_ = legal_schedules(layer(), device_.info().target);
  }

  // Schedules by place in the canonical order of the space.
  double seconds(const Schedule& s) const {
    const auto it = seconds_.find(s.to_json());
    return it == seconds_.end() ? 1e-3 : it->second;
  }
  Builder builder() {
    return [this](const Schedule& s) -> Result<BuiltKernel> {
      ++builds_;
      if (broken_.contains(s.to_json()))
        return Status(StatusCode::kCompileError, "invented compile error");
      BuiltKernel built;
      const auto fault = faults_.find(s.to_json());
      built.module = std::make_shared<InventedModule>(
          device_, seconds(s), fault == faults_.end() ? Fault::kNone : fault->second);
      if (const auto it = spills_.find(s.to_json()); it != spills_.end())
        built.spill_bytes = it->second;
      return built;
    };
  }
  SessionProblem problem() const {
    SessionProblem p{.config = layer(),
                     .target = device_.info().target,
                     .device = "host",
                     .tokens = 8,
                     .rows = {},
                     .limits = limits_};
    for (uint64_t i = 0; i < 3; ++i)
      p.rows.push_back(draw_routing(RoutingSpec{}, layer(), 8, 1 + i).rows);
    return p;
  }
  SessionResult tune(SessionOptions options = {}) {
    const auto lab = make_local_lab(device_, layer(), RoutingSpec{});
    auto result = tune_bucket(problem(), *lab, builder(), &sink_, options);
    EXPECT_TRUE(result.ok()) << result.status().message();
    return result.ok() ? *result : SessionResult{};
  }

  HostDevice device_;
  DeviceLimits limits_;
  std::vector<Schedule> space_;
  std::map<std::string, double> seconds_;
  std::map<std::string, Fault> faults_;
  std::map<std::string, int> spills_;
  std::set<std::string> broken_;
  RecordingSink sink_;
  std::atomic<int> builds_{0};
};

TEST_F(SessionTest, ExhaustiveRunFindsTheFastest) {
  ASSERT_GE(space_.size(), 6u);
  const Schedule fallback =
      find_family(space_[0].family)->default_schedule(layer(), device_.info().target, 8);
  const Schedule fast = space_.back() == fallback ? space_.front() : space_.back();
  seconds_[fast.to_json()] = 0.5e-3;
  const SessionResult r = tune({.exhaustive = true});
  ASSERT_TRUE(r.found);
  EXPECT_EQ(r.winner.schedule, fast);
  EXPECT_EQ(r.measured, static_cast<int>(space_.size()));
  EXPECT_NEAR(r.versus_default, 2.0, 1e-9);
  EXPECT_GE(r.model_rank, 1);
}

TEST_F(SessionTest, MeasuresNoMoreCandidatesThanAsked) {
  const SessionResult r = tune({.max_candidates = 5});
  EXPECT_LE(r.measured, 5);
  EXPECT_LE(builds_, 5);
}

TEST_F(SessionTest, EqualTimesGoToTheSameScheduleEveryTime) {
  const SessionResult first = tune();
  const SessionResult second = tune({.seed = 99});
  EXPECT_EQ(first.winner.schedule, second.winner.schedule);
  EXPECT_EQ(first.model_rank, second.model_rank);
}

TEST_F(SessionTest, InsideTheNoiseTheIncumbentStays) {
  const Schedule incumbent = space_.back();
  for (const Schedule& s : space_) seconds_[s.to_json()] = 1e-3;
  seconds_[incumbent.to_json()] = 1.005e-3;
  EXPECT_EQ(tune({.incumbent = incumbent}).winner.schedule, incumbent);
}

TEST_F(SessionTest, ClearlySlowerIncumbentGoes) {
  const Schedule incumbent = space_.back();
  for (const Schedule& s : space_) seconds_[s.to_json()] = 1e-3;
  seconds_[incumbent.to_json()] = 1.2e-3;
  EXPECT_NE(tune({.incumbent = incumbent}).winner.schedule, incumbent);
}

TEST_F(SessionTest, FastButWrongNeverWins) {
  for (const Fault fault : {Fault::kWrong, Fault::kUnwritten, Fault::kChanging, Fault::kError}) {
    const std::string bad = space_[1].to_json();
    seconds_ = {{bad, 1e-6}};
    faults_ = {{bad, fault}};
    sink_.trials.clear();
    const SessionResult r = tune({.exhaustive = true});
    ASSERT_TRUE(r.found);
    EXPECT_NE(r.winner.schedule, space_[1]) << static_cast<int>(fault);
    EXPECT_EQ(r.failed, 1);
    EXPECT_EQ(sink_.count(fault == Fault::kError ? "fault" : "wrong"), 1);
  }
}

TEST_F(SessionTest, AllWrongFindsNothing) {
  for (const Schedule& s : space_) faults_[s.to_json()] = Fault::kWrong;
  const SessionResult r = tune({.exhaustive = true});
  EXPECT_FALSE(r.found);
  EXPECT_EQ(r.failed, static_cast<int>(space_.size()));
}

TEST_F(SessionTest, CompileErrorsAreRecordedAndSkipped) {
  broken_.insert(space_[0].to_json());
  const SessionResult r = tune({.exhaustive = true});
  EXPECT_TRUE(r.found);
  EXPECT_NE(r.winner.schedule, space_[0]);
  EXPECT_EQ(sink_.count("compile_error"), 1);
}

TEST_F(SessionTest, SpillingKernelsAreLeftOutUnlessAllSpill) {
  const std::string fast = space_[2].to_json();
  seconds_[fast] = 1e-5;
  spills_[fast] = 64;
  EXPECT_NE(tune({.exhaustive = true}).winner.schedule, space_[2]);
  EXPECT_EQ(sink_.count("spill"), 1);
  for (const Schedule& s : space_) spills_[s.to_json()] = 64;
  EXPECT_EQ(tune({.exhaustive = true}).winner.schedule, space_[2]);
}

TEST_F(SessionTest, StopFromProgressKeepsWhatWasMeasured) {
  int calls = 0;
  SessionOptions options{.exhaustive = true};
  options.progress = [&](const TuneProgress& p) {
    return p.stage != TuneStage::kScreen || ++calls < 4;
  };
  const SessionResult r = tune(options);
  EXPECT_TRUE(r.cancelled);
  EXPECT_FALSE(r.found);
  EXPECT_EQ(sink_.count("ok"), 3);
}

TEST_F(SessionTest, FinalsIncludeTheDefaultEvenWhenSlow) {
  const Schedule fallback =
      find_family(space_[0].family)->default_schedule(layer(), device_.info().target, 8);
  seconds_[fallback.to_json()] = 5e-3;
  const SessionResult r = tune({.exhaustive = true});
  EXPECT_NEAR(r.versus_default, 5.0, 1e-9);
}

TEST_F(SessionTest, IllegalSeedsAreDropped) {
  Schedule foreign{.family = "no_such_family", .params = {{"a", 1}}};
  EXPECT_TRUE(tune({.seeds = {foreign}}).found);
}

TEST_F(SessionTest, WhatHungBeforeIsNotTriedAgain) {
  const Schedule bad = space_[1];
  SessionOptions options{.exhaustive = true};
  options.known = {{.schedule = bad, .status = "timeout", .seconds = {}}};
  const SessionResult r = tune(options);
  EXPECT_EQ(r.known_bad, 1);
  EXPECT_EQ(builds_, static_cast<int>(space_.size()) - 1);
  for (const Trial& t : sink_.trials) EXPECT_NE(t.schedule, bad);
}

TEST_F(SessionTest, WhatWasScreenedBeforeIsNotScreenedAgainAndMeetsTheOthersInTheFinals) {
  const Schedule fast = space_.back();
  seconds_[fast.to_json()] = 0.5e-3;
  SessionOptions options{.exhaustive = true};
  options.known = {{.schedule = fast, .status = "ok", .seconds = {0.4e-3}, .error = 1e-7}};
  const SessionResult r = tune(options);
  EXPECT_EQ(r.winner.schedule, fast);
  EXPECT_NEAR(r.winner.timing.median_s, 0.5e-3, 1e-9);  // of the finals, not of long ago
  EXPECT_EQ(r.measured, static_cast<int>(space_.size()));
  int screened = 0;
  for (const Trial& t : sink_.trials) screened += t.stage == "screen" && t.schedule == fast;
  EXPECT_EQ(screened, 0);
}

TEST_F(SessionTest, PastTheDeadlineOneCandidateIsMeasuredAndTheOthersAreLeftOut) {
  SessionOptions options{.exhaustive = true};
  options.deadline = std::chrono::steady_clock::now();
  const SessionResult r = tune(options);
  EXPECT_TRUE(r.found);
  EXPECT_EQ(r.measured, 1);
  EXPECT_EQ(r.left_out, static_cast<int>(space_.size()) - 1);
  EXPECT_EQ(r.winner.stage, "screen");
}

}  // namespace
}  // namespace moejit_test
