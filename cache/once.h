// One compilation per key: among the threads of the process by a shared result, among processes by
// striped lock files that are never unlinked.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "cache/store.h"

namespace moejit::internal {

class Once {
 public:
  using Shared = std::shared_ptr<const StoredBinary>;

  struct Steps {
    std::function<Shared()> probe;  // every layer; null: a miss
    std::function<Result<StoredBinary>()> compile;
    std::function<void(const Shared&)> publish;  // keeps it; may fail in silence
  };
  // `lock_folder` empty: no locks among processes. Waits at most `wait_s` for another process, then
  // compiles alone: twice the work is safe, waiting for ever is not. *waited_s is added to.
  Result<Shared> run(const Digest& key, const std::string& lock_folder, double wait_s,
                     const Steps& steps, double* waited_s);

 private:
  struct Flight {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result<Shared>> result;
  };
  Result<Shared> lead(const Digest& key, const std::string& lock_folder, double wait_s,
                      const Steps& steps, double* waited_s);
  std::mutex mutex_;
  std::map<Digest, std::shared_ptr<Flight>> flights_;
};

}  // namespace moejit::internal
