// What a wrong command line is told: the option, the value, the rule, the nearest names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moejit/status.h"

namespace moejit::tools {

struct WrongCall {
  enum class Kind {
    kOther,
    kValue,       // `text` is the sentence
    kCount,       // an option without its value, or twice
    kMissing,     // a positional argument, or the verb
    kUnexpected,  // `unexpected` holds what nobody takes
  };
  Kind kind = Kind::kOther;
  std::string verb;                      // "", "tune", "cache", "cache ls"
  std::vector<std::string> verbs;        // what may follow `verb`; empty at a leaf
  std::vector<std::string> options;      // "--tokens", "-t": of the verb, then of every verb
  std::vector<std::string> positionals;  // of the verb
  std::vector<std::string> unexpected;
  std::vector<std::string> words;  // the whole command line
  std::string text;                // the parser's own words
};

std::string usage_message(const WrongCall& call);

// "jobs" of "-j,--jobs": how messages name an option.
std::string option_name(std::string_view names);

// A number of the command line. T is int32_t or double; the message names option, value and rule.
template <typename T>
Result<T> parse_option(const std::string& name, std::string_view text);

}  // namespace moejit::tools
