// What this CPU is and how much of it the process may use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moejit::internal {

struct CpuInfo {
  std::string vendor;   // "AuthenticAMD"
  std::string product;  // brand string
  int32_t family = 0, model = 0, stepping = 0;
  std::vector<std::string>
      features;                 // those that matter to generated code, that the OS enables too
  std::string arch;             // highest level of kCpuArchs that runs here, "" for none
  int64_t l1_bytes = 32 << 10;  // data cache of one core
  int64_t l2_bytes = 1 << 20;   // of one core
  int64_t l3_bytes = 0;         // one instance
  int32_t cores = 1;            // online logical processors
  int64_t memory_bytes = 0;
};

// Levels of code, lowest first; each runs wherever a later one does.
extern const char* const kCpuArchs[3];

// Read once per process.
const CpuInfo& cpu_info();

// True where code for `arch` runs on this CPU; false for an unknown name.
bool cpu_runs(const std::string& arch);

// Logical processors of the affinity mask, or the cgroup's CPU quota rounded up if that is smaller;
// at least 1.
int32_t usable_cpus();

// Text of /proc/self/cgroup and a reader of files under /sys/fs/cgroup to CPUs allowed by quota, 0
// for no limit. Separate from usable_cpus() so that it can be tested.
int32_t cgroup_cpu_limit(const std::string& self_cgroup,
                         const std::string& root = "/sys/fs/cgroup");

// Bytes that the machine can still give, memory and swap, by the text of /proc/meminfo; -1 where it
// does not say.
int64_t available_bytes(const std::string& meminfo);
int64_t available_bytes();
// Of this process, in memory; 0 where the system does not say.
int64_t resident_bytes();

}  // namespace moejit::internal
