// The C ABI over moejit/tuning.h: requests and reports as JSON.
#include "runtime/capi_guard.h"
#include "runtime/tuning_json.h"

using moejit::Status;
using moejit::internal::give_string;
using moejit::internal::guarded;

extern "C" {

moejit_status moejit_tune_json(const char* request, moejit_progress_callback progress, void* user,
                               char** report) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(report);
    *report = nullptr;
    MOEJIT_REQUIRE(request);
    auto read = moejit::internal::tune_request_from_json(request);
    if (!read.ok()) return read.status();
    if (progress != nullptr) {
      read->progress = [progress, user](const moejit::TuneProgress& p) {
        return progress(moejit::internal::to_json(p).c_str(), user) != 0;
      };
    }
    const auto result = moejit::tune(*read);
    if (!result.ok()) return result.status();
    *report = give_string(moejit::internal::to_json(*result));
    return {};
  });
}

moejit_status moejit_bench_json(const char* request, char** report) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(report);
    *report = nullptr;
    MOEJIT_REQUIRE(request);
    const auto read = moejit::internal::bench_request_from_json(request);
    if (!read.ok()) return read.status();
    const auto result = moejit::bench(*read);
    if (!result.ok()) return result.status();
    *report = give_string(moejit::internal::to_json(*result));
    return {};
  });
}

moejit_status moejit_verify_json(const char* request, char** report) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(report);
    *report = nullptr;
    MOEJIT_REQUIRE(request);
    const auto read = moejit::internal::verify_request_from_json(request);
    if (!read.ok()) return read.status();
    const auto rows = moejit::verify(*read);
    if (!rows.ok()) return rows.status();
    *report = give_string(moejit::internal::to_json(*rows));
    return {};
  });
}

moejit_status moejit_explain_json(const char* request, char** report) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(report);
    *report = nullptr;
    MOEJIT_REQUIRE(request);
    const auto read = moejit::internal::explain_request_from_json(request);
    if (!read.ok()) return read.status();
    const auto rows = moejit::explain(read->config, read->options, read->tokens);
    if (!rows.ok()) return rows.status();
    *report = give_string(moejit::internal::to_json(read->config, *rows));
    return {};
  });
}

moejit_status moejit_background_start(const char* options) {
  return guarded([&]() -> Status {
    const auto read = moejit::internal::background_options_from_json(options ? options : "{}");
    if (!read.ok()) return read.status();
    return moejit::start_background_tuning(*read);
  });
}

moejit_status moejit_background_pause(int32_t paused) {
  return guarded([&]() -> Status {
    if (paused != 0 && paused != 1) {
      return moejit::invalid_argument("paused = " + std::to_string(paused) + ": must be 0 or 1");
    }
    moejit::pause_background_tuning(paused == 1);
    return {};
  });
}

moejit_status moejit_background_stop(void) {
  return guarded([&]() -> Status {
    moejit::stop_background_tuning();
    return {};
  });
}

moejit_status moejit_background_status_json(char** status) {
  return guarded([&]() -> Status {
    MOEJIT_REQUIRE(status);
    *status = nullptr;
    *status = give_string(moejit::internal::to_json(moejit::background_tuning_status()));
    return {};
  });
}

}  // extern "C"
