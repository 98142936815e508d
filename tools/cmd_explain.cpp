#include <algorithm>

#include "base/json_util.h"
#include "moejit/tuning.h"
#include "tools/busy.h"
#include "tools/parse.h"
#include "tools/report.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

// {"schedule":{...},"predicted_s":1e-05,"measured_s":null,"status":"ok"}
std::string to_json(const ExplainCandidate& candidate) {
  const auto seconds = [](double value) {
    return value > 0 ? internal::json_number(value) : std::string("null");
  };
  return "{\"schedule\":" + (candidate.schedule.empty() ? "null" : candidate.schedule) +
         ",\"predicted_s\":" + seconds(candidate.predicted_s) +
         ",\"measured_s\":" + seconds(candidate.measured_s) +
         ",\"status\":" + internal::json_string(candidate.status) + ",\"routing\":" +
         (candidate.routing.empty() ? "null" : internal::json_string(candidate.routing)) + "}";
}

template <typename T, typename F>
std::string json_array(const std::vector<T>& values, F text) {
  std::string out = "[";
  for (const T& value : values) out += (out.size() > 1 ? "," : "") + text(value);
  return out + "]";
}

Table flat_table(const MoeConfig& config, const std::vector<Explanation>& explanations) {
  Table table({{"tokens", "tokens"},
               {"key", "key"},
               {"bucket_tokens", "bucket"},
               {"source", "source"},
               {"level", "level"},
               {"kernel", "kernel"},
               {"schedule", "schedule"},
               {"measured_s", "measured", Unit::kSeconds},
               {"predicted_s", "predicted", Unit::kSeconds},
               {"floor_s", "floor", Unit::kSeconds},
               {"reason", "reason"},
               {"runners_up", "runners-up"},
               {"refused", "refused"}});
  if (!explanations.empty()) {
    add_header(&table, config, explanations.front().device, explanations.front().limits);
  }
  for (const Explanation& e : explanations) {
    table.add(
        {e.tokens, e.key, e.choice.tokens, std::string(to_string(e.choice.source)), e.level,
         e.kernel, schedule_cell(e.choice.schedule),
         internal::known_if_positive(e.choice.measured_s),
         internal::known_if_positive(e.choice.predicted_s),
         internal::known_if_positive(e.choice.floor_s), e.choice.reason,
         internal::JsonText{json_array(e.runners_up, to_json), ""},
         internal::JsonText{
             json_array(e.refused, [](const std::string& s) { return internal::json_string(s); }),
             ""}});
  }
  return table;
}

Table block(const Explanation& e) {
  Table table({{"schedule", "runner-up"},
               {"predicted_s", "predicted", Unit::kSeconds},
               {"measured_s", "measured", Unit::kSeconds},
               {"routing", "routing"},
               {"status", "status"}});
  table.fact("tokens", "tokens", e.tokens);
  table.fact("key", "key", e.key);
  table.fact("kernel", "kernel", e.kernel);
  table.fact("level", "matched", e.level);
  table.fact("schedule", "schedule", schedule_cell(e.choice.schedule));
  table.fact("source", "source",
             std::string(to_string(e.choice.source)) + " (bucket of " +
                 std::to_string(e.choice.tokens) + " tokens)");
  table.fact("reason", "reason", e.choice.reason);
  table.fact("measured_s", "measured", internal::known_if_positive(e.choice.measured_s),
             Unit::kSeconds);
  table.fact("predicted_s", "predicted", internal::known_if_positive(e.choice.predicted_s),
             Unit::kSeconds);
  table.fact("floor_s", "floor", internal::known_if_positive(e.choice.floor_s), Unit::kSeconds);
  for (const std::string& reason : e.refused) table.fact("refused", "refused", reason);
  for (const ExplainCandidate& c : e.runners_up) {
    table.add({schedule_cell(c.schedule), internal::known_if_positive(c.predicted_s),
               internal::known_if_positive(c.measured_s),
               c.routing.empty() ? Cell() : Cell(c.routing), c.status});
  }
  return table;
}

class Explain : public Command {
  void declare(OptionSet& options) override {
    layer_.declare_one(options);
    device_.declare(options);
    options.value("-t,--tokens", "LIST", &tokens_,
                  "Token counts: 1,8,32 or 1:8192 (powers of two)");
    options.flag("--require", &require_, "Exit code 3 where a token count was not tuned");
  }

  ExitCode run(Context& context) override {
    auto config = layer_.resolve();
    if (!config.ok()) return context.fail(config.status());
    auto tokens = parse_tokens(tokens_);
    if (!tokens.ok()) return context.fail(tokens.status());
    if (const Status status = device_.check(*config); !status.ok()) return context.fail(status);
    Options options;
    options.device = device_.name();
    options.num_threads = device_.threads;
    options.cache_path = device_.cache_dir;
    options.max_tokens = std::max(options.max_tokens, tokens->back());
    auto explanations = while_busy(context, "ranking schedules",
                                   [&] { return explain(*config, options, *tokens); });
    if (!explanations.ok()) return context.fail(explanations.status());

    ExitCode printed = ExitCode::kOk;
    if (context.for_people()) {
      Table header(std::vector<Column>{});
      if (!explanations->empty()) {
        add_header(&header, *config, explanations->front().device, explanations->front().limits);
      }
      printed = context.print(header);
      for (const Explanation& e : *explanations) {
        if (printed == ExitCode::kOk) printed = context.print_text("\n");
        if (printed == ExitCode::kOk) printed = context.print(block(e));
      }
    } else {
      printed = context.print(flat_table(*config, *explanations));
    }
    const bool tuned = std::all_of(explanations->begin(), explanations->end(),
                                   [](const auto& e) { return e.choice.source == Source::kExact; });
    if (printed != ExitCode::kOk || tuned || !require_) return printed;
    return context.fail(
        Status(StatusCode::kNotFound,
               "some token counts were not tuned on this device; `moejit tune` does it"));
  }

  LayerSelector layer_;
  DeviceSelector device_;
  std::string tokens_ = "1,8,32,128";
  bool require_ = false;
};

}  // namespace

std::unique_ptr<Command> make_explain() {
  return std::make_unique<Explain>();
}

}  // namespace moejit::tools
