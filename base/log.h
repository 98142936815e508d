// Log lines: to the callback of set_log_callback, else to stderr up to the level of MOEJIT_LOG.
#pragma once

#include <string>

namespace moejit::internal {

enum class LogLevel : int { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

// `area` is "cache", "tuner", ...; the line reads "moejit W cache: message".
void log(LogLevel level, const char* area, const std::string& message);
// The same line at most once per process for each `key`.
void log_once(LogLevel level, const char* area, const std::string& key, const std::string& message);
bool log_enabled(LogLevel level);

}  // namespace moejit::internal
