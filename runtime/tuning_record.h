// What the store knows about a bucket's candidates, and what becomes of new trials.
#pragma once

#include <string>
#include <vector>

#include "backends/backend.h"
#include "cache/store.h"
#include "moejit/config.h"
#include "tuner/session.h"

namespace moejit::internal {

std::string new_session_id();

// Every trial becomes a committed row before the next begins.
class StoreSink : public TrialSink {
 public:
  StoreSink(Store& store, MeasurementKey key, std::string session)
      : store_(store), key_(std::move(key)), session_(std::move(session)) {}
  void on_trial(const Trial& trial) override;

 private:
  Store& store_;
  const MeasurementKey key_;
  const std::string session_;
};

// Trials of earlier sessions that still hold, because the schedule gives the same text today and
// the same compiler built it: screenings of the last day, and whatever hung or crashed.
std::vector<KnownTrial> known_trials(const MoeConfig& config, const Device& device, Store& store,
                                     const MeasurementKey& key);

}  // namespace moejit::internal
