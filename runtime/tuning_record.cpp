#include "runtime/tuning_record.h"

#include <ctime>
#include <map>
#include <random>

#include "base/hash.h"
#include "runtime/library.h"

namespace moejit::internal {
namespace {

constexpr int64_t kScreeningHolds_s = 24 * 3600;

}  // namespace

std::string new_session_id() {
  std::random_device entropy;
  uint32_t words[4];
  for (uint32_t& word : words) word = entropy();
  return to_hex(reinterpret_cast<const uint8_t*>(words), sizeof words);
}

void StoreSink::on_trial(const Trial& trial) {
  Measurement m;
  m.key = key_;
  m.session = session_;
  m.schedule = trial.schedule.to_json();
  m.source = trial.digest;
  m.toolchain = trial.toolchain;
  m.stage = trial.stage;
  m.status = trial.status;
  m.median_s = trial.timing.median_s;
  m.p20_s = trial.timing.p20_s;
  m.p80_s = trial.timing.p80_s;
  m.samples = trial.timing.samples;
  m.predicted_s = trial.predicted_s;
  m.floor_s = trial.floor_s;
  m.error = trial.error;
  m.note = trial.note;
  store_.record(m);
}

std::vector<KnownTrial> known_trials(const MoeConfig& config, const Device& device, Store& store,
                                     const MeasurementKey& key) {
  const auto compiler = device.compiler();
  const int64_t now = std::time(nullptr);
  std::map<std::string, KnownTrial> found;  // by schedule; a bad one outweighs a good one
  for (const Measurement& m : store.measurements(key)) {
    const bool bad = m.status == "timeout" || m.status == "fault";
    if (!bad && (m.status != "ok" || m.stage != "screen" || !(m.median_s > 0) ||
                 now - m.at > kScreeningHolds_s)) {
      continue;
    }
    if (compiler.ok() && m.toolchain != *compiler) continue;
    const auto it = found.find(m.schedule);
    if (it != found.end() && (it->second.status != "ok" || !bad)) continue;
    const auto schedule = Schedule::from_json(m.schedule);
    const Family* family = schedule.ok() ? find_family(schedule->family) : nullptr;
    if (family == nullptr || family->why_not(config, device.info().target, *schedule)) continue;
    if (source_digest(device, family->emit(config, device.info().target, *schedule)) != m.source)
      continue;
    found[m.schedule] = {.schedule = *schedule,
                         .status = m.status,
                         .seconds = {m.p20_s > 0 ? m.p20_s : m.median_s},
                         .error = m.error};
  }
  std::vector<KnownTrial> list;
  for (auto& [name, trial] : found) list.push_back(std::move(trial));
  return list;
}

}  // namespace moejit::internal
