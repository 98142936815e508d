#include "base/nearest.h"

#include <algorithm>
#include <numeric>

namespace moejit::internal {
namespace {

constexpr size_t kMaxName = 64;

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) c = lower(c);
  return result;
}

}  // namespace

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t substitute = diagonal + (lower(a[i]) == lower(b[j]) ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& names,
                                       size_t count) {
  name = name.substr(0, kMaxName);
  struct Candidate {
    size_t score;
    const std::string* text;
  };
  std::vector<Candidate> found;
  const std::string wanted = lower(name);
  for (const std::string& candidate : names) {
    const size_t longer = std::max(name.size(), candidate.size());
    size_t score = edit_distance(name, candidate);
    // "qwen3" is far from "qwen3-30b-a3b" by edits, yet surely meant: a prefix or part ranks by
    // what it leaves out, at a quarter of the price.
    const std::string text = lower(candidate);
    if (!wanted.empty() && text.find(wanted) != std::string::npos) {
      score = (candidate.size() - wanted.size()) / 4;
    }
    if (score < longer) found.push_back({score, &candidate});
  }
  std::sort(found.begin(), found.end(), [](const Candidate& a, const Candidate& b) {
    return a.score != b.score ? a.score < b.score : a.text < b.text;  // ties: the order given
  });
  std::vector<std::string> result;
  for (size_t i = 0; i < found.size() && i < count; ++i) result.push_back(*found[i].text);
  return result;
}

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string result;
  for (const std::string& part : parts) {
    if (!result.empty()) result += separator;
    result += part;
  }
  return result;
}

std::string in_quotes(std::string_view text) {
  constexpr size_t kMax = 80;
  std::string result = "\"";
  for (char c : text.substr(0, kMax)) {
    result += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  return result + (text.size() > kMax ? "...\"" : "\"");
}

}  // namespace moejit::internal
