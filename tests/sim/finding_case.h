// Broken kernels and their repaired twins: the text of a case, and how it is run.
#pragma once

#include <gmock/gmock.h>

#include "base/settings.h"
#include "tests/sim/sim_kernel.h"

namespace moejit::internal::test {

struct Case {
  const char* name;
  const char* kind;  // of the finding
  const char* at;    // text of a source line in the report
  const char* body;  // BAD(x) stays only in the broken kernel, GOOD(x) only in the repaired one
  KernelShape shape;
  bool needs_sm90 = false;
  bool dependent = false;  // a second entry k1 depends on k0
};

inline void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

// Runs the broken or the repaired form.
inline Status run_case(const Case& c, bool broken) {
  const std::string arch = c.needs_sm90 ? "sm_90a" : "sm_80";
  const Device* device = sim_device(arch);
  Buffer<uint32_t> x(device, 1024), out(device, 1024), workspace(device, 1024);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint32_t>(i);
  MoeArgs args{};
  args.x = x.data();
  args.out = out.data();
  args.workspace = workspace.data();
  const std::string head = std::string("#define OUT static_cast<u32*>(a.out)\n") +
                           "#define WORK static_cast<u32*>(a.workspace)\n" +
                           (broken ? "#define BAD(...) __VA_ARGS__\n#define GOOD(...)\n"
                                   : "#define BAD(...)\n#define GOOD(...) __VA_ARGS__\n");
  std::vector<KernelShape> shapes = {c.shape};
  if (std::string(c.body).find("(k1,") != std::string::npos) {
    shapes = {{.shared_bytes = c.shape.shared_bytes}, c.shape};
  }
  KernelSource source = sim_source(arch, head + c.body, shapes);
  if (c.dependent) source.entries[1].dependent_launch = true;
  return run_sim(source, args);
}

// Several kinds are found by the full checks only.
inline void expect_reported(const Case& c) {
  if (settings().sim_checks == "fast") GTEST_SKIP() << "MOEJIT_SIM_CHECKS is fast";
  const Status status = run_case(c, true);
  EXPECT_EQ(status.code(), StatusCode::kVerificationFailed) << status.to_string();
  EXPECT_THAT(status.message(), ::testing::HasSubstr(c.kind)) << status.log();
  EXPECT_THAT(status.to_string() + status.log(), ::testing::HasSubstr(c.at));
}

inline void expect_passes(const Case& c) {
  const Status status = run_case(c, false);
  EXPECT_TRUE(status.ok()) << status.to_string() << "\n" << status.log();
}

}  // namespace moejit::internal::test
