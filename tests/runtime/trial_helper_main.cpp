// The child of an isolated tune, with bad candidates: a schedule whose canonical JSON is in
// MOEJIT_TEST_HANG never returns, one in MOEJIT_TEST_CRASH writes to address 0. With _GPU behind
// the name the same happens in a kernel on cuda:0.
#include <signal.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "runtime/trial_process.h"

namespace {

using namespace moejit::internal;  // NOLINT

bool named(const char* variable, const Schedule& schedule) {
  const char* list = std::getenv(variable);
  return list != nullptr && std::string_view(list).find(schedule.to_json()) != std::string::npos;
}

// What the device reports ends this process, as a lost context ends any.
void run_on_gpu(const char* body) {
  const auto device = moejit::internal::open_device("cuda:0");
  if (!device.ok()) std::abort();
  KernelSource source;
  source.name = "misbehave.cu";
  source.text =
      "struct Args { long long words[13]; };\n"
      "extern \"C\" __global__ void misbehave(Args args) {\n" +
      std::string(body) + "\n}\n";
  source.arch = (*device)->info().target.arch;
  source.language = "cuda";
  Entry entry;
  entry.name = "misbehave";
  entry.threads = 32;
  source.entries = {entry};
  const auto binary = (*device)->compile(source);
  const auto module = binary.ok() ? (*device)->load(*binary, source) : binary.status();
  if (!module.ok()) {
    std::fprintf(stderr, "trial_helper: %s\n", module.status().to_string().c_str());
    std::abort();
  }
  moejit::Status status = (*module)->launch({}, nullptr);
  if (status.ok()) status = (*device)->synchronize();
  std::fprintf(stderr, "trial_helper: the kernel ended: %s\n", status.to_string().c_str());
}

void misbehave(const Schedule& schedule) {
  if (named("MOEJIT_TEST_CRASH", schedule)) {
    std::signal(SIGSEGV, SIG_DFL);  // a sanitizer would report and exit
    std::raise(SIGSEGV);
  }
  while (named("MOEJIT_TEST_HANG", schedule)) ::pause();
  if (named("MOEJIT_TEST_CRASH_GPU", schedule)) run_on_gpu("*(volatile int*)8 = 1;");
  if (named("MOEJIT_TEST_HANG_GPU", schedule))
    run_on_gpu("volatile int go = 1; while (go) __nanosleep(1000);");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || std::string_view(argv[1]) != kTrialVerb) return 2;
  return serve_trials(0, misbehave);
}
