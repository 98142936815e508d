// What get_kernel and a launch cost: cold, from the database in a new process, a hit in process,
// and a launch at T = 1 on a tiny layer. Prints medians; asserts nothing.
//
//   get_kernel_latency [--device cpu]
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "moejit/moejit.h"

namespace {

using Clock = std::chrono::steady_clock;

double since_us(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

moejit::MoeConfig qwen3() {
  return {.num_experts = 128, .top_k = 8, .hidden_size = 2048, .intermediate_size = 768};
}

// get_kernel's time in a fresh process, microseconds; negative on failure.
double in_new_process(const moejit::Options& options) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) return -1;
  const pid_t child = fork();
  if (child == 0) {
    const auto start = Clock::now();
    const auto kernel = moejit::get_kernel(qwen3(), options);
    const double us = kernel.ok() ? since_us(start) : -1;
    const ssize_t written = write(pipe_ends[1], &us, sizeof us);
    _exit(written == sizeof us ? 0 : 1);
  }
  double us = -1;
  close(pipe_ends[1]);
  if (read(pipe_ends[0], &us, sizeof us) != sizeof us) us = -1;
  close(pipe_ends[0]);
  waitpid(child, nullptr, 0);
  return us;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void print(const char* what, double us, const char* target) {
  std::printf("%-52s %12.3f us   (target %s)\n", what, us, target);
}

}  // namespace

int main(int argc, char** argv) {
  moejit::Options options;
  options.device = argc == 3 && std::strcmp(argv[1], "--device") == 0 ? argv[2] : "cpu";
  char directory[] = "/tmp/moejit-latency-XXXXXX";
  if (mkdtemp(directory) == nullptr) return 1;
  options.cache_path = directory;

  // This process must not have opened the compiler or the store before it forks.
  std::vector<double> cold, warm;
  for (int i = 0; i < 5; ++i) {
    const std::string clear = std::string("rm -rf ") + directory + "/*";
    if (std::system(clear.c_str()) != 0) return 1;
    cold.push_back(in_new_process(options));
  }
  for (int i = 0; i < 21; ++i) warm.push_back(in_new_process(options));
  print("get_kernel, nothing cached, new process", median(cold), "300000");
  print("get_kernel, from the database, new process", median(warm), "5000");

  const auto kernel = moejit::get_kernel(qwen3(), options);
  if (!kernel.ok()) {
    std::fprintf(stderr, "%s\n", kernel.status().to_string().c_str());
    return 1;
  }
  const moejit::MoeConfig config = qwen3();
  constexpr int kHits = 200000;
  size_t sum = 0;
  auto start = Clock::now();
  for (int i = 0; i < kHits; ++i) sum += moejit::get_kernel(config, options).ok();
  print("get_kernel, hit in process, same layer again", since_us(start) / kHits, "0.2");
  moejit::MoeConfig other = config;
  other.top_k = 4;
  if (!moejit::get_kernel(other, options).ok()) return 1;
  start = Clock::now();
  for (int i = 0; i < kHits; ++i) sum += moejit::get_kernel(i % 2 ? config : other, options).ok();
  print("get_kernel, hit in process, two layers in turn", since_us(start) / kHits, "0.2");

  const moejit::MoeConfig tiny{
      .num_experts = 4, .top_k = 2, .hidden_size = 64, .intermediate_size = 64};
  const auto small = moejit::get_kernel(tiny, options);
  if (!small.ok()) return 1;
  if (options.device == "cpu") {
    const auto buffer = [](size_t bytes) {
      void* memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
      std::memset(memory, 0, bytes);
      return memory;
    };
    const int32_t ids[2] = {1, 3};
    const float weights[2] = {0.5f, 0.5f};
    const size_t workspace = small->workspace_size(1);
    const moejit::LaunchArgs args{.num_tokens = 1,
                                  .x = buffer(128),
                                  .w13 = buffer(4 * 128 * 64 * 2),
                                  .w2 = buffer(4 * 64 * 64 * 2),
                                  .topk_ids = ids,
                                  .topk_weights = weights,
                                  .out = buffer(128),
                                  .workspace = buffer(workspace),
                                  .workspace_size = workspace};
    constexpr int kLaunches = 100000;
    start = Clock::now();
    for (int i = 0; i < kLaunches; ++i) sum += small->launch(args).ok();
    print("launch, T = 1, E4 K2 H64 I64 (arithmetic included)", since_us(start) / kLaunches, "5");
  }
  const std::string clear = std::string("rm -rf ") + directory;
  if (std::system(clear.c_str()) != 0) return 1;
  return sum > 0 ? 0 : 1;
}
