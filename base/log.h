// Log lines: to the callback of set_log_callback, else to stderr up to the level of MOEJIT_LOG
// (error, warn, info or debug; default warn).
#pragma once

#include <string>

namespace moejit::internal {

enum class LogLevel : int { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

// `area` is "cache", "tuner", ...; the line reads "moejit W cache: message". Thread-safe; a line
// is written whole.
void log(LogLevel level, const char* area, const std::string& message);
// The same line at most once per process for each `key` (of that area).
void log_once(LogLevel level, const char* area, const std::string& key, const std::string& message);
bool log_enabled(LogLevel level);

// Receives every line of every level as "cache: message"; null: stderr again. The sink is called
// without a lock, from any thread, and may log; a line on its way may still reach the old sink.
using LogSink = void (*)(int level, const char* message, void* user);
void set_log_sink(LogSink sink, void* user);

}  // namespace moejit::internal
