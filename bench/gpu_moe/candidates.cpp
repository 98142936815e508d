#include "candidates.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <thread>

#include "tuner/random.h"
#include "tuner/roofline.h"

namespace moejit::gpu_bench {

void compile_all(const Device& device, const MoeConfig& config, std::vector<Built>* list,
                 std::map<std::string, Binary>* known) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1u, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < list->size();) {
        Built& b = (*list)[i];
        b.source = b.family->emit(config, device.info().target, b.schedule);
        if (known != nullptr) {
          const auto found = known->find(b.schedule.to_json());
          if (found != known->end()) {
            b.binary = found->second;
            continue;
          }
        }
        b.binary = device.compile(b.source);
      }
    });
  }
  for (std::thread& t : threads) t.join();
  for (const Built& b : *list) {
    if (known != nullptr && b.binary.ok()) known->try_emplace(b.schedule.to_json(), *b.binary);
  }
}

std::vector<Built> rank(const Device& device, const MoeConfig& config, const Arguments& args,
                        const DeviceLimits& limits, const std::vector<RowCounts>& routings,
                        int64_t tokens) {
  std::vector<Built> list;
  std::map<std::string, int> taken;
  const auto take = [&](const Schedule& schedule) {
    for (const Built& b : list) {
      if (b.schedule == schedule) return;
    }
    Built b;
    b.family = find_family(schedule.family);
    b.schedule = schedule;
    list.push_back(std::move(b));
    ++taken[schedule.family];
  };
  const auto ranked = rank_schedules(config, device.info().target, limits, {routings.front()});
  for (const RankedSchedule& r : ranked) {
    if (static_cast<int>(list.size()) >= args.samples) break;
    if (!args.family.empty() && args.family != r.schedule.family) continue;
    if (r.predicted_s > 3 * ranked.front().predicted_s) break;
    if (taken[r.schedule.family] < (args.samples + 1) / 2 || !args.family.empty()) take(r.schedule);
  }
  for (const auto& [name, count] : std::map<std::string, int>(taken)) {
    if (count > 0) take(find_family(name)->default_schedule(config, device.info().target, tokens));
  }
  return list;
}

std::vector<Built> pick(const Device& device, const MoeConfig& config, const Arguments& args,
                        int64_t tokens, std::mt19937* random) {
  std::vector<Built> list;
  const Target& target = device.info().target;
  for (size_t at = 0; at < args.schedule.size();) {
    size_t end = args.schedule.find(';', at);
    if (end == std::string::npos) end = args.schedule.size();
    auto schedule = Schedule::from_json(args.schedule.substr(at, end - at));
    at = end + 1;
    const Family* family = schedule.ok() ? find_family(schedule->family) : nullptr;
    const auto why =
        family != nullptr ? family->why_not(config, target, *schedule) : "not a schedule";
    if (why) {
      std::printf("%s\n", why->c_str());
      continue;
    }
    Built b;
    b.family = family;
    b.schedule = *schedule;
    list.push_back(std::move(b));
  }
  if (!args.schedule.empty()) return list;
  const std::vector<Schedule> legal = legal_schedules(config, target);
  for (const Family* family : families()) {
    if (!args.family.empty() && args.family != family->name()) continue;
    if (family->why_not(config, target)) continue;
    std::vector<Schedule> chosen = {family->default_schedule(config, target, tokens)};
    std::vector<Schedule> others;
    for (const Schedule& s : legal) {
      if (s.family == family->name() && !(s == chosen[0])) others.push_back(s);
    }
    std::shuffle(others.begin(), others.end(), *random);
    for (size_t i = 0; i < others.size() && static_cast<int>(chosen.size()) < args.samples; ++i)
      chosen.push_back(others[i]);
    for (const Schedule& s : chosen) {
      Built b;
      b.family = family;
      b.schedule = s;
      list.push_back(std::move(b));
    }
  }
  return list;
}

Result<RouterBuffers> router_buffers(const Device& device, const Workload& load) {
  const MoeConfig& config = load.weights().config();
  const auto upload = [&](const std::vector<float>& values) -> Result<std::shared_ptr<void>> {
    auto buffer = device.allocate(values.size() * 4);
    if (buffer.ok())
      MOEJIT_RETURN_IF_ERROR(device.copy_in(buffer->get(), values.data(), values.size() * 4));
    return buffer;
  };
  RouterBuffers buffers;
  buffers.sets = load.num_routings();
  buffers.logits_per_set = load.tokens() * config.num_experts;
  Random random(9);
  std::vector<float> logits(static_cast<size_t>(buffers.logits_per_set * buffers.sets));
  for (float& v : logits) v = static_cast<float>(random.uniform());
  for (int s = 0; s < buffers.sets; ++s) {
    const std::vector<int32_t>& ids = load.routing(s).ids;
    for (size_t i = 0; i < ids.size(); ++i) {
      if (ids[i] < 0 || ids[i] >= config.num_experts) continue;
      const int64_t token = static_cast<int64_t>(i) / config.top_k;
      logits[static_cast<size_t>(s * buffers.logits_per_set + token * config.num_experts +
                                 ids[i])] += 1.5F;
    }
  }
  const std::vector<float> room(static_cast<size_t>(load.tokens() * config.top_k));
  const std::vector<float> bias(static_cast<size_t>(config.num_experts));
  const std::pair<std::shared_ptr<void>*, const std::vector<float>*> all[] = {
      {&buffers.logits, &logits},
      {&buffers.bias, &bias},
      {&buffers.ids, &room},
      {&buffers.weights, &room}};
  for (const auto& [buffer, values] : all) {
    auto made = upload(*values);
    if (!made.ok()) return made.status();
    *buffer = *made;
  }
  return buffers;
}

}  // namespace moejit::gpu_bench
