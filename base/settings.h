// Every MOEJIT_* environment variable, read once. The table in settings.cpp is the only list: it
// feeds `moejit env` and docs/env.md.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/log.h"

namespace moejit::internal {

enum class CacheMode : int32_t { kOff = 0, kReadOnly = 1, kReadWrite = 2 };
const char* to_string(CacheMode mode);  // "off", "ro", "rw"

struct Settings {
  std::string cache_dir;         // resolved, absolute or as the variable gives it; "" where none
  std::string cache_dir_reason;  // why cache_dir is what it is, one sentence
  CacheMode cache = CacheMode::kReadWrite;
  std::vector<std::string> cache_path;  // further directories or databases, read only, in order
  int64_t cache_size = int64_t{2} << 30;
  bool cache_allow_shared = false;
  bool cache_allow_network = false;
  LogLevel log = LogLevel::kWarning;
  std::string device = "auto";
  int32_t num_threads = 0;  // 0: every core of the affinity mask
  int32_t spin_us = 50;
  bool pin_threads = false;
  int32_t num_compile_jobs = 0;     // 0: one per core
  std::string cpu_module;           // path; "": beside the library
  std::string nvrtc_path;           // path; "": the loader's search
  std::string sim_checks = "full";  // or "fast"
  std::string dump_dir;             // "": only what fails to compile is written
};

// One row of the table, with what this process found.
struct SettingRow {
  const char* name;
  const char* default_text;
  const char* help;
  std::string value;    // in force
  std::string origin;   // "default" or "environment"
  std::string problem;  // why the environment's text was not taken, or ""
};

// The settings of this process, read on the first call; later changes of the environment are not
// seen. A value that cannot be read is one warning, and its default holds. Thread-safe.
const Settings& settings();
const std::vector<SettingRow>& setting_rows();

// Kernels to compile at once: `requested` where above 0, else MOEJIT_NUM_COMPILE_JOBS, else one per
// core of the affinity mask. At least 1.
int32_t compile_jobs(int32_t requested = 0);

// As settings() from any environment, for tests. `get` returns null where a variable is unset; an
// empty one counts as unset.
using EnvironmentReader = std::function<const char*(const char*)>;
Settings read_settings(const EnvironmentReader& get, std::vector<SettingRow>* rows);

}  // namespace moejit::internal
