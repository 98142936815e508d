#include "tuner/session.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <thread>

#include "tuner/check.h"
#include "tuner/random.h"
#include "tuner/roofline.h"

namespace moejit::internal {
namespace {

using Clock = std::chrono::steady_clock;

struct Candidate {
  Schedule schedule;
  double predicted_s = 0;
  int rank = 0;  // in the model's order, from 1
  bool is_default = false, is_incumbent = false;
  std::optional<Result<BuiltKernel>> built;
  std::vector<double> samples;  // screening
  std::vector<double> finals;
  double error = 0;
  bool alive = false;
};

void add_candidate(std::vector<Candidate>* list, const std::vector<RankedSchedule>& ranked,
                   const Schedule& schedule, bool is_default, bool is_incumbent) {
  for (Candidate& c : *list) {
    if (c.schedule == schedule) {
      c.is_default |= is_default;
      c.is_incumbent |= is_incumbent;
      return;
    }
  }
  for (size_t r = 0; r < ranked.size(); ++r) {
    if (ranked[r].schedule == schedule) {
      Candidate added;
      added.schedule = schedule;
      added.predicted_s = ranked[r].predicted_s;
      added.rank = static_cast<int>(r) + 1;
      added.is_default = is_default;
      added.is_incumbent = is_incumbent;
      list->push_back(std::move(added));
      return;
    }
  }
  // A seed that is no longer legal is dropped: it came from another version or device.
}

std::vector<Candidate> choose_candidates(const MoeConfig& config, const Target& target,
                                         const std::vector<RankedSchedule>& ranked, int64_t tokens,
                                         const SessionOptions& options) {
  std::vector<Candidate> list;
  const Family* first = find_family(ranked.front().schedule.family);
  add_candidate(&list, ranked, first->default_schedule(config, target, tokens), true, false);
  for (size_t i = 0; i < options.seeds.size(); ++i) {
    add_candidate(&list, ranked, options.seeds[i], false, i == 0);
  }
  const size_t limit =
      options.exhaustive ? ranked.size() : static_cast<size_t>(std::max(options.max_candidates, 1));
  // Two explorers that the model does not choose: its blind spots show when one of them wins.
  const size_t explorers = options.exhaustive || limit < 4 ? 0 : 2;
  for (const RankedSchedule& r : ranked) {
    if (list.size() + explorers >= limit) break;
    add_candidate(&list, ranked, r.schedule, false, false);
  }
  Random random(options.seed);
  for (size_t i = 0; i < explorers; ++i) {
    add_candidate(&list, ranked, ranked[random.below(ranked.size())].schedule, false, false);
  }
  return list;
}

void build_all(std::vector<Candidate>* list, const Builder& build, int jobs) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i; (i = next.fetch_add(1)) < list->size();) {
      (*list)[i].built = build((*list)[i].schedule);
    }
  };
  std::vector<std::thread> threads;
  const int count = std::min<int>(std::max(jobs, 1), static_cast<int>(list->size()));
  for (int i = 1; i < count; ++i) threads.emplace_back(work);
  work();
  for (std::thread& thread : threads) thread.join();
}

class Session {
 public:
  Session(const Device& device, Workload& load, const DeviceLimits& limits, const Builder& build,
          TrialSink* sink, const SessionOptions& options)
      : device_(device),
        load_(load),
        limits_(limits),
        build_(build),
        sink_(sink),
        options_(options),
        config_(load.weights().config()),
        start_(Clock::now()) {}

  Result<SessionResult> run() {
    const Target& target = device_.info().target;
    const auto rows = load_.row_counts();
    const auto ranked = rank_schedules(config_, target, limits_, rows);
    if (ranked.empty()) {
      return Status(StatusCode::kUnsupported,
                    "no kernel family supports this layer on " + device_.info().name);
    }
    result_.floor_s = mean_floor(config_, limits_, rows, load_.tokens()).seconds;
    candidates_ = choose_candidates(config_, target, ranked, load_.tokens(), options_);
    if (!report(TuneStage::kCompile, 0, "")) return stop();
    build_all(&candidates_, build_, options_.jobs);
    reject_spills();
    MOEJIT_RETURN_IF_ERROR(reserve());
    expected_ = expected_rows(load_, 0, 4e9);
    if (!screen()) return stop();
    if (!finals()) return stop();
    decide();
    return result_;
  }

 private:
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  bool out_of_budget() const { return options_.seconds > 0 && elapsed() > options_.seconds; }

  bool report(TuneStage stage, size_t done, const std::string& schedule) {
    if (!options_.progress) return true;
    TuneProgress p;
    p.tokens = load_.tokens();
    p.stage = stage;
    p.done = static_cast<int32_t>(done);
    p.total = static_cast<int32_t>(candidates_.size());
    p.failed = result_.failed;
    p.best_s = best_;
    p.best_share = best_ > 0 ? result_.floor_s / best_ : 0;
    p.elapsed_s = elapsed();
    p.schedule = schedule;
    return options_.progress(p);
  }

  Trial trial(const Candidate& c, const char* stage, const char* status) const {
    Trial t;
    t.schedule = c.schedule;
    if (c.built && c.built->ok()) {
      t.digest = (*c.built)->digest;
      t.toolchain = (*c.built)->toolchain;
    }
    t.stage = stage;
    t.status = status;
    t.predicted_s = c.predicted_s;
    t.floor_s = result_.floor_s;
    t.error = c.error;
    return t;
  }

  void fail(Candidate* c, const char* status, const std::string& note) {
    ++result_.failed;
    c->alive = false;
    Trial t = trial(*c, "screen", status);
    t.note = note;
    if (sink_ != nullptr) sink_->on_trial(t);
  }

  // A kernel that spills is measured only when every candidate does.
  void reject_spills() {
    bool any_clean = false;
    for (const Candidate& c : candidates_) {
      any_clean |= c.built->ok() && (*c.built)->spill_bytes <= 0;
    }
    for (Candidate& c : candidates_) {
      if (!c.built->ok()) {
        fail(&c, "compile_error", c.built->status().message());
      } else if (any_clean && (*c.built)->spill_bytes > 0) {
        fail(&c, "spill", std::to_string((*c.built)->spill_bytes) + " bytes of registers spilled");
      } else {
        c.alive = true;
      }
    }
  }

  Status reserve() {
    int64_t bytes = 256;
    for (const Candidate& c : candidates_) {
      if (!c.alive) continue;
      const auto& regions = (*c.built)->source.workspace;
      bytes = std::max(bytes, workspace_offset(regions, regions.size(), load_.tokens()));
    }
    return load_.reserve_workspace(device_, bytes);
  }

  bool screen() {
    size_t done = 0;
    for (Candidate& c : candidates_) {
      ++done;
      if (!c.alive) continue;
      if (out_of_budget() && best_ > 0) {
        c.alive = false;  // not measured, not failed
        continue;
      }
      if (!report(TuneStage::kScreen, done, c.schedule.to_json())) return false;
      const Module& module = *(*c.built)->module;
      const auto check = check_module(device_, module, load_, 0, expected_);
      if (!check.ok()) {
        fail(&c, "fault", check.status().message());
        continue;
      }
      c.error = check->error;
      if (!check->problem.empty()) {
        fail(&c, "wrong", check->problem);
        continue;
      }
      // Enough samples to see 25 %, few where one takes long.
      auto first = measure(device_, module, load_, 1, 0, 2);
      if (first.ok()) {
        const double fast = *std::min_element(first->begin(), first->end());
        if (best_ == 0 || fast < 1.5 * best_) {
          const int more = std::clamp(static_cast<int>(0.05 / std::max(fast, 1e-7)), 1, 8);
          const auto rest = measure(device_, module, load_, 0, 2, more);
          if (rest.ok()) first->insert(first->end(), rest->begin(), rest->end());
        }
      }
      if (!first.ok()) {
        fail(&c, "fault", first.status().message());
        continue;
      }
      c.samples = *first;
      ++result_.measured;
      Trial t = trial(c, "screen", "ok");
      t.timing = summarize(c.samples);
      if (best_ == 0 || t.timing.median_s < best_) best_ = t.timing.median_s;
      if (sink_ != nullptr) sink_->on_trial(t);
    }
    return true;
  }

  bool finals() {
    std::vector<Candidate*> list;
    for (Candidate& c : candidates_) {
      if (c.alive && !c.samples.empty()) list.push_back(&c);
    }
    std::sort(list.begin(), list.end(), [](const Candidate* a, const Candidate* b) {
      return summarize(a->samples).median_s < summarize(b->samples).median_s;
    });
    std::vector<Candidate*> chosen;
    for (Candidate* c : list) {
      const bool close = summarize(c->samples).median_s <= 1.25 * best_;
      // Default and incumbent are always there: a switch away from them is earned in the same run.
      if ((close && chosen.size() < 4) || c->is_default || c->is_incumbent) chosen.push_back(c);
    }
    if (chosen.empty()) return true;
    const double one_round = best_ * static_cast<double>(chosen.size());
    const int rounds = std::clamp(static_cast<int>(2.0 / std::max(one_round, 1e-6)), 5, 20);
    for (int round = 0; round < rounds; ++round) {
      if (!report(TuneStage::kFinal,
                  static_cast<size_t>(round) * candidates_.size() / static_cast<size_t>(rounds),
                  chosen[0]->schedule.to_json()))
        return false;
      if (round >= 3 && out_of_budget()) break;
      for (Candidate* c : chosen) {
        const auto sample = measure(device_, *(*c->built)->module, load_, 0, round, 1);
        if (sample.ok()) c->finals.push_back((*sample)[0]);
      }
    }
    for (Candidate* c : chosen) {
      if (c->finals.empty()) continue;
      Trial t = trial(*c, "final", "ok");
      t.timing = summarize(c->finals);
      if (sink_ != nullptr) sink_->on_trial(t);
      finalists_.push_back(c);
    }
    return true;
  }

  void decide() {
    if (finalists_.empty()) return;
    const auto median = [](const Candidate* c) { return summarize(c->finals).median_s; };
    const Candidate* best =
        *std::min_element(finalists_.begin(), finalists_.end(),
                          [&](auto* a, auto* b) { return median(a) < median(b); });
    const Candidate* fallback = nullptr;
    for (const Candidate* c : finalists_) {
      if (c->is_default) fallback = c;
    }
    // Inside the noise the answer must not depend on luck: the incumbent stays, else the schedule
    // that the model ranks first.
    const Candidate* winner = best;
    for (const Candidate* c : finalists_) {
      const double band =
          std::max(0.02, std::max(relative_noise(c->finals), relative_noise(best->finals)));
      if (median(c) > median(best) * (1 + std::min(band, 0.05))) continue;
      const auto order = [](const Candidate* x) { return std::pair(!x->is_incumbent, x->rank); };
      if (order(c) < order(winner)) winner = c;
    }
    result_.found = true;
    result_.winner = trial(*winner, "final", "ok");
    result_.winner.timing = summarize(winner->finals);
    result_.model_rank = winner->rank;
    result_.predicted_s = winner->predicted_s;
    if (fallback != nullptr) result_.versus_default = median(fallback) / median(winner);
  }

  Result<SessionResult> stop() {
    result_.cancelled = true;
    return result_;
  }

  const Device& device_;
  Workload& load_;
  const DeviceLimits& limits_;
  const Builder& build_;
  TrialSink* sink_;
  const SessionOptions& options_;
  const MoeConfig& config_;
  const Clock::time_point start_;
  std::vector<Candidate> candidates_;
  std::vector<Candidate*> finalists_;
  Expected expected_;
  double best_ = 0;
  SessionResult result_;
};

}  // namespace

int routings_for(int64_t tokens) {
  return tokens <= 64 ? 8 : tokens <= 512 ? 4 : 2;
}

Result<std::vector<double>> measure(const Device& device, const Module& module,
                                    const Workload& load, int warmup, int first, int samples) {
  for (int i = 0; i < warmup; ++i) {
    // Warm the code and the pool, not the weights of the samples that follow.
    MOEJIT_RETURN_IF_ERROR(module.launch(load.args(first + samples + i), nullptr));
  }
  MOEJIT_RETURN_IF_ERROR(device.synchronize());
  return device.time(
      [&](int i, Stream stream) { return module.launch(load.args(first + i), stream); }, samples);
}

Result<SessionResult> tune_bucket(const Device& device, Workload& load, const DeviceLimits& limits,
                                  const Builder& build, TrialSink* sink,
                                  const SessionOptions& options) {
  return Session(device, load, limits, build, sink, options).run();
}

}  // namespace moejit::internal
