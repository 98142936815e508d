#include <cassert>
#include <cmath>

#include "generator/family.h"

namespace moejit::internal {

#define MOEJIT_FAMILY(name) const Family* name##_family();
#include "generator/families.inc"
#undef MOEJIT_FAMILY

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {
#define MOEJIT_FAMILY(name) name##_family(),
#include "generator/families.inc"
#undef MOEJIT_FAMILY
  };
  return all;
}

const Family* find_family(std::string_view name) {
  for (const Family* family : families()) {
    if (name == family->name()) return family;
  }
  return nullptr;
}

std::vector<Schedule> legal_schedules(const MoeConfig& config, const Target& target) {
  std::vector<Schedule> legal;
  for (const Family* family : families()) {
    if (family->why_not(config, target)) continue;
    const std::vector<Param> params = family->params();
    Schedule schedule{.family = family->name(), .params = {}};
    // An odometer over the parameters' value lists.
    std::vector<size_t> digit(params.size(), 0);
    for (bool more = true; more;) {
      for (size_t i = 0; i < params.size(); ++i) {
        schedule.params[params[i].name] = params[i].values[digit[i]];
      }
      if (!family->why_not(config, target, schedule)) legal.push_back(schedule);
      more = false;
      for (size_t i = params.size(); i-- > 0;) {
        if (++digit[i] < params[i].values.size()) {
          more = true;
          break;
        }
        digit[i] = 0;
      }
    }
  }
  return legal;
}

Floor layer_floor(const MoeConfig& config, const RowCounts& rows, int64_t tokens) {
  const double element = size_of(config.dtype);
  const double h = config.hidden_size;
  const double i = config.intermediate_size;
  const double weights_per_expert = h * i * (config.gated ? 3.0 : 2.0);
  Floor floor;
  for (int64_t count : rows) {
    if (count == 0) continue;
    floor.bytes += weights_per_expert * element;
    floor.flops += 2.0 * weights_per_expert * static_cast<double>(count);
  }
  floor.bytes += 2.0 * static_cast<double>(tokens) * h * element;  // x in, out out
  return floor;
}

int64_t workspace_offset(const std::vector<WorkspaceRegion>& regions, size_t index,
                         int64_t tokens) {
  assert(index <= regions.size());
  int64_t offset = 0;
  for (size_t i = 0; i < index; ++i) {
    const int64_t bytes = regions[i].fixed_bytes + tokens * regions[i].bytes_per_token;
    offset += (bytes + 255) / 256 * 256;
  }
  return offset;
}

}  // namespace moejit::internal
