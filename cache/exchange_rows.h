// What packing and merging read and write alike.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "cache/list.h"
#include "cache/rows.h"

namespace moejit::internal {

Digest digest_of(const std::string& hex);  // of 64 digits, else zeros
Selection to_selection(const SelectionInfo& info);
// Walks measurements, ordered by what they say and not by when they came.
void each_measurement(Db& db, const std::function<void(const Measurement&, int64_t at)>& visit);
// Copies a device's limits where the other has none. True where it did.
bool take_limits(Db& from, Db& to, const std::string& environment);

}  // namespace moejit::internal
