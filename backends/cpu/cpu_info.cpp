#include "backends/cpu/cpu_info.h"

#include <sched.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace moejit::internal {

const char* const kCpuArchs[3] = {"x86-64-v3", "x86-64-v4", "x86-64-v4+bf16"};

namespace {

#if defined(__x86_64__)

struct Regs {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Regs cpuid(uint32_t leaf, uint32_t subleaf = 0) {
  Regs r;
  __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
  return r;
}

uint64_t enabled_state() {  // XCR0: register sets that the OS saves
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

bool bit(uint32_t word, int index) {
  return ((word >> index) & 1) != 0;
}

void read_features(CpuInfo& info) {
  const Regs one = cpuid(1), seven = cpuid(7), seven1 = cpuid(7, 1), extended = cpuid(0x80000001);
  const uint64_t state = bit(one.ecx, 27) ? enabled_state() : 0;
  const bool ymm = (state & 0x6) == 0x6, zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state & 0x60000) == 0x60000;
  const auto add = [&](const char* name, bool present) {
    if (present) info.features.push_back(name);
    return present;
  };
  bool v3 = add("avx2", ymm && bit(one.ecx, 28) && bit(seven.ebx, 5));
  v3 &= add("fma", ymm && bit(one.ecx, 12));
  v3 &= add("f16c", ymm && bit(one.ecx, 29));
  v3 &= add("bmi", bit(seven.ebx, 3) && bit(seven.ebx, 8));
  v3 &= add("lzcnt", bit(extended.ecx, 5)) && add("movbe", bit(one.ecx, 22));
  bool v4 = v3 && zmm;
  v4 &= add("avx512f", zmm && bit(seven.ebx, 16));
  v4 &= add("avx512dq", zmm && bit(seven.ebx, 17));
  v4 &= add("avx512cd", zmm && bit(seven.ebx, 28));
  v4 &= add("avx512bw", zmm && bit(seven.ebx, 30));
  v4 &= add("avx512vl", zmm && bit(seven.ebx, 31));
  const bool bf16 = add("avx512bf16", zmm && bit(seven1.eax, 5));
  add("avx512vnni", zmm && bit(seven.ecx, 11));
  add("avx512fp16", zmm && bit(seven.edx, 23));
  add("avxvnni", ymm && bit(seven1.eax, 4));
  add("amxbf16", tiles && bit(seven.edx, 22) && bit(seven.edx, 24));
  if (v3) info.arch = kCpuArchs[v4 ? (bf16 ? 2 : 1) : 0];
}

void read_names(CpuInfo& info) {
  const Regs zero = cpuid(0), one = cpuid(1);
  char vendor[13] = {};
  std::memcpy(vendor, &zero.ebx, 4);
  std::memcpy(vendor + 4, &zero.edx, 4);
  std::memcpy(vendor + 8, &zero.ecx, 4);
  info.vendor = vendor;
  const uint32_t base = (one.eax >> 8) & 15;
  info.family = static_cast<int32_t>(base == 15 ? base + ((one.eax >> 20) & 255) : base);
  info.model = static_cast<int32_t>((one.eax >> 4) & 15);
  if (base == 15 || base == 6) info.model |= static_cast<int32_t>((one.eax >> 12) & 0xf0);
  info.stepping = static_cast<int32_t>(one.eax & 15);
  char brand[49] = {};
  for (uint32_t i = 0; i < 3; ++i) {
    const Regs part = cpuid(0x80000002 + i);
    std::memcpy(brand + 16 * i, &part, 16);
  }
  info.product = brand;
  const size_t first = info.product.find_first_not_of(' ');
  const size_t last = info.product.find_last_not_of(' ');
  info.product =
      first == std::string::npos ? info.vendor : info.product.substr(first, last - first + 1);
}

void read_caches(CpuInfo& info) {
  // One enumeration with two leaf numbers; AMD's needs the topology extension.
  const bool amd = info.vendor == "AuthenticAMD" || info.vendor == "HygonGenuine";
  if (amd && !bit(cpuid(0x80000001).ecx, 22)) return;
  for (uint32_t i = 0; i < 16; ++i) {
    const Regs leaf = cpuid(amd ? 0x8000001d : 4, i);
    const uint32_t type = leaf.eax & 31;
    if (type == 0) break;
    if (type == 2) continue;  // instructions
    const int64_t bytes = int64_t{1} * ((leaf.ebx >> 22) + 1) * (((leaf.ebx >> 12) & 0x3ff) + 1) *
                          ((leaf.ebx & 0xfff) + 1) * (int64_t{leaf.ecx} + 1);
    const uint32_t level = (leaf.eax >> 5) & 7;
    if (level == 1) info.l1_bytes = bytes;
    if (level == 2) info.l2_bytes = bytes;
    if (level == 3) info.l3_bytes = bytes;
  }
}

#endif  // __x86_64__

CpuInfo read_cpu() {
  CpuInfo info;
#if defined(__x86_64__)
  read_names(info);
  read_features(info);
  read_caches(info);
#else
  info.product = "unknown CPU";
#endif
  info.cores = static_cast<int32_t>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN)));
  info.memory_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return info;
}

std::string read_file(const std::string& path) {
  FILE* file = fopen(path.c_str(), "re");
  if (file == nullptr) return {};
  char text[4096];
  const size_t size = fread(text, 1, sizeof text, file);
  fclose(file);
  return std::string(text, size);
}

// CPUs of "quota period", rounded up; 0 for no limit ("max 100000", "-1").
int32_t quota_cpus(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return 0;
  return static_cast<int32_t>(std::min<long long>((quota + period - 1) / period, 1 << 20));
}

int32_t limit_of(const std::string& directory, bool second_version) {
  long long quota = 0, period = 0;
  if (second_version) {
    if (sscanf(read_file(directory + "/cpu.max").c_str(), "%lld %lld", &quota, &period) != 2)
      return 0;
  } else if (sscanf(read_file(directory + "/cpu.cfs_quota_us").c_str(), "%lld", &quota) != 1 ||
             sscanf(read_file(directory + "/cpu.cfs_period_us").c_str(), "%lld", &period) != 1) {
    return 0;
  }
  return quota_cpus(quota, period);
}

}  // namespace

const CpuInfo& cpu_info() {
  static const CpuInfo* const kInfo = new CpuInfo(read_cpu());
  return *kInfo;
}

bool cpu_runs(const std::string& arch) {
  bool below = false;
  // From the highest down: once the CPU's own level is met, everything that follows runs.
  for (int i = 2; i >= 0; --i) {
    below |= cpu_info().arch == kCpuArchs[i];
    if (below && arch == kCpuArchs[i]) return true;
  }
  return false;
}

int32_t cgroup_cpu_limit(const std::string& self_cgroup, const std::string& root) {
  int32_t limit = 0;
  size_t at = 0;
  while (at < self_cgroup.size()) {
    const size_t end = std::min(self_cgroup.find('\n', at), self_cgroup.size());
    const std::string line = self_cgroup.substr(at, end - at);  // "0::/a/b" or "4:cpu,cpuacct:/a"
    at = end + 1;
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool second_version = controllers == ",,";
    if (!second_version && controllers.find(",cpu,") == std::string::npos) continue;
    const std::string mount = second_version ? root : root + "/cpu";
    // A limit of any ancestor holds too.
    std::string path = line.substr(second + 1);
    if (path == "/") path.clear();
    while (true) {
      const int32_t here = limit_of(mount + path, second_version);
      if (here > 0 && (limit == 0 || here < limit)) limit = here;
      if (path.empty()) break;
      const size_t slash = path.rfind('/');
      path.resize(slash == std::string::npos ? 0 : slash);
    }
  }
  return limit;
}

int32_t usable_cpus() {
  int32_t count = 0;
  // The kernel refuses a mask smaller than its own, so grow.
  for (int bits = 1024; bits <= 1 << 16 && count == 0; bits *= 4) {
    cpu_set_t* set = CPU_ALLOC(bits);
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(bits);
    if (sched_getaffinity(0, size, set) == 0) count = CPU_COUNT_S(size, set);
    CPU_FREE(set);
  }
  if (count <= 0) count = cpu_info().cores;
  const int32_t limit = cgroup_cpu_limit(read_file("/proc/self/cgroup"));
  if (limit > 0) count = std::min(count, limit);
  return std::max(count, 1);
}

int64_t available_bytes(const std::string& meminfo) {
  const auto kilobytes = [&](const std::string& name) {
    const size_t at = ("\n" + meminfo).find("\n" + name + ":");
    return at == std::string::npos ? -1 : std::atoll(meminfo.c_str() + at + name.size() + 1);
  };
  const int64_t memory = kilobytes("MemAvailable");
  return memory < 0 ? -1 : (memory + std::max<int64_t>(kilobytes("SwapFree"), 0)) * 1024;
}

int64_t available_bytes() {
  return available_bytes(read_file("/proc/meminfo"));
}

int64_t resident_bytes() {
  long long all = 0, resident = 0;
  if (sscanf(read_file("/proc/self/statm").c_str(), "%lld %lld", &all, &resident) != 2) return 0;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace moejit::internal
