// The child of an isolated tune, with bad candidates: a schedule whose canonical JSON is in
// MOEJIT_TEST_HANG never returns, one in MOEJIT_TEST_CRASH writes to address 0.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "runtime/trial_process.h"

namespace {

bool named(const char* variable, const moejit::internal::Schedule& schedule) {
  const char* list = std::getenv(variable);
  return list != nullptr && std::string_view(list).find(schedule.to_json()) != std::string::npos;
}

void misbehave(const moejit::internal::Schedule& schedule) {
  if (named("MOEJIT_TEST_CRASH", schedule)) {
    volatile int* volatile nowhere = nullptr;
    *nowhere = 1;
  }
  while (named("MOEJIT_TEST_HANG", schedule)) ::pause();
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || std::string_view(argv[1]) != moejit::internal::kTrialVerb) return 2;
  return moejit::internal::serve_trials(0, misbehave);
}
