// Family: one way to compute the layer on one kind of target. A row per family (families.inc)
// drives the tuner's space, `generate`, the tests, the benches and the support matrix.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "generator/kernel_source.h"
#include "generator/schedule.h"
#include "generator/target.h"
#include "moejit/config.h"

namespace moejit::internal {

// Rows per expert of one routing of T tokens, shared experts included; size total_experts().
using RowCounts = std::vector<int64_t>;

// What a schedule must do for one routing, counted, not timed. The tuner turns counts into time
// with the device's measured rates: each phase takes max(bytes/bw, flops/rate) / efficiency, phases
// add up.
struct PhaseWork {
  std::string name;         // "gate_up"
  double bytes = 0;         // that must come from or go to DRAM
  double cache_bytes = 0;   // read once more, out of the last-level cache or L2, after DRAM's
  double l2_bytes = 0;      // all traffic through a GPU's L2, beside DRAM's
  double dot_flops = 0;     // on the dtype's fastest unit (bf16 dot, tensor core), padding included
  double vector_flops = 0;  // on plain vector units
  double parallel = 1;   // 0..1: share of the units that the cut keeps busy (tail waves, imbalance)
  double streaming = 1;  // 0..1: of the probe's read rate, what the loads in flight sustain
  // 0..1: memory and operations do not overlap wholly. Of the shorter, which takes s seconds, this
  // times s / l is added to the longer, which takes l. Fitted, not derived.
  double exposed = 0;
  double latency_s = 0;  // waits that nothing overlaps
  int32_t launches = 0;  // launches or barriers
};

struct Param {
  std::string name;
  std::vector<int32_t> values;  // all that the space enumerates, the default first
  std::string help;
};

class Family {
 public:
  virtual ~Family() = default;
  virtual const char* name() const = 0;
  virtual BackendKind backend() const = 0;
  virtual const char* help() const = 0;
  virtual std::vector<Param> params() const = 0;

  // Why this family cannot compute `config` on `target`, or nothing.
  virtual std::optional<std::string> why_not(const MoeConfig& config,
                                             const Target& target) const = 0;
  // Why `schedule` is illegal there (a sentence naming parameter, value and rule), or nothing.
  virtual std::optional<std::string> why_not(const MoeConfig& config, const Target& target,
                                             const Schedule& schedule) const = 0;
  // A legal schedule that is reasonable for T = tokens; exists whenever why_not(config, target) is
  // empty.
  virtual Schedule default_schedule(const MoeConfig& config, const Target& target,
                                    int64_t tokens) const = 0;
  virtual std::vector<PhaseWork> work(const MoeConfig& config, const Target& target,
                                      const Schedule& schedule, const RowCounts& rows) const = 0;
  // Deterministic text. REQUIRES: schedule legal.
  virtual KernelSource emit(const MoeConfig& config, const Target& target,
                            const Schedule& schedule) const = 0;
};

// All families, in the order of families.inc.
const std::vector<const Family*>& families();
const Family* find_family(std::string_view name);  // or null

// Cartesian product of the params of every family that supports the config there, legal ones only.
std::vector<Schedule> legal_schedules(const MoeConfig& config, const Target& target);

// Bytes that any implementation must move and operations that it must do for one routing.
struct Floor {
  double bytes = 0;
  double flops = 0;
};
Floor layer_floor(const MoeConfig& config, const RowCounts& rows, int64_t tokens);

}  // namespace moejit::internal
