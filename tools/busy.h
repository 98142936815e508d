// Work without steps to count: after two seconds, how long it has been at it.
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "tools/context.h"

namespace moejit::tools {

// Shows "`what`: 12 s" from the third second on, until it is destroyed.
class Busy {
 public:
  Busy(Context& context, std::string what);
  ~Busy();
  Busy(const Busy&) = delete;
  Busy& operator=(const Busy&) = delete;

 private:
  void show();

  internal::Progress& progress_;
  std::string what_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopped_ = false;
  std::thread thread_;
};

// What `work` returns, with a Busy beside it.
template <typename F>
auto while_busy(Context& context, const std::string& what, F work) {
  const Busy busy(context, what);
  return work();
}

}  // namespace moejit::tools
