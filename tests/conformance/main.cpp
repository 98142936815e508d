// Runs each primitive on a GPU and on the simulator with the same inputs and compares bits.
//   moejit_conformance                 both here (needs a GPU, NVRTC and the compiler module)
//   moejit_conformance simulate        the simulator alone: every case must run clean
//   moejit_conformance write FILE      simulate, compile for sm_80 and sm_90a, keep both in FILE
//   moejit_conformance check FILE      run FILE's cases on cuda:0, where nothing can be compiled
// Exit status: 0 all agree, 1 some differ, 77 nothing could run.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>

#include "tests/conformance/archive.h"
#include "tests/conformance/cases.h"

namespace moejit_conformance {
namespace {

using namespace moejit::internal;  // NOLINT: a program about internals
using moejit::Result;
using moejit::Status;
using moejit::StatusCode;

Result<std::vector<uint32_t>> run_case(const Device& device, const Case& test,
                                       const KernelSource& source, const Binary& binary) {
  auto module = device.load(binary, source);
  if (!module.ok()) return module.status();
  std::vector<uint32_t> out(static_cast<size_t>(test.out_words), 0xffffffffu);
  const size_t in_bytes = kInputWords * 4, out_bytes = out.size() * 4;
  auto x = device.allocate(in_bytes), w = device.allocate(in_bytes),
       result = device.allocate(out_bytes);
  for (const auto* memory : {&x, &w, &result}) {
    if (!memory->ok()) return memory->status();
  }
  MOEJIT_RETURN_IF_ERROR(device.copy_in(x->get(), make_input(test, 0).data(), in_bytes));
  MOEJIT_RETURN_IF_ERROR(device.copy_in(w->get(), make_input(test, 1).data(), in_bytes));
  MOEJIT_RETURN_IF_ERROR(device.copy_in(result->get(), out.data(), out_bytes));
  MoeArgs args{};
  args.x = x->get();
  args.w13 = w->get();
  args.out = result->get();
  args.num_tokens = 1;
  MOEJIT_RETURN_IF_ERROR((*module)->launch(args, nullptr));
  MOEJIT_RETURN_IF_ERROR(device.synchronize());
  MOEJIT_RETURN_IF_ERROR(device.copy_out(out.data(), result->get(), out_bytes));
  return out;
}

float as_float(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, 4);
  return v;
}

int64_t ulps(uint32_t a, uint32_t b) {
  if (std::isnan(as_float(a)) && std::isnan(as_float(b))) return 0;
  const auto ordered = [](uint32_t v) {
    return (v & 0x80000000u) != 0 ? -static_cast<int64_t>(v & 0x7fffffffu)
                                  : static_cast<int64_t>(v);
  };
  return std::llabs(ordered(a) - ordered(b));
}

// "" where the results agree as well as the case asks for.
std::string compare(const Case& test, const std::vector<uint32_t>& gpu,
                    const std::vector<uint32_t>& sim) {
  double scale = 0;
  for (uint32_t bits : sim) {
    if (test.max_relative > 0) scale = std::max<double>(scale, std::fabs(as_float(bits)));
  }
  size_t wrong = 0, first = 0;
  int64_t worst = 0;
  for (size_t i = 0; i < sim.size(); ++i) {
    if (gpu[i] == sim[i]) continue;
    const bool close =
        (test.max_ulp > 0 && ulps(gpu[i], sim[i]) <= test.max_ulp) ||
        (test.max_relative > 0 &&
         std::fabs(double{as_float(gpu[i])} - as_float(sim[i])) <= test.max_relative * scale);
    worst = std::max(worst, ulps(gpu[i], sim[i]));
    if (!close && wrong++ == 0) first = i;
  }
  if (wrong == 0) {
    return "";
  }
  char text[200];
  std::snprintf(text, sizeof text,
                "%zu of %zu words differ, first at %zu: GPU %08x, simulator %08x; worst %lld ulp",
                wrong, sim.size(), first, gpu[first], sim[first], static_cast<long long>(worst));
  return text;
}

Result<std::vector<uint32_t>> simulate(const Case& test, const std::string& arch) {
  auto device = sim_backend()->open(arch);
  if (!device.ok()) return device.status();
  const KernelSource source = make_source(test, arch, true);
  auto binary = (*device)->compile(source);
  if (!binary.ok()) return binary.status();
  return run_case(**device, test, source, *binary);
}

std::vector<std::string> archs_of(const Case& test) {
  return test.arch == "sm_80" ? std::vector<std::string>{"sm_80", "sm_90a"}
                              : std::vector<std::string>{"sm_90a"};
}

void report(const Case& test, const std::string& arch, const std::string& problem, int* failures) {
  if (!problem.empty()) ++*failures;
  std::printf("%-28s %-7s %s\n", test.name.c_str(), arch.c_str(),
              problem.empty() ? "agrees" : problem.c_str());
}

std::string words(const Status& status) {
  return status.to_string() + (status.log().empty() ? "" : "\n" + status.log());
}

int run_simulator(const char* path) {
  std::string why;
  if (sim_backend()->devices(&why).empty()) {
    std::printf("no simulator: %s\n", why.c_str());
    return 77;
  }
  std::vector<Expected> kept;
  int failures = 0;
  for (const Case& test : all_cases()) {
    for (const std::string& arch : archs_of(test)) {
      auto out = simulate(test, arch);
      if (!out.ok()) {
        report(test, arch, words(out.status()), &failures);
        continue;
      }
      if (path == nullptr) continue;
      auto device = cuda_backend()->open(arch);
      if (!device.ok()) return std::printf("%s\n", words(device.status()).c_str()), 1;
      auto binary = (*device)->compile(make_source(test, arch, false));
      if (!binary.ok()) {
        report(test, arch, words(binary.status()), &failures);
        continue;
      }
      kept.push_back({test.name, *binary, *out});
    }
  }
  if (path != nullptr) {
    const Status status = write_archive(path, kept);
    if (!status.ok()) return std::printf("%s\n", words(status).c_str()), 1;
  }
  std::printf("%d cases failed\n", failures);
  return failures == 0 ? 0 : 1;
}

int run_gpu(const char* path) {
  auto device = cuda_backend()->open("0");
  if (!device.ok()) return std::printf("%s\n", words(device.status()).c_str()), 77;
  const std::string arch = (*device)->info().target.arch;
  std::printf("%s, %s\n", (*device)->info().product.c_str(), arch.c_str());
  std::vector<Expected> kept;
  if (path != nullptr) {
    auto read = read_archive(path);
    if (!read.ok()) return std::printf("%s\n", words(read.status()).c_str()), 1;
    kept = std::move(*read);
  }
  int failures = 0, ran = 0;
  for (const Case& test : all_cases()) {
    const auto archs = archs_of(test);
    if (std::find(archs.begin(), archs.end(), arch) == archs.end()) continue;
    const KernelSource source = make_source(test, arch, false);
    Result<Binary> binary = Status(StatusCode::kNotFound, "not in the archive");
    Result<std::vector<uint32_t>> want = Status(StatusCode::kNotFound, "not in the archive");
    for (const Expected& item : kept) {
      if (item.name != test.name || item.binary.arch != arch) continue;
      binary = item.binary;
      want = item.out;
    }
    if (path == nullptr) {
      want = simulate(test, arch);
      binary = (*device)->compile(source);
    }
    ++ran;
    if (!want.ok()) {
      report(test, arch, words(want.status()), &failures);
    } else if (!binary.ok()) {
      report(test, arch, words(binary.status()), &failures);
    } else if (auto got = run_case(**device, test, source, *binary); !got.ok()) {
      report(test, arch, words(got.status()), &failures);
    } else {
      report(test, arch, compare(test, *got, *want), &failures);
    }
  }
  std::printf("%d of %d cases differ\n", failures, ran);
  return ran == 0 ? 77 : failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace moejit_conformance

int main(int argc, char** argv) {
  const std::string verb = argc > 1 ? argv[1] : "";
  if (verb.empty()) return moejit_conformance::run_gpu(nullptr);
  if (verb == "simulate") return moejit_conformance::run_simulator(nullptr);
  if (verb == "write" && argc == 3) return moejit_conformance::run_simulator(argv[2]);
  if (verb == "check" && argc == 3) return moejit_conformance::run_gpu(argv[2]);
  std::printf("usage: moejit_conformance [simulate | write FILE | check FILE]\n");
  return 2;
}
