// What a verb of the `moejit` command is. Adding one: a file cmd_<verb>.cpp and a row in verbs.inc.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tools/context.h"

namespace moejit::tools {

// What a verb declares. `names` is "--tokens" or "-o,--output"; `what` stands for the value in the
// help. Every pointer must stay valid until the verb has run.
class OptionSet {
 public:
  virtual ~OptionSet() = default;
  virtual void flag(const char* names, bool* out, const char* help) = 0;
  virtual void value(const char* names, const char* what, std::string* out, const char* help) = 0;
  virtual void value(const char* names, const char* what, int32_t* out, const char* help) = 0;
  virtual void value(const char* names, const char* what, std::optional<int32_t>* out,
                     const char* help) = 0;
  virtual void value(const char* names, const char* what, double* out, const char* help) = 0;
  virtual void positional(const char* name, std::string* out, const char* help, bool required) = 0;
  virtual void positional(const char* name, std::vector<std::string>* out, const char* help,
                          bool required) = 0;
};

class Command {
 public:
  virtual ~Command() = default;
  // Opens nothing: it also runs for --help.
  virtual void declare(OptionSet& options) = 0;
  virtual ExitCode run(Context& context) = 0;
};

struct Verb {
  const char* name;  // "tune", or "cache ls" for a verb of a group
  const char* summary;
  std::unique_ptr<Command> (*make)();
};

const std::vector<Verb>& verbs();

}  // namespace moejit::tools
