// "Did you mean": the known names that are closest to a misspelt one.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace moejit::internal {

// Levenshtein distance of the two, ASCII case ignored.
size_t edit_distance(std::string_view a, std::string_view b);

// Up to `count` of `names`, closest first, ties in the order given. A name that shares nothing with
// `name` is left out. Reads at most the first 64 characters of `name`.
std::vector<std::string> nearest_names(std::string_view name, const std::vector<std::string>& names,
                                       size_t count = 3);

// "a, b, c"
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");

// `text` in quotes for a message, control characters replaced, cut after 80 characters.
std::string in_quotes(std::string_view text);

}  // namespace moejit::internal
