// Real cross-compilation: every family for every architecture, no GPU needed.
#include <gtest/gtest.h>

#include <cstdlib>

#include "backends/cpu/compiler_module.h"
#include "backends/hip/code_object.h"
#include "backends/hip/hiprtc.h"
#include "generator/probe.h"
#include "tests/generators/gpu_configs.h"
#include "tests/hip/loader_view.h"

namespace moejit::internal {
namespace {

int test_level() {
  const char* level = std::getenv("MOEJIT_TEST_LEVEL");
  return level == nullptr ? 1 : std::atoi(level);
}

// The lines of one kernel in Clang's assembly.
std::string body_of(const std::string& assembly, const std::string& kernel) {
  const size_t begin = assembly.find("\n" + kernel + ":");
  if (begin == std::string::npos) return "";
  return assembly.substr(begin, assembly.find(".Lfunc_end", begin) - begin);
}
int count(const std::string& text, const std::string& what) {
  int n = 0;
  for (size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

std::set<std::string> names_of(const KernelSource& source) {
  std::set<std::string> names;
  for (const Entry& entry : source.entries) names.insert(entry.name);
  return names;
}

class HipCompile : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (const auto module = CompilerModule::get(); !module.ok())
      GTEST_SKIP() << module.status().message();
  }
  static bool is_gfx11() { return std::string(GetParam()) == "gfx1100"; }
};

TEST_P(HipCompile, DefaultsCompileWithoutSpills) {
  const auto device = hip_backend()->open(GetParam());
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  const std::vector<NamedConfig> configs = gpu_configs();
  for (size_t i = 0; i < configs.size(); ++i) {
    const NamedConfig& c = configs[i];
    for (const Family* family : families()) {
      if (family->why_not(c.config, target)) continue;
      std::vector<int64_t> sizes = {i % 2 == 0 ? 8192 : 4};
      if (test_level() > 1) sizes = {1, 16, 64, 128, 8192};
      for (const int64_t tokens : sizes) {
        const Schedule schedule = family->default_schedule(c.config, target, tokens);
        const KernelSource source = family->emit(c.config, target, schedule);
        EXPECT_EQ(source.text, family->emit(c.config, target, schedule).text);
        const auto binary = (*device)->compile(source);
        ASSERT_TRUE(binary.ok()) << c.name << " " << schedule.to_json() << "\n"
                                 << binary.status().to_string() << "\n"
                                 << binary.status().log();
        EXPECT_EQ(binary->format, "hsaco");
        EXPECT_GT(binary->registers, 0);
        EXPECT_EQ(binary->spill_bytes, 0) << c.name << " " << schedule.to_json();
        EXPECT_LE(binary->shared_bytes, target.shared_bytes);
        const auto object = hip::read_code_object(binary->bytes);
        ASSERT_TRUE(object.ok()) << object.status().to_string();
        EXPECT_EQ(object->arch, GetParam());
        EXPECT_EQ(LoaderView(binary->bytes).kernels(), names_of(source));
        // As many waves fit as the schedule counts on.
        const int lanes = is_gfx11() ? 32 : 64, registers = is_gfx11() ? 1536 : 512;
        for (const hip::KernelFacts& kernel : object->kernels) {
          if (kernel.name.find("_gate_up") == std::string::npos) continue;
          const int waves = (kernel.max_threads / lanes * schedule.at("blocks") + 3) / 4;
          EXPECT_LE(kernel.vgprs * waves, registers) << c.name << " " << schedule.to_json();
        }
      }
    }
  }
}

TEST_P(HipCompile, InnerLoopsUseTheMatrixCores) {
  const auto device = hip_backend()->open(GetParam());
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  struct Wanted {
    DType dtype;
    const char *small, *large;
  };
  if (is_gfx11()) GTEST_SKIP() << "in a test of its own";
  // gfx942 renamed the instructions.
  const bool new_names = std::string(GetParam()) == "gfx942";
  const Wanted all[] = {
      {DType::kBF16, new_names ? "v_mfma_f32_16x16x16_bf16" : "v_mfma_f32_16x16x16bf16_1k",
       new_names ? "v_mfma_f32_32x32x8_bf16" : "v_mfma_f32_32x32x8bf16_1k"},
      {DType::kF16, new_names ? "v_mfma_f32_16x16x16_f16" : "v_mfma_f32_16x16x16f16",
       new_names ? "v_mfma_f32_32x32x8_f16" : "v_mfma_f32_32x32x8f16"},
      {DType::kF32, new_names ? "v_mfma_f32_16x16x4_f32" : "v_mfma_f32_16x16x4f32",
       new_names ? "v_mfma_f32_32x32x2_f32" : "v_mfma_f32_32x32x2f32"}};
  for (const Wanted& wanted : all) {
    const MoeConfig config{.num_experts = 64,
                           .top_k = 8,
                           .hidden_size = 2048,
                           .intermediate_size = 768,
                           .dtype = wanted.dtype,
                           .router = {}};
    const int parts = wanted.dtype == DType::kF32 ? 4 : 2;  // products of a 16-byte piece

    const Family* stream = find_family("hip_stream");
    const Schedule decode = stream->default_schedule(config, target, 1);
    auto text = (*device)->assembly(stream->emit(config, target, decode));
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    std::string body = body_of(*text, "moe_wave_gate_up");
    const int depth = decode.at("depth");
    EXPECT_EQ(count(body, wanted.small), depth * parts) << decode.to_json();
    // Weights past the caches, 16 bytes a lane: in the prologue and in the loop.
    EXPECT_EQ(count(body, new_names ? " nt\n" : " glc slc\n"), 2 * depth) << decode.to_json();
    // Each product waits for its own two loads and leaves all younger ones under way.
    EXPECT_EQ(count(body, "s_waitcnt vmcnt(" + std::to_string(2 * depth - 2) + ")"), depth)
        << decode.to_json();
    EXPECT_EQ(count(body, "flat_load"), 0);
    EXPECT_EQ(count(body, "scratch_load") + count(body, "buffer_load"), 0);

    const Family* tile = find_family("hip_tile");
    Schedule prefill = tile->default_schedule(config, target, 8192);
    text = (*device)->assembly(tile->emit(config, target, prefill));
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    body = body_of(*text, "moe_mfma_gate_up");
    // A stage has 8 pieces of a row; a wave has its share of the tile in both directions.
    const int products = prefill.at("tile_m") / prefill.at("waves_m") / 32 *
                         (prefill.at("tile_n") * prefill.at("waves_m") / 4 / 32);
    EXPECT_EQ(count(body, wanted.large), products * 4 * parts) << prefill.to_json();
    // The operands of the next of four steps are under way in LDS while a step is multiplied.
    const int reads = prefill.at("tile_m") / prefill.at("waves_m") / 32 +
                      prefill.at("tile_n") * prefill.at("waves_m") / 4 / 32;
    EXPECT_EQ(count(body, "ds_read_b128"), 4 * reads);
    EXPECT_GE(count(body, "lgkmcnt(" + std::to_string(reads) + ")"), 3) << prefill.to_json();
    EXPECT_GE(count(body, "global_load_dwordx4"),
              2 * (prefill.at("tile_m") + prefill.at("tile_n")) / 32);
    EXPECT_EQ(count(body, "flat_load"), 0);
  }
}

// Blocks that share a reduction: the entry that adds their sums is there, and the loop stays.
TEST_P(HipCompile, SplitReductionsCompileWithoutSpills) {
  const auto device = hip_backend()->open(GetParam());
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  const Family* tile = find_family("hip_tile");
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    const MoeConfig config{.num_experts = 8,
                           .top_k = 2,
                           .hidden_size = 4096,
                           .intermediate_size = 1800,
                           .dtype = dtype,
                           .bias = true,
                           .router = {}};
    for (const int64_t tokens : {16, 512}) {
      Schedule schedule = tile->default_schedule(config, target, tokens);
      schedule.params["split"] = 4;
      schedule.params["split_gate"] = 2;
      ASSERT_FALSE(tile->why_not(config, target, schedule)) << schedule.to_json();
      const auto binary = (*device)->compile(tile->emit(config, target, schedule));
      ASSERT_TRUE(binary.ok()) << binary.status().to_string() << "\n" << binary.status().log();
      EXPECT_EQ(binary->spill_bytes, 0) << schedule.to_json();
      const auto object = hip::read_code_object(binary->bytes);
      ASSERT_TRUE(object.ok());
      int sums = 0;
      for (const hip::KernelFacts& kernel : object->kernels) sums += kernel.name == "moe_mfma_sums";
      EXPECT_EQ(sums, 1);
    }
  }
}

// WMMA in 16 bits; in f32 FMAs whose one operand comes from another lane.
TEST(HipCompileGfx11, InnerLoopsUseTheMatrixCores) {
  if (!CompilerModule::get().ok()) GTEST_SKIP() << "no compiler module";
  const auto device = hip_backend()->open("gfx1100");
  ASSERT_TRUE(device.ok());
  const Target& target = (*device)->info().target;
  struct Wanted {
    DType dtype;
    const char* product;
    int each;  // instructions of a product of 16 x 16 and two pieces
  };
  for (const Wanted& wanted : {Wanted{DType::kBF16, "v_wmma_f32_16x16x16_bf16", 1},
                               Wanted{DType::kF16, "v_wmma_f32_16x16x16_f16", 1},
                               Wanted{DType::kF32, "v_fmac_f32_dpp", 64}}) {
    const MoeConfig config{.num_experts = 64,
                           .top_k = 8,
                           .hidden_size = 2048,
                           .intermediate_size = 768,
                           .dtype = wanted.dtype,
                           .router = {}};
    const Family* stream = find_family("hip_stream");
    const Schedule decode = stream->default_schedule(config, target, 1);
    auto text = (*device)->assembly(stream->emit(config, target, decode));
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    const int depth = decode.at("depth");
    // The second product's reduction does not divide evenly: it must stay as good a loop.
    for (const char* kernel : {"moe_wave_gate_up", "moe_wave_down"}) {
      const std::string body = body_of(*text, kernel);
      EXPECT_EQ(count(body, wanted.product), depth * wanted.each) << kernel << decode.to_json();
      EXPECT_EQ(count(body, " slc dlc\n"), 2 * depth) << kernel << decode.to_json();
      EXPECT_GE(count(body, "s_waitcnt vmcnt(" + std::to_string(2 * depth - 2) + ")"), depth)
          << kernel << decode.to_json();
      EXPECT_EQ(count(body, "flat_load") + count(body, "scratch_"), 0);
    }
    const Family* tile = find_family("hip_tile");
    const Schedule prefill = tile->default_schedule(config, target, 8192);
    text = (*device)->assembly(tile->emit(config, target, prefill));
    ASSERT_TRUE(text.ok()) << text.status().to_string();
    const int rows = prefill.at("tile_m") / prefill.at("waves_m") / 16;
    const int columns = prefill.at("tile_n") * prefill.at("waves_m") / 8 / 16;
    const std::string body = body_of(*text, "moe_mfma_gate_up");
    EXPECT_EQ(count(body, wanted.product), rows * columns * 4 * wanted.each) << prefill.to_json();
    EXPECT_GE(count(body, "ds_load_b128"), 8 * (rows + columns)) << prefill.to_json();
    EXPECT_GE(count(body, "global_load_b128"),
              2 * (prefill.at("tile_m") + prefill.at("tile_n")) / 32);
    EXPECT_EQ(count(body, "flat_load") + count(body, "scratch_"), 0);
  }
}

TEST_P(HipCompile, ProbesCompile) {
  const auto device = hip_backend()->open(GetParam());
  ASSERT_TRUE(device.ok());
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const auto probe = emit_probe((*device)->info().target, dtype);
    ASSERT_TRUE(probe.has_value());
    for (const KernelSource* source : {&probe->read, &probe->dot}) {
      const auto binary = (*device)->compile(*source);
      ASSERT_TRUE(binary.ok()) << binary.status().to_string() << "\n" << binary.status().log();
      EXPECT_EQ(binary->spill_bytes, 0);
    }
    EXPECT_GT(probe->dot_flops_per_iteration, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(Archs, HipCompile, testing::Values("gfx90a", "gfx942", "gfx1100"),
                         [](const auto& arch) { return std::string(arch.param); });

// Where ROCm is installed: the same text through its own compiler.
TEST(HiprtcCompile, EveryFamily) {
  const auto& hiprtc = hip::Hiprtc::get();
  if (!hiprtc.ok()) GTEST_SKIP() << hiprtc.status().message();
  const auto device = hip_backend()->open("gfx90a");
  const Target& target = (*device)->info().target;
  for (const NamedConfig& c : gpu_configs()) {
    for (const Family* family : families()) {
      if (family->why_not(c.config, target)) continue;
      const Schedule schedule = family->default_schedule(c.config, target, 8192);
      const KernelSource source = family->emit(c.config, target, schedule);
      const auto output = (*hiprtc)->compile(source.name, source.text, "gfx90a",
                                             {"-O3", "-std=c++17", "-ffp-contract=on"});
      ASSERT_TRUE(output.ok()) << c.name << " " << schedule.to_json() << "\n"
                               << output.status().to_string() << "\n"
                               << output.status().log();
      const auto object = hip::read_code_object(output->code);
      ASSERT_TRUE(object.ok()) << object.status().to_string();
      EXPECT_EQ(object->arch, "gfx90a");
      EXPECT_EQ(LoaderView(output->code).kernels(), names_of(source));
      for (const hip::KernelFacts& kernel : object->kernels) {
        EXPECT_EQ(kernel.spills, 0) << c.name << " " << kernel.name << " " << schedule.to_json();
      }
    }
    if (test_level() < 2) break;
  }
}

TEST(HipCompileErrors, LogAndRuleAreKept) {
  if (!CompilerModule::get().ok()) GTEST_SKIP() << "no compiler module";
  const auto device = hip_backend()->open("gfx942");
  KernelSource source;
  source.name = "broken.hip";
  source.arch = "gfx942";
  source.text = "extern \"C\" __attribute__((global)) void k() { no_such_function(); }\n";
  auto binary = (*device)->compile(source);
  ASSERT_FALSE(binary.ok());
  EXPECT_EQ(binary.status().code(), StatusCode::kCompileError);
  EXPECT_NE(binary.status().log().find("no_such_function"), std::string::npos);
  source.text =
      "__attribute__((device)) int counter;\n"
      "extern \"C\" __attribute__((global)) void k() { counter = 1; }\n";
  binary = (*device)->compile(source);
  ASSERT_FALSE(binary.ok());
  EXPECT_NE(binary.status().message().find("no global variables"), std::string::npos)
      << binary.status().message();
  source.arch = "gfx90a";
  EXPECT_EQ((*device)->compile(source).status().code(), StatusCode::kUnsupported);
}

}  // namespace
}  // namespace moejit::internal
