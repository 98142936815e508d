#include "tools/parse.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "base/nearest.h"

namespace moejit::tools {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 24;

template <typename T>
bool parse_number(std::string_view text, T* out) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *out);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    if (at == std::string_view::npos) return parts;
    text.remove_prefix(at + 1);
  }
}

Result<std::vector<int64_t>> parse_tokens(std::string_view text, int64_t least) {
  const auto wrong = [&](std::string_view rule) {
    return invalid_argument("tokens = " + internal::in_quotes(text) + ": " + std::string(rule));
  };
  const auto count = [&](std::string_view part, int64_t* out) {
    return parse_number(part, out) && *out >= least && *out <= kMostTokens;
  };
  const std::string rule = "must be counts from " + std::to_string(least) + " to " +
                           std::to_string(kMostTokens) +
                           " such as \"1,8,32\", or ranges such as \"1:8192\"";
  std::vector<int64_t> tokens;
  for (const std::string_view part : split(text, ',')) {
    const auto ends = split(part, ':');
    int64_t low = 0, high = 0;
    if (ends.size() > 2 || !count(ends.front(), &low) || !count(ends.back(), &high)) {
      return wrong(rule);
    }
    if (ends.size() == 1) {
      tokens.push_back(low);
      continue;
    }
    const size_t before = tokens.size();
    for (int64_t power = 1; power <= high; power *= 2) {
      if (power >= low) tokens.push_back(power);
    }
    if (tokens.size() == before) return wrong("the range holds no power of two");
  }
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  return tokens;
}

Result<double> parse_seconds(std::string_view text) {
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string_view unit = digits == std::string_view::npos ? "s" : text.substr(digits);
  const double factor = unit == "s"    ? 1
                        : unit == "ms" ? 1e-3
                        : unit == "m"  ? 60
                        : unit == "h"  ? 3600
                                       : 0;
  double value = 0;
  if (factor == 0 || !parse_number(text.substr(0, digits), &value) || !(value > 0) || value > 1e9) {
    return invalid_argument("budget = " + internal::in_quotes(text) +
                            ": must be a time above 0 such as \"60s\", \"5m\" or \"1h\"");
  }
  return value * factor;
}

Result<int64_t> parse_bytes(std::string_view name, std::string_view text) {
  std::string_view digits = text;
  constexpr std::string_view kSuffixes = "KMGT";
  int shift = 0;
  if (const size_t at = text.empty() ? kSuffixes.npos : kSuffixes.find(text.back());
      at != kSuffixes.npos) {
    shift = 10 * (static_cast<int>(at) + 1);
    digits.remove_suffix(1);
  }
  int64_t value = 0;
  if (!parse_number(digits, &value) || value < 0 || value > (INT64_MAX >> shift)) {
    return invalid_argument(std::string(name) + " = " + internal::in_quotes(text) +
                            ": must be a number of bytes with an optional suffix K, M, G or T");
  }
  return value << shift;
}

Result<int64_t> parse_days(std::string_view name, std::string_view text) {
  const std::string_view digits = text.ends_with('d') ? text.substr(0, text.size() - 1) : text;
  int64_t value = 0;
  if (!parse_number(digits, &value) || value < 1 || value > 100000) {
    return invalid_argument(std::string(name) + " = " + internal::in_quotes(text) +
                            ": must be a number of days above 0 such as \"30d\"");
  }
  return value;
}

Result<Shard> parse_shard(std::string_view text) {
  const auto parts = split(text, '/');
  Shard shard;
  if (parts.size() != 2 || !parse_number(parts[0], &shard.index) ||
      !parse_number(parts[1], &shard.count) || shard.count < 1 || shard.index < 0 ||
      shard.index >= shard.count) {
    return invalid_argument("shard = " + internal::in_quotes(text) +
                            ": must be I/N with I from 0 to N-1, such as \"0/4\"");
  }
  return shard;
}

Status check_routing(std::string_view text, bool extremes) {
  if (text == "uniform") return {};
  if (extremes && (text == "one" || text == "skip")) return {};
  if (text.starts_with("trace:") && text.size() > 6) return {};
  if (double exponent = 0; text.starts_with("zipf:") && parse_number(text.substr(5), &exponent) &&
                           exponent >= 0 && exponent <= 10) {
    return {};
  }
  return invalid_argument("routing = " + internal::in_quotes(text) +
                          ": must be uniform, zipf:S with S from 0 to 10, " +
                          (extremes ? "trace:FILE, one or skip" : "or trace:FILE"));
}

}  // namespace moejit::tools
