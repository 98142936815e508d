// What the generator hands to a compiler and to a backend, against samples that a reader has seen:
// the constants baked into the text, the workspace table, the launches. A change here is meant, or
// it is a mistake. MOEJIT_UPDATE_GOLDEN=1 writes the samples anew.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "backends/backend.h"
#include "generator/family.h"

namespace moejit::internal {
namespace {

namespace fs = std::filesystem;

struct Sample {
  std::string name;
  MoeConfig config;
  int64_t tokens;
};

std::vector<Sample> samples() {
  MoeConfig plain{.num_experts = 8,
                  .top_k = 2,
                  .hidden_size = 256,
                  .intermediate_size = 192,
                  .dtype = DType::kBF16,
                  .router = {}};
  MoeConfig rich = plain;
  rich.num_experts = 64;
  rich.top_k = 6;
  rich.hidden_size = 200;
  rich.intermediate_size = 88;
  rich.activation = Activation::kSwigluOai;
  rich.bias = rich.interleaved = rich.up_first = rich.weight_on_input = true;
  rich.swiglu_alpha = 1.5;
  rich.num_shared_experts = 1;
  rich.router.scoring = Scoring::kSigmoid;
  rich.router.correction_bias = rich.router.renormalize = true;
  rich.router.n_group = 8;
  rich.router.topk_group = 3;
  rich.router.scaling_factor = 2.5;
  MoeConfig exact = plain;
  exact.dtype = DType::kF32;
  exact.gated = false;
  exact.activation = Activation::kRelu2;
  MoeConfig packed = rich;
  packed.packed = true;
  return {{"plain", plain, 1}, {"rich", rich, 256}, {"exact", exact, 64}, {"packed", packed, 8}};
}

// Fixed, so that a sample does not depend on the machine.
std::vector<Target> targets() {
  return {{.backend = BackendKind::kCpu,
           .arch = "x86-64-v4+bf16",
           .num_units = 2,
           .l1_bytes = 32 << 10,
           .l2_bytes = 1 << 20,
           .l3_bytes = 32 << 20},
          {.backend = BackendKind::kCuda,
           .arch = "sm_90a",
           .num_units = 132,
           .l1_bytes = 0,
           .l2_bytes = 50 << 20,
           .shared_bytes = 232448,
           .registers = 65536},
          {.backend = BackendKind::kHip,
           .arch = "gfx942",
           .num_units = 304,
           .l1_bytes = 0,
           .l2_bytes = 4 << 20,
           .shared_bytes = 64 << 10,
           .registers = 131072}};
}

std::string launches(const KernelSource& source) {
  std::ostringstream text;
  text << "name " << source.name << "\narch " << source.arch << "\n";
  for (const std::string& option : source.options) text << "option " << option << "\n";
  for (const WorkspaceRegion& r : source.workspace)
    text << "region " << r.name << ": " << r.fixed_bytes << " + T * " << r.bytes_per_token << "\n";
  for (const Entry& e : source.entries) {
    text << "entry " << e.name << ": when " << static_cast<int>(e.when) << ", blocks "
         << e.grid.fixed << " + T * " << e.grid.per_token_num << " / " << e.grid.per_token_den
         << ", at most " << e.grid.per_unit_cap << " a unit, threads " << e.threads << ", shared "
         << e.shared_bytes << ", cluster " << e.cluster << ", dependent " << e.dependent_launch
         << ", maps " << e.tensor_maps << ", serial up to " << e.serial_up_to;
    if (e.min_tokens > 0) text << ", from " << e.min_tokens << " tokens";
    if (e.max_tokens < INT64_MAX) text << ", up to " << e.max_tokens << " tokens";
    text << "\n";
  }
  for (const TensorMapSpec& m : source.tensor_maps) {
    text << "map " << static_cast<int>(m.base) << " region " << m.region << ":";
    for (int64_t d : m.dims) text << " " << d;
    text << ", rows per token " << m.rows_per_token << ", box";
    for (int32_t b : m.box) text << " " << b;
    text << "\n";
  }
  return text.str();
}

// The lines of the text that the generator writes itself: what is in namespace moejit_cfg.
std::string constants(const std::string& text) {
  std::istringstream lines(text);
  std::string kept;
  bool inside = false;
  for (std::string line; std::getline(lines, line);) {
    if (line == "namespace moejit_cfg {") inside = true;
    if (inside) kept += line + "\n";
    if (line == "}  // namespace moejit_cfg") inside = false;
  }
  return kept;
}

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Golden, EmittedConstantsAndLaunches) {
  const fs::path folder = fs::path(MOEJIT_SOURCE_DIR) / "tests" / "emit" / "golden";
  const bool update = std::getenv("MOEJIT_UPDATE_GOLDEN") != nullptr;
  size_t compared = 0;
  for (const Target& target : targets()) {
    for (const Family* family : families()) {
      for (const Sample& sample : samples()) {
        if (family->params().empty() || family->why_not(sample.config, target)) continue;
        const Schedule schedule = family->default_schedule(sample.config, target, sample.tokens);
        const KernelSource source = family->emit(sample.config, target, schedule);
        const std::string text = "schedule " + schedule.to_json() + "\n" + launches(source) + "\n" +
                                 constants(source.text);
        const fs::path path = folder / (std::string(family->name()) + "_" + sample.name + ".txt");
        if (update) std::ofstream(path, std::ios::binary) << text;
        EXPECT_EQ(text, read(path)) << path << ": MOEJIT_UPDATE_GOLDEN=1 writes it anew";
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, 8u);
}

// Nothing but the arguments goes in: no clock, no path, no address, no iteration order of a hash.
TEST(Golden, TheSameInputGivesTheSameBytes) {
  for (const Target& target : targets()) {
    for (const Family* family : families()) {
      for (const Sample& sample : samples()) {
        if (family->params().empty() || family->why_not(sample.config, target)) continue;
        const Schedule schedule = family->default_schedule(sample.config, target, sample.tokens);
        const KernelSource first = family->emit(sample.config, target, schedule);
        const KernelSource second = family->emit(*MoeConfig::from_json(sample.config.to_json()),
                                                 target, *Schedule::from_json(schedule.to_json()));
        EXPECT_EQ(first.text, second.text) << family->name() << " " << sample.name;
        EXPECT_EQ(launches(first), launches(second));
        EXPECT_EQ(first.text.find(MOEJIT_SOURCE_DIR), std::string::npos);
        EXPECT_EQ(first.text.find("#include"), std::string::npos) << "the text is self-contained";
      }
    }
  }
}

}  // namespace
}  // namespace moejit::internal
