#include "tools/usage.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <type_traits>

#include "base/nearest.h"

namespace moejit::tools {
namespace {

std::string nearest_or_all(std::string_view name, const std::vector<std::string>& known) {
  const auto near = internal::nearest_names(name, known, 2);
  return near.empty() ? "there are " + internal::join(known)
                      : "did you mean " + internal::join(near, " or ") + "?";
}

std::string positional_usage(const WrongCall& call) {
  if (call.positionals.empty()) return "takes options alone";
  std::string usage = "takes";
  for (const std::string& name : call.positionals) usage += " " + name;
  return usage;
}

std::string unexpected_message(const WrongCall& call) {
  const auto option = std::find_if(call.unexpected.begin(), call.unexpected.end(),
                                   [](const std::string& text) { return text.starts_with("-"); });
  if (option != call.unexpected.end()) {
    const std::string name = option->substr(0, option->find('='));
    // Far names help nobody: a verb has dozens of options.
    const auto near = internal::nearest_names(name, call.options, 1);
    const bool close =
        !near.empty() && (internal::edit_distance(name, near[0]) <= name.size() / 3 ||
                          (name.size() > 4 && near[0].find(name) != std::string::npos));
    return "unknown option " + internal::in_quotes(name) +
           (close ? ": did you mean " + near[0] + "?" : "");
  }
  // "-model x" is -m with the value "odel", and x is left over.
  for (const std::string& word : call.words) {
    const bool known =
        std::find(call.options.begin(), call.options.end(), "-" + word) != call.options.end();
    if (word.size() > 2 && word[0] == '-' && word[1] != '-' && known)
      return internal::in_quotes(word) + " is not an option: did you mean -" + word + "?";
  }
  const std::string word = internal::in_quotes(call.unexpected.front());
  if (!call.verbs.empty()) {
    return "unknown verb " + word + ": " + nearest_or_all(call.unexpected.front(), call.verbs);
  }
  return "unexpected argument " + word + ": moejit " + call.verb + " " + positional_usage(call);
}

// "--model: 1 required NAME|PATH missing", "--model: At Most 1 required but received 2"
std::string count_message(const std::string& text) {
  const size_t colon = text.find(": ");
  if (colon == std::string::npos) return text;
  const std::string name = text.substr(0, colon);
  if (text.find("At Most") != std::string::npos) return name + ": given more than once";
  const size_t what = text.find(" required "), end = text.rfind(" missing");
  if (what == std::string::npos || end == std::string::npos || end < what + 10) return text;
  return name + ": needs a value, " + text.substr(what + 10, end - what - 10);
}

}  // namespace

std::string usage_message(const WrongCall& call) {
  switch (call.kind) {
    case WrongCall::Kind::kUnexpected:
      if (!call.unexpected.empty()) return unexpected_message(call);
      break;
    case WrongCall::Kind::kMissing:
      // CLI11 asks for the verb before it says that it does not know the word in its place.
      if (!call.verbs.empty()) {
        if (!call.unexpected.empty()) return unexpected_message(call);
        return "no verb: there are " + internal::join(call.verbs);
      }
      return (call.positionals.empty() ? call.text : call.positionals.front() + " is missing") +
             ": moejit " + call.verb + " " + positional_usage(call);
    case WrongCall::Kind::kCount:
      return count_message(call.text);
    case WrongCall::Kind::kValue:
    case WrongCall::Kind::kOther:
      break;
  }
  return call.text;
}

std::string option_name(std::string_view names) {
  const size_t start = names.rfind("--");
  return std::string(start == std::string_view::npos ? names : names.substr(start + 2));
}

template <typename T>
Result<T> parse_option(const std::string& name, std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  bool good = error == std::errc() && stop == end;
  std::string rule = "must be a number";
  if constexpr (std::is_integral_v<T>) {
    rule = "must be a whole number";
    if (error == std::errc::result_out_of_range) {
      rule += " from " + std::to_string(std::numeric_limits<T>::min()) + " to " +
              std::to_string(std::numeric_limits<T>::max());
    }
  } else {
    good = good && std::isfinite(value);
  }
  if (good) return value;
  return invalid_argument(name + " = " + internal::in_quotes(text) + ": " + rule);
}

template Result<int32_t> parse_option<int32_t>(const std::string&, std::string_view);
template Result<double> parse_option<double>(const std::string&, std::string_view);

}  // namespace moejit::tools
