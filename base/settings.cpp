#include "base/settings.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cstdlib>
#include <limits>

#include "base/nearest.h"

namespace moejit::internal {
namespace {

// A parser stores the value and returns "", or returns the rule that the text breaks.
using Parse = std::string (*)(const char* text, Settings* out);

struct Row {
  const char* name;
  const char* default_text;
  const char* help;
  Parse parse;
};

std::string parse_bool(std::string_view text, bool* out) {
  if (text != "0" && text != "1") return "0 or 1";
  *out = text == "1";
  return "";
}

std::string parse_int(std::string_view text, int32_t least, int32_t most, int32_t* out) {
  int32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most) {
    return "an integer between " + std::to_string(least) + " and " + std::to_string(most);
  }
  *out = value;
  return "";
}

// "1048576", "512K", "64M", "2G", "1T": powers of 1024.
std::string parse_bytes(std::string_view text, int64_t* out) {
  constexpr const char* kRule = "a number of bytes with an optional suffix K, M, G or T";
  constexpr std::string_view kSuffixes = "KMGT";
  int shift = 0;
  if (!text.empty()) {
    if (const size_t i = kSuffixes.find(text.back()); i != kSuffixes.npos) {
      shift = 10 * (static_cast<int>(i) + 1);
      text.remove_suffix(1);
    }
  }
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0 ||
      value > std::numeric_limits<int64_t>::max() >> shift) {
    return kRule;
  }
  *out = value << shift;
  return "";
}

std::string parse_log(std::string_view text, LogLevel* out) {
  constexpr std::string_view kNames[] = {"error", "warn", "info", "debug"};
  for (int i = 0; i < 4; ++i) {
    if (text != kNames[i]) continue;
    *out = static_cast<LogLevel>(i);
    return "";
  }
  return "error, warn, info or debug";
}

std::string parse_cache(std::string_view text, CacheMode* out) {
  for (CacheMode mode : {CacheMode::kOff, CacheMode::kReadOnly, CacheMode::kReadWrite}) {
    if (text != to_string(mode)) continue;
    *out = mode;
    return "";
  }
  return "off, ro or rw";
}

std::string parse_paths(std::string_view text, std::vector<std::string>* out) {
  while (true) {
    const size_t colon = text.find(':');
    const std::string_view path = text.substr(0, colon);
    if (!path.empty()) out->emplace_back(path);
    if (colon == text.npos) return "";
    text.remove_prefix(colon + 1);
  }
}

std::string parse_sim_checks(std::string_view text, std::string* out) {
  if (text != "full" && text != "fast") return "full or fast";
  *out = text;
  return "";
}

std::string take(const char* text, std::string* out) {
  *out = text;
  return "";
}

constexpr int32_t kMaxThreads = 1024;

constexpr Row kTable[] = {
    {"MOEJIT_CACHE_DIR", "$XDG_CACHE_HOME/moejit, else $HOME/.cache/moejit",
     "directory of the cache database",
     [](const char* text, Settings* s) { return take(text, &s->cache_dir); }},
    {"MOEJIT_CACHE", "rw",
     "use of the cache: off, ro (read only, for `moejit tune` and `moejit cache` too) or rw",
     [](const char* text, Settings* s) { return parse_cache(text, &s->cache); }},
    {"MOEJIT_CACHE_PATH", "", "further databases to read, separated by colons",
     [](const char* text, Settings* s) { return parse_paths(text, &s->cache_path); }},
    {"MOEJIT_CACHE_SIZE", "2G", "most bytes that the cache keeps; suffix K, M, G or T",
     [](const char* text, Settings* s) { return parse_bytes(text, &s->cache_size); }},
    {"MOEJIT_CACHE_ALLOW_SHARED", "0", "1: use a cache directory that others own or may write",
     [](const char* text, Settings* s) { return parse_bool(text, &s->cache_allow_shared); }},
    {"MOEJIT_CACHE_ALLOW_NETWORK", "0", "1: keep the cache on a network file system",
     [](const char* text, Settings* s) { return parse_bool(text, &s->cache_allow_network); }},
    {"MOEJIT_LOG", "warn", "what is written to stderr: error, warn, info or debug",
     [](const char* text, Settings* s) { return parse_log(text, &s->log); }},
    {"MOEJIT_DEVICE", "auto", "device where \"auto\" is asked for: cpu, cuda:0, ...",
     [](const char* text, Settings* s) { return take(text, &s->device); }},
    {"MOEJIT_NUM_THREADS", "0", "CPU threads of a launch; 0: every core of the affinity mask",
     [](const char* text, Settings* s) {
       return parse_int(text, 0, kMaxThreads, &s->num_threads);
     }},
    {"MOEJIT_SPIN_US", "50",
     "microseconds that a CPU worker spins for the next launch before it sleeps; 0: never, within "
     "a launch either",
     [](const char* text, Settings* s) { return parse_int(text, 0, 1000000, &s->spin_us); }},
    {"MOEJIT_PIN_THREADS", "0", "1: pin each CPU worker to a core",
     [](const char* text, Settings* s) { return parse_bool(text, &s->pin_threads); }},
    {"MOEJIT_NUM_COMPILE_JOBS", "0", "kernels compiled at once; 0: one per core",
     [](const char* text, Settings* s) {
       return parse_int(text, 0, kMaxThreads, &s->num_compile_jobs);
     }},
    {"MOEJIT_CPU_MODULE", "", "path of libmoejit_cpu.so; default: beside the library",
     [](const char* text, Settings* s) { return take(text, &s->cpu_module); }},
    {"MOEJIT_NVRTC_PATH", "", "path of libnvrtc.so; default: the loader's search",
     [](const char* text, Settings* s) { return take(text, &s->nvrtc_path); }},
    {"MOEJIT_SIM_CHECKS", "full",
     "what the simulator watches: full, or fast without race detection",
     [](const char* text, Settings* s) { return parse_sim_checks(text, &s->sim_checks); }},
    {"MOEJIT_DUMP_DIR", "", "directory that receives the source of every compiled kernel",
     [](const char* text, Settings* s) { return take(text, &s->dump_dir); }},
};

const char* text_of(const EnvironmentReader& get, const char* name) {
  const char* text = get(name);
  return text == nullptr || *text == '\0' ? nullptr : text;
}

void resolve_cache_dir(const EnvironmentReader& get, Settings* s) {
  if (!s->cache_dir.empty()) {
    s->cache_dir_reason = "MOEJIT_CACHE_DIR is set";
    return;
  }
  const char* xdg = text_of(get, "XDG_CACHE_HOME");
  if (xdg != nullptr && *xdg == '/') {  // the XDG rules: a relative path is ignored
    s->cache_dir = std::string(xdg) + "/moejit";
    s->cache_dir_reason = "XDG_CACHE_HOME is set";
    return;
  }
  const char* home = text_of(get, "HOME");
  if (home != nullptr && *home == '/') {
    s->cache_dir = std::string(home) + "/.cache/moejit";
    s->cache_dir_reason = "the default, below HOME";
    return;
  }
  s->cache_dir_reason =
      std::string("no directory: MOEJIT_CACHE_DIR and XDG_CACHE_HOME are unset and HOME is ") +
      (home == nullptr ? "unset" : "not an absolute path");
}

struct Loaded {
  Settings settings;
  std::vector<SettingRow> rows;
  std::atomic<bool> reported{false};
};

Loaded& loaded() {
  static Loaded* const instance = [] {
    auto* made = new Loaded;
    made->settings = read_settings(
        [](const char* name) -> const char* { return std::getenv(name); }, &made->rows);
    return made;
  }();
  // After the reading and not in it: the log asks for the settings.
  if (!instance->reported.exchange(true)) {
    for (const SettingRow& row : instance->rows) {
      if (!row.problem.empty()) log(LogLevel::kWarning, "settings", row.problem);
    }
  }
  return *instance;
}

}  // namespace

const char* to_string(CacheMode mode) {
  switch (mode) {
    case CacheMode::kOff:
      return "off";
    case CacheMode::kReadOnly:
      return "ro";
    case CacheMode::kReadWrite:
      return "rw";
  }
  return "unknown";
}

Settings read_settings(const EnvironmentReader& get, std::vector<SettingRow>* rows) {
  Settings result;
  for (const Row& row : kTable) {
    SettingRow found{row.name, row.default_text, row.help, row.default_text, "default", ""};
    if (const char* text = text_of(get, row.name)) {
      const std::string rule = row.parse(text, &result);
      if (rule.empty()) {
        found.value = text;
        found.origin = "environment";
      } else {
        found.problem = std::string(row.name) + " = " + in_quotes(text) + ": must be " + rule +
                        "; taking " + row.default_text;
      }
    }
    rows->push_back(std::move(found));
  }
  resolve_cache_dir(get, &result);
  rows->front().value = result.cache_dir.empty() ? "(none)" : result.cache_dir;
  return result;
}

int32_t compile_jobs(int32_t requested) {
  if (requested > 0) return requested;
  if (settings().num_compile_jobs > 0) return settings().num_compile_jobs;
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 1;
  return std::max(1, CPU_COUNT(&allowed));
}

const Settings& settings() {
  return loaded().settings;
}
const std::vector<SettingRow>& setting_rows() {
  return loaded().rows;
}

}  // namespace moejit::internal
