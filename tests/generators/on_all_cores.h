// For tests that compile many kernels: compiling is what takes their time.
#pragma once

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace moejit_test {

// visit(i) for each i below `count`, from as many threads as there are cores.
template <typename Visit>
void on_all_cores(size_t count, Visit visit) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < std::max(1U, std::thread::hardware_concurrency()); ++t) {
    threads.emplace_back([&] {
      for (size_t i; (i = next++) < count;) visit(i);
    });
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace moejit_test
