#include "tuner/session.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "tuner/candidates.h"
#include "tuner/compile_pool.h"
#include "tuner/decide.h"

namespace moejit::internal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kFinalists = 8;
constexpr double kFinalSeconds = 3;  // that rounds may take, unless the fewest take longer
// What disturbs a shared machine comes in bursts: rounds that all fall into one show nothing.
constexpr double kLeastFinalSeconds = 0.5;
constexpr int kBlockRounds = static_cast<int>(kBlock);
constexpr int kMinRounds = 2 * kBlockRounds, kMaxRounds = 1000;
// A launch shorter than this is preceded by one of another routing: the cache forgets, caches of
// code and sleeping workers wake. A longer one does so by itself.
constexpr double kShort_s = 5e-3;

class Session {
 public:
  Session(const SessionProblem& problem, Lab& lab, const Builder& build, TrialSink* sink,
          const SessionOptions& options)
      : problem_(problem),
        lab_(lab),
        build_(build),
        sink_(sink),
        options_(options),
        start_(Clock::now()) {}

  Result<SessionResult> run() {
    const auto ranked =
        rank_schedules(problem_.config, problem_.target, problem_.limits, problem_.rows);
    if (ranked.empty()) {
      return Status(StatusCode::kUnsupported,
                    "no kernel family supports this layer on " + problem_.device);
    }
    result_.floor_s =
        mean_floor(problem_.config, problem_.limits, problem_.rows, problem_.tokens).seconds;
    candidates_ = choose_candidates(problem_, ranked, options_, &result_.known_bad);
    if (candidates_.empty()) {
      return Status(StatusCode::kDeviceError,
                    "tokens = " + std::to_string(problem_.tokens) +
                        ": every candidate hung or crashed before; --force tries them again");
    }
    if (!report(TuneStage::kCompile, 0, "")) return stop();
    std::vector<Schedule> schedules;
    for (const Candidate& c : candidates_) schedules.push_back(c.schedule);
    // Lives as long as this run: what it has built is pointed to from the candidates.
    CompilePool pool(build_, std::move(schedules), options_.jobs, compile_until());
    // On the CPU, compilers would disturb the measurements.
    const auto go_on = [&](size_t done) { return report(TuneStage::kCompile, done, ""); };
    if (on_cpu() && !pool.wait_all(go_on)) return stop();
    if (const Status entered = lab_.enter({.tokens = problem_.tokens,
                                           .num_routings = static_cast<int>(problem_.rows.size()),
                                           .seed = 1,
                                           .check_operations = options_.check_operations});
        !entered.ok()) {
      if (entered.code() != StatusCode::kCancelled) return entered;
      result_.late = true;
      return result_;
    }
    if (!screen(pool)) return stop();
    if (!finals()) return stop();
    decide();
    return result_;
  }

 private:
  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  double seconds_left() const {
    if (!options_.deadline) return 1e9;
    return std::chrono::duration<double>(*options_.deadline - Clock::now()).count();
  }
  // Of the time that there is, two fifths may go into compiling.
  std::optional<Clock::time_point> compile_until() const {
    if (!options_.deadline) return std::nullopt;
    return start_ + (*options_.deadline - start_) * 2 / 5;
  }

  bool report(TuneStage stage, size_t done, const std::string& schedule) {
    if (!options_.progress) return true;
    TuneProgress p;
    p.tokens = problem_.tokens;
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
    if (c.built != nullptr) {
      t.digest = c.built->digest;
      t.toolchain = c.built->toolchain;
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

  // False: stop, without a choice.
  bool screen(CompilePool& pool) {
    std::vector<Candidate*> spilled;
    size_t done = 0;
    for (size_t i = 0; i < candidates_.size(); ++i) {
      Candidate& c = candidates_[i];
      ++done;
      const Result<BuiltKernel>* built = pool.get(i);
      if (built == nullptr) {
        ++result_.left_out;
        continue;
      }
      if (!built->ok()) {
        fail(&c, "compile_error", built->status().message());
        continue;
      }
      c.built = &built->value();
      if (c.built->spill_bytes > 0) {
        spilled.push_back(&c);
        continue;
      }
      if (!screen_one(&c, done)) return false;
    }
    // A kernel that spills is measured only when no other is left.
    const bool any_clean = result_.measured > 0;
    for (Candidate* c : spilled) {
      if (any_clean) {
        fail(c, "spill", std::to_string(c->built->spill_bytes) + " bytes of registers spilled");
      } else if (!screen_one(c, done)) {
        return false;
      }
    }
    return true;
  }

  bool screen_one(Candidate* c, size_t done) {
    if (best_ > 0 && seconds_left() <= 0) {
      ++result_.left_out;
      return true;
    }
    if (!report(TuneStage::kScreen, done, c->schedule.to_json())) return false;
    if (c->known != nullptr) {
      c->samples = c->known->seconds;
      c->error = c->known->error;
      accept(c);
      return true;
    }
    const auto checked = [&]() -> Result<CheckResult> {
      MOEJIT_RETURN_IF_ERROR(load(c));
      return lab_.check(c->kernel, c->predicted_s);
    }();
    if (!checked.ok()) return failed(c, checked.status());
    c->error = checked->error;
    if (!checked->problem.empty()) {
      fail(c, "wrong", checked->problem);
      return true;
    }
    // Enough samples to see 25 %, few where one takes long.
    auto first = lab_.measure(c->kernel, 1, 0, 2, c->predicted_s);
    if (!first.ok()) return failed(c, first.status());
    const double fast = *std::min_element(first->begin(), first->end());
    if (best_ == 0 || fast < 1.5 * best_) {
      const int more = std::clamp(static_cast<int>(0.05 / std::max(fast, 1e-7)), 1, 8);
      const auto rest = lab_.measure(c->kernel, 0, 2, more, fast);
      if (!rest.ok()) return failed(c, rest.status());
      first->insert(first->end(), rest->begin(), rest->end());
    }
    c->samples = *first;
    Trial t = trial(*c, "screen", "ok");
    t.timing = summarize(c->samples);
    if (sink_ != nullptr) sink_->on_trial(t);
    accept(c);
    return true;
  }

  Status load(Candidate* c) {
    if (c->kernel >= 0) return {};
    auto kernel = lab_.add(*c->built, c->schedule);
    if (!kernel.ok()) return kernel.status();
    c->kernel = *kernel;
    return {};
  }

  // True: go on with the others.
  bool failed(Candidate* c, const Status& status) {
    if (status.code() == StatusCode::kCancelled) {  // the clock's doing, not the candidate's
      ++result_.left_out;
      return true;
    }
    fail(c, failure_status(status), status.message());
    return true;
  }

  void accept(Candidate* c) {
    ++result_.measured;
    c->alive = true;
    const double seconds = screened(*c);
    if (best_ == 0 || seconds < best_) best_ = seconds;
  }

  // By a low quantile: few samples, of which the slow ones say how busy the machine was.
  static double screened(const Candidate& c) { return summarize(c.samples).p20_s; }

  std::vector<Candidate*> choose_finalists() {
    std::vector<Candidate*> list;
    for (Candidate& c : candidates_) {
      if (c.alive) list.push_back(&c);
    }
    std::stable_sort(list.begin(), list.end(), [](const Candidate* a, const Candidate* b) {
      return screened(*a) < screened(*b);
    });
    std::vector<Candidate*> chosen;
    for (Candidate* c : list) {
      const bool close = screened(*c) <= 1.25 * best_;
      // Default and incumbent are always there: a switch away from them is earned in the same run.
      if ((close && chosen.size() < kFinalists) || c->is_default || c->is_incumbent)
        chosen.push_back(c);
    }
    return chosen;
  }

  // False: stop, without a choice.
  bool finals() {
    finalists_ = choose_finalists();
    if (finalists_.empty()) return true;
    const auto round_cost = [&] {
      double sum = 0;
      for (const Candidate* c : finalists_) sum += screened(*c);
      return 2 * sum;  // with the launches before
    };
    int rounds = std::clamp(static_cast<int>(kFinalSeconds / std::max(round_cost(), 1e-6)),
                            kMinRounds, kMaxRounds);
    if (round_cost() * kMinRounds > seconds_left()) rounds = 0;  // screening has to do
    const double begin = elapsed();
    for (int round = 0; round < rounds && !finalists_.empty(); ++round) {
      if (round >= 3 && seconds_left() <= round_cost()) break;
      if (!report(TuneStage::kFinal,
                  static_cast<size_t>(round) * candidates_.size() / static_cast<size_t>(rounds),
                  finalists_[0]->schedule.to_json()))
        return false;
      if (!final_round(round)) break;
      if ((round + 1) % kBlockRounds != 0 || round + 1 < kMinRounds) continue;
      const double spent = elapsed() - begin;
      if (spent > kFinalSeconds) break;
      if (spent < kLeastFinalSeconds) continue;
      drop_the_beaten();
      if (is_clear(judged(), equal())) break;
    }
    // The same rounds for everybody; without enough of them, screening decides.
    size_t complete = finalists_.empty() ? 0 : finalists_[0]->finals.size();
    for (const Candidate* c : finalists_) complete = std::min(complete, c->finals.size());
    for (Candidate* c : finalists_) {
      c->finals.resize(complete);
      if (complete >= 3) record_final(*c);
    }
    return true;
  }

  // One launch of every finalist, all of the routing of this block, on weights that have left the
  // cache. Each begins where the one before left the device, so everybody is once the first. False:
  // out of time.
  bool final_round(int round) {
    const std::vector<Candidate*> all = finalists_;
    for (size_t k = 0; k < all.size(); ++k) {
      Candidate* c = all[(k + static_cast<size_t>(round)) % all.size()];
      Status status = load(c);
      if (status.ok()) {
        const double expected = screened(*c);
        const auto sample =
            lab_.measure(c->kernel, expected < kShort_s ? 1 : 0, round / kBlockRounds, 1, expected);
        if (sample.ok()) c->finals.push_back((*sample)[0]);
        status = sample.status();
      }
      if (status.ok()) continue;
      if (status.code() == StatusCode::kCancelled) return false;
      std::erase(finalists_, c);
      failed(c, status);
    }
    return true;
  }

  void record_final(const Candidate& c) {
    Trial t = trial(c, "final", "ok");
    t.timing = summarize(c.finals);
    if (sink_ != nullptr) sink_->on_trial(t);
  }

  // Whoever cannot win any more costs the others no further rounds.
  void drop_the_beaten() {
    const std::vector<Finalist> list = judged();
    const std::vector<bool> beaten = clearly_slower(list, equal());
    const std::vector<Candidate*> all = finalists_;
    for (size_t i = 0; i < all.size(); ++i) {
      if (!beaten[i] || all[i]->is_default || all[i]->is_incumbent) continue;
      record_final(*all[i]);
      std::erase(finalists_, all[i]);
    }
  }

  std::vector<Finalist> judged() const {
    std::vector<Finalist> list;
    for (const Candidate* c : finalists_)
      list.push_back({c->finals, c->is_incumbent, c->is_default, c->schedule.to_json(), c->distance,
                      c->is_steady});
    return list;
  }

  double equal() const {
    const size_t rounds = finalists_.empty() ? 0 : finalists_[0]->finals.size();
    return on_cpu() ? kEqual : equal_on_gpu(best_, std::max<size_t>(rounds, 1));
  }

  void decide() {
    if (finalists_.empty()) return;
    const bool measured = finalists_[0]->finals.size() >= 3;
    std::vector<Finalist> list = judged();
    const Candidate* fallback = nullptr;
    for (size_t i = 0; i < list.size(); ++i) {
      if (!measured) list[i].seconds = {screened(*finalists_[i])};
      if (finalists_[i]->is_default) fallback = finalists_[i];
    }
    const Candidate& winner = *finalists_[choose_winner(list, equal())];
    const auto timing = [&](const Candidate& c) {
      return summarize(measured ? c.finals : c.samples);
    };
    result_.found = true;
    result_.winner = trial(winner, measured ? "final" : "screen", "ok");
    result_.winner.timing = timing(winner);
    result_.model_rank = winner.rank;
    result_.predicted_s = winner.predicted_s;
    if (fallback != nullptr)
      result_.versus_default = timing(*fallback).median_s / timing(winner).median_s;
  }

  bool on_cpu() const {
    return problem_.target.backend == BackendKind::kCpu ||
           problem_.target.backend == BackendKind::kSim;
  }

  Result<SessionResult> stop() {
    result_.cancelled = true;
    return result_;
  }

  const SessionProblem& problem_;
  Lab& lab_;
  const Builder& build_;
  TrialSink* sink_;
  const SessionOptions& options_;
  const Clock::time_point start_;
  std::vector<Candidate> candidates_;
  std::vector<Candidate*> finalists_;
  double best_ = 0;
  SessionResult result_;
};

}  // namespace

int routings_for(int64_t tokens) {
  return tokens <= 64 ? 8 : tokens <= 512 ? 4 : 2;
}

Result<std::vector<double>> measure(const Device& device, const Module& module,
                                    const Workload& load, int warmup, int first, int samples,
                                    int copy) {
  for (int i = 0; i < warmup; ++i) {
    // Warm the code and the pool, not the weights of the samples that follow.
    MOEJIT_RETURN_IF_ERROR(module.launch(load.args(first + samples + i, copy + i), nullptr));
  }
  MOEJIT_RETURN_IF_ERROR(device.synchronize());
  return device.time(
      [&](int i, Stream stream) {
        return module.launch(load.args(first + i, copy + warmup + i), stream);
      },
      samples);
}

Result<SessionResult> tune_bucket(const SessionProblem& problem, Lab& lab, const Builder& build,
                                  TrialSink* sink, const SessionOptions& options) {
  return Session(problem, lab, build, sink, options).run();
}

}  // namespace moejit::internal
