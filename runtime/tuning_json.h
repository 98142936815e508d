// Requests and reports of moejit/tuning.h as JSON, for the C ABI and for whoever speaks through it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "moejit/tuning.h"

namespace moejit::internal {

// kDataError names the field; a layer that breaks a rule is kInvalidArgument.
Result<TuneRequest> tune_request_from_json(std::string_view text);
Result<BenchRequest> bench_request_from_json(std::string_view text);
Result<VerifyRequest> verify_request_from_json(std::string_view text);

struct ExplainRequest {
  MoeConfig config;
  Options options;
  std::vector<int64_t> tokens;
};
Result<ExplainRequest> explain_request_from_json(std::string_view text);

Result<BackgroundOptions> background_options_from_json(std::string_view text);

// One line each. What is not known is null.
std::string to_json(const TuneProgress& progress);
std::string to_json(const TuneReport& report);
std::string to_json(const BenchReport& report);
std::string to_json(const std::vector<VerifyRow>& rows);
std::string to_json(const MoeConfig& config, const std::vector<Explanation>& explanations);
std::string to_json(const BackgroundStatus& status);

Result<Isolation> isolation_from_string(std::string_view name);

}  // namespace moejit::internal
