#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "base/hash.h"
#include "moejit/tuning.h"
#include "runtime/library.h"
#include "runtime/plan.h"
#include "tuner/limits.h"
#include "tuner/roofline.h"

namespace moejit {
inline namespace v1 {
namespace {

constexpr size_t kRunnersUp = 8;

// Of a policy's canonical JSON; of whatever else the cache holds, nothing.
std::string routing_of(const std::string& policy) {
  const auto json = nlohmann::json::parse(policy, nullptr, false);
  const bool known = json.is_object() && json.contains("routing") && json["routing"].is_string();
  return known ? json["routing"].get<std::string>() : "";
}

}  // namespace

Result<std::vector<Explanation>> explain(const MoeConfig& config, const Options& options,
                                         const std::vector<int64_t>& tokens) {
  MOEJIT_RETURN_IF_ERROR(config.check());
  auto device = internal::open_device(options.device, options.num_threads);
  if (!device.ok()) return device.status();
  const auto store = internal::open_store(options.cache_path);
  const internal::Target& target = (*device)->info().target;
  const std::vector<int64_t> wanted =
      tokens.empty() ? internal::default_token_ladder(options.max_tokens) : tokens;
  for (int64_t t : wanted) {
    if (t < 1) return invalid_argument("tokens: " + std::to_string(t) + " must be at least 1");
  }
  auto plan = internal::plan_buckets(config, **device, *store, wanted);
  if (!plan.ok()) return plan.status();
  const DeviceLimits limits = internal::known_limits(**device, *store, config.dtype);
  std::vector<Explanation> out;
  for (const internal::PlannedBucket& bucket : *plan) {
    Explanation e;
    e.tokens = bucket.tokens;
    e.device = (*device)->info().name;
    e.choice = bucket.info;
    e.limits = limits;
    e.level = bucket.level;
    // Families of other backends say nothing that a reader of this device wants to know.
    for (const internal::Family* family : internal::families()) {
      if (family->backend() != target.backend) continue;
      if (const auto why = family->why_not(config, target))
        e.refused.push_back(std::string(family->name()) + ": " + *why);
    }
    if (const internal::Family* family = internal::find_family(bucket.schedule.family)) {
      const internal::Digest digest =
          internal::source_digest(**device, family->emit(config, target, bucket.schedule));
      e.kernel = internal::to_hex(digest.data(), digest.size());
      e.key = bucket.key.empty() ? e.kernel : bucket.key;
    }
    // Measured ones first: of every routing under which this bucket was tuned, the best few.
    std::set<std::string> seen{bucket.info.schedule};
    internal::MeasurementKey key = internal::measurement_key(config, **device, bucket.tokens, "");
    for (const std::string& policy : store->policies(key)) {
      key.policy = policy;
      const std::string routing = routing_of(policy);
      std::set<std::string> of_routing;
      // Finals before screenings: they were measured side by side.
      const auto all = store->measurements(key);
      for (const bool final : {true, false}) {
        for (const internal::Measurement& m : all) {
          if ((m.stage == "final") != final || of_routing.size() >= kRunnersUp ||
              !of_routing.insert(m.schedule).second) {
            continue;
          }
          seen.insert(m.schedule);
          e.runners_up.push_back({.schedule = m.schedule,
                                  .predicted_s = m.predicted_s,
                                  .measured_s = m.median_s,
                                  .status = m.status + (m.note.empty() ? "" : ": " + m.note),
                                  .routing = routing});
        }
      }
    }
    for (const auto& ranked : internal::rank_schedules(
             config, target, limits, {internal::typical_rows(config, bucket.tokens)})) {
      if (e.runners_up.size() >= kRunnersUp) break;
      std::string text = ranked.schedule.to_json();
      if (!seen.insert(text).second) continue;
      e.runners_up.push_back({.schedule = std::move(text),
                              .predicted_s = ranked.predicted_s,
                              .measured_s = 0,
                              .status = "not measured"});
    }
    out.push_back(std::move(e));
  }
  return out;
}

Result<std::vector<GeneratedFile>> generate(const MoeConfig& config, const std::string& device_name,
                                            int64_t tokens, const std::string& schedule_json) {
  MOEJIT_RETURN_IF_ERROR(config.check());
  auto device = internal::open_device(device_name);
  if (!device.ok()) return device.status();
  const internal::Target& target = (*device)->info().target;
  internal::Schedule schedule;
  if (schedule_json.empty()) {
    auto plan = internal::plan_buckets(config, **device, *internal::open_store(""),
                                       {std::max<int64_t>(tokens, 1)});
    if (!plan.ok()) return plan.status();
    schedule = (*plan)[0].schedule;
  } else {
    auto parsed = internal::Schedule::from_json(schedule_json);
    if (!parsed.ok()) return parsed.status();
    schedule = *std::move(parsed);
  }
  const internal::Family* family = internal::find_family(schedule.family);
  if (family == nullptr)
    return Status(StatusCode::kNotFound,
                  "schedule family \"" + schedule.family + "\": no such kernel family");
  for (const internal::Param& param : family->params()) {
    if (!schedule.params.contains(param.name))
      return invalid_argument("schedule parameter " + param.name + ": is missing for family " +
                              schedule.family);
  }
  if (const auto why = family->why_not(config, target, schedule)) {
    return Status(StatusCode::kUnsupported, "schedule " + schedule.to_json() + ": " + *why);
  }
  const internal::KernelSource source = family->emit(config, target, schedule);
  const std::string stem = source.name.substr(0, source.name.rfind('.'));
  std::vector<GeneratedFile> files{{source.name, source.text}};
  auto assembly = (*device)->assembly(source);
  if (!assembly.ok()) return assembly.status();
  auto binary = (*device)->compile(source);
  if (!binary.ok()) return binary.status();
  files.push_back({stem + (target.backend == internal::BackendKind::kCuda ? ".ptx" : ".s"),
                   *std::move(assembly)});
  std::string entries;
  for (const internal::Entry& entry : source.entries)
    entries += (entries.empty() ? "\"" : ",\"") + entry.name + "\"";
  const auto number = [](const char* name, int64_t value) {
    return ",\n \"" + std::string(name) + "\": " + (value < 0 ? "null" : std::to_string(value));
  };
  files.push_back({stem + ".json",
                   "{\"config\": " + config.to_json() + ",\n \"schedule\": " + schedule.to_json() +
                       ",\n \"arch\": \"" + source.arch + "\",\n \"compiler\": \"" +
                       binary->compiler + "\",\n \"entries\": [" + entries + "]" +
                       number("binary_bytes", static_cast<int64_t>(binary->bytes.size())) +
                       number("registers", binary->registers) +
                       number("spill_bytes", binary->spill_bytes) +
                       number("shared_bytes", binary->shared_bytes) +
                       number("compile_us", static_cast<int64_t>(binary->compile_ms * 1000)) +
                       number("workspace_bytes_at_tokens",
                              internal::workspace_offset(source.workspace, source.workspace.size(),
                                                         std::max<int64_t>(tokens, 1))) +
                       "}\n"});
  if (!binary->log.empty()) files.push_back({stem + ".log", binary->log});
  return files;
}

}  // namespace v1
}  // namespace moejit
