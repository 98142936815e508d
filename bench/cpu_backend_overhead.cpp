// What the CPU backend costs beside the kernels: compiler start, compile, link, load, launch.
//   cpu_backend_overhead [SOURCE.cc ENTRY...]
// compiles the given kernel source (for this CPU's own level) instead of a small built-in one.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "backends/backend.h"
#include "backends/cpu/compiler_module.h"
#include "backends/cpu/cpu_info.h"
#include "backends/cpu/elf_image.h"

namespace {

using namespace moejit;
using namespace moejit::internal;

double now_us() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

double once_us(const std::function<void()>& body) {
  const double start = now_us();
  body();
  return now_us() - start;
}

struct Spread {
  double median, low, high;
};
Spread repeat_us(int times, const std::function<void()>& body) {
  std::vector<double> us;
  for (int i = 0; i < times; ++i) us.push_back(once_us(body));
  std::sort(us.begin(), us.end());
  const auto at = [&](double q) {
    return us[static_cast<size_t>(q * static_cast<double>(us.size() - 1))];
  };
  return {at(0.5), at(0.1), at(0.9)};
}

void row(const char* what, const Spread& us) {
  printf("%-46s %10.2f us   (%.2f - %.2f)\n", what, us.median, us.low, us.high);
}
void row(const char* what, double us) {
  printf("%-46s %10.2f us\n", what, us);
}

template <typename T>
T must(Result<T> result) {
  if (!result.ok()) {
    fprintf(stderr, "%s\n%s\n", result.status().to_string().c_str(), result.status().log().c_str());
    exit(1);
  }
  return *std::move(result);
}

constexpr const char* kSmall = R"(
namespace moejit_abi { struct MoeArgs; }
extern "C" void go(const moejit_abi::MoeArgs*, int, int) {}
)";

void launches(const Binary& binary, KernelSource source, int threads, bool serial) {
  const Device* device = must(open_device("cpu", threads));
  for (Entry& entry : source.entries) entry.serial_up_to = serial ? 1 : 0;
  const auto module = must(device->load(binary, source));
  MoeArgs args{};
  args.num_tokens = 1;
  const auto launch = [&] { (void)module->launch(args, nullptr); };
  for (int i = 0; i < 100; ++i) launch();
  char what[80];
  snprintf(what, sizeof what, "launch, %d thread%s%s, back to back", threads,
           threads == 1 ? "" : "s", serial ? ", serial entry" : "");
  row(what, repeat_us(2000, launch));
  snprintf(what, sizeof what, "launch, %d thread%s%s, after 2 ms of rest", threads,
           threads == 1 ? "" : "s", serial ? ", serial entry" : "");
  std::vector<double> us;
  for (int i = 0; i < 200; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    us.push_back(once_us(launch));
  }
  std::sort(us.begin(), us.end());
  row(what, Spread{us[100], us[20], us[180]});
}

// The work of a process that finds its kernel in the cache: device, load, one launch.
int load_and_launch(const char* path) {
  const double start = now_us();
  std::ifstream file(path, std::ios::binary);
  Binary binary;
  binary.format = "elf-so";
  binary.bytes.assign(std::istreambuf_iterator<char>(file), {});
  KernelSource source;
  source.name = "small.cc";
  source.entries.push_back(Entry{.name = "go"});
  const Device* device = must(open_device("cpu", 2));
  binary.arch = device->info().target.arch;
  const auto module = must(device->load(binary, source));
  (void)module->launch(MoeArgs{}, nullptr);
  printf("%f\n", now_us() - start);
  return 0;
}

void new_process(const char* self, const Binary& binary) {
  char path[] = "/tmp/moejit-bench-XXXXXX";
  const int fd = mkstemp(path);
  if (fd < 0 || write(fd, binary.bytes.data(), binary.bytes.size()) < 0) return;
  close(fd);
  std::vector<double> inside, whole;
  for (int i = 0; i < 21; ++i) {
    const double start = now_us();
    FILE* child = popen((std::string(self) + " --load " + path).c_str(), "r");
    double us = 0;
    if (child == nullptr || fscanf(child, "%lf", &us) != 1) return;
    pclose(child);
    inside.push_back(us);
    whole.push_back(now_us() - start);
  }
  unlink(path);
  std::sort(inside.begin(), inside.end());
  std::sort(whole.begin(), whole.end());
  row("new process: device, load, threads, launch", Spread{inside[10], inside[2], inside[18]});
  row("new process: all, shell and exit included", Spread{whole[10], whole[2], whole[18]});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string(argv[1]) == "--load") return load_and_launch(argv[2]);
  KernelSource source;
  source.name = argc > 1 ? argv[1] : "small.cc";
  source.text = kSmall;
  source.language = "c++";
  if (argc > 1) {
    std::ostringstream text;
    text << std::ifstream(argv[1]).rdbuf();
    source.text = text.str();
  }
  for (int i = 2; i < argc; ++i) source.entries.push_back(Entry{.name = argv[i]});
  if (source.entries.empty()) source.entries.push_back(Entry{.name = "go"});

  const double facts = once_us([] {
    cpu_info();
    usable_cpus();
  });
  const Device* device = nullptr;
  const double open = once_us([&] { device = must(open_device("cpu")); });
  source.arch = device->info().target.arch;
  printf("%s, %s, %d threads\n", device->info().product.c_str(), source.arch.c_str(),
         device->info().target.num_units);
  row("CPU facts", facts);
  row("open_device", open);
  row("dlopen of the compiler module", once_us([&] { must(device->compiler()); }));
  Binary binary;
  row("first compile", once_us([&] { binary = must(device->compile(source)); }));
  row("next compiles", repeat_us(20, [&] { must(device->compile(source)); }));
  const CompilerModule* compiler = must(CompilerModule::get());
  HostSource host{.name = source.name, .text = &source.text, .arch = source.arch};
  for (const Entry& entry : source.entries) host.exports.push_back(entry.name);
  std::vector<double> link;
  for (int i = 0; i < 20; ++i) link.push_back(1000 * must(compiler->compile(host)).link_ms);
  std::sort(link.begin(), link.end());
  row("of which link", Spread{link[10], link[2], link[18]});
  printf("%-46s %10zu bytes\n", "binary", binary.bytes.size());
  row("load (check, map, look up)", repeat_us(200, [&] { must(device->load(binary, source)); }));

  if (argc == 1) {
    new_process(argv[0], binary);
    launches(binary, source, 1, false);
    launches(binary, source, 2, false);
    launches(binary, source, 2, true);
    if (usable_cpus() > 2) launches(binary, source, usable_cpus(), false);
  }
  return 0;
}
