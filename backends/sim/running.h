// Which engine the function table talks to.
#pragma once

namespace moejit::internal::sim {

class Engine;

// Binds the table to `engine` for its life. REQUIRES: the launch mutex is held.
class RunningEngine {
 public:
  explicit RunningEngine(Engine& engine);
  ~RunningEngine();
  RunningEngine(const RunningEngine&) = delete;
  RunningEngine& operator=(const RunningEngine&) = delete;
};

}  // namespace moejit::internal::sim
