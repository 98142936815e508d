// Values as the command line spells them.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "moejit/status.h"

namespace moejit::tools {

// "1,8,32": those; "1:8192": the powers of two from 1 to 8192; any mixture, in ascending order and
// without repetition. Every count is at least `least` and at most 2^24.
Result<std::vector<int64_t>> parse_tokens(std::string_view text, int64_t least = 1);

// "60s", "5m", "1h", "500ms" or plain seconds; above 0.
Result<double> parse_seconds(std::string_view text);

// "2G", "512M", "64K", "1048576": powers of 1024. `name` is the option, for the message.
Result<int64_t> parse_bytes(std::string_view name, std::string_view text);

// "30d" or "30": whole days above 0.
Result<int64_t> parse_days(std::string_view name, std::string_view text);

// Ok for "uniform", "zipf:S" with S in 0..10, "trace:FILE", and the extremes "one" and "skip" where
// `extremes` (what `verify` knows).
Status check_routing(std::string_view text, bool extremes);

// "0/4": the first of four shards.
struct Shard {
  int32_t index = 0, count = 1;
};
Result<Shard> parse_shard(std::string_view text);

std::vector<std::string_view> split(std::string_view text, char separator);

}  // namespace moejit::tools
