#include "tests/conformance/cases.h"

#include <cmath>
#include <cstring>
#include <random>

#include "generator/template_store.h"

namespace moejit_conformance {
namespace {

using moejit::internal::KernelSource;

uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  return bits;
}

std::string kernel(const std::string& body, int threads = 32) {
  return "MOEJIT_KERNEL(k0, " + std::to_string(threads) + ", 1)(MOEJIT_PARAM MoeArgs a) {\n" +
         body + "\n}\n";
}

// OUT[i] = expression of v = IN[i], for 1024 words.
std::string elementwise(const std::string& expression) {
  return kernel(
      "for (u32 i = thread_id(); i < 1024; i += 32) {\n  const u32 v = ldg_u32(IN + i), w = "
      "ldg_u32(IN2 + i);\n"
      "  (void)w;\n  stg_u32(OUT + i, " +
      expression + ");\n}");
}

void add_numbers(std::vector<Case>* cases) {
  const auto add = [&](const char* name, const char* expression, Fill fill = Fill::kBits,
                       int ulp = 0) {
    cases->push_back({.name = name,
                      .arch = "sm_80",
                      .body = elementwise(expression),
                      .fill = fill,
                      .max_ulp = ulp});
  };
  add("f32_to_bf16", "f32_to_bf16(as_f32(v))");
  add("f32_to_f16", "f32_to_f16(as_f32(v))");
  add("f32_to_f16_in_range", "f32_to_f16(as_f32((v & 0x8fffffffu) | 0x30000000u))");
  add("bf16_to_f32", "as_u32(bf16_to_f32(static_cast<u16>(v)))");
  add("f16_to_f32",
      "as_u32(f16_to_f32(static_cast<u16>((v & 0x7c00u) == 0x7c00u ? v & 0xfc00u : v)))");
  add("pack_bf16", "pack_bf16(as_f32(v), as_f32(w))");
  add("pack_f16", "pack_f16(as_f32(v), as_f32(w))");
  add("popc", "popc(v)");
  add("ffs", "ffs(w % 33 == 32 ? 0u : v << (w % 32))");
  add("fma_f32", "as_u32(fma_f32(as_f32(v), as_f32(w), 1.25f))", Fill::kFloats);
  add("exp_f32", "as_u32(exp_f32(as_f32(v)))", Fill::kUnit, 3);
  add("tanh_f32", "as_u32(tanh_f32(as_f32(v)))", Fill::kUnit, 3);
  add("erf_f32", "as_u32(erf_f32(as_f32(v)))", Fill::kUnit, 3);
  add("log1p_f32", "as_u32(log1p_f32(as_f32(v)))", Fill::kUnit, 3);
  add("sqrt_f32", "as_u32(sqrt_f32(as_f32(v & 0x7fffffffu)))", Fill::kFloats, 1);
  add("fast_exp_f32", "as_u32(fast_exp_f32(as_f32(v)))", Fill::kUnit, 24);
  add("fast_div", "as_u32(fast_div(as_f32(v), as_f32(w)))", Fill::kFloats, 3);
}

void add_warp(std::vector<Case>* cases) {
  const auto add = [&](const char* name, const std::string& expression) {
    cases->push_back(
        {.name = name,
         .arch = "sm_80",
         .body = kernel(
             "const u32 v = ldg_u32(IN + lane_id()), w = ldg_u32(IN2 + lane_id());\n(void)w;\n"
             "stg_u32(OUT + lane_id(), " +
             expression + ");"),
         .out_words = 32});
  };
  add("shfl_u32", "shfl_u32(v, w % 32)");
  add("shfl_xor_u32", "shfl_xor_u32(v, 13)");
  add("shfl_up_u32", "shfl_up_u32(v, 5)");
  add("warp_ballot", "warp_ballot((v & 4) != 0)");
  add("warp_max_u32", "warp_max_u32(v)");
  add("warp_min_u32", "warp_min_u32(v)");
  add("warp_add_u32", "warp_add_u32(v)");
}

void add_memory(std::vector<Case>* cases) {
  cases->push_back({.name = "shared_widths",
                    .arch = "sm_80",
                    .body = kernel(R"(
  const u32 t = thread_id(), s = shared_base();
  sts_u32x4(s + t * 16, ldg_u32x4(IN + t * 4));
  block_sync();
  const u32 o = (127 - t) * 16;
  sts_u16(s + 2048 + t * 16, lds_u16(s + o + 2));
  sts_u16(s + 2048 + t * 16 + 2, lds_u16(s + o));
  sts_u32(s + 2048 + t * 16 + 4, lds_u32(s + o + 12));
  sts_u32x2(s + 2048 + t * 16 + 8, lds_u32x2(s + o + 8));
  block_sync();
  stg_u32x4(OUT + t * 4, lds_u32x4(s + 2048 + t * 16));)",
                                   128),
                    .threads = 128,
                    .shared_bytes = 4096,
                    .out_words = 512});
  cases->push_back({.name = "atomics",
                    .arch = "sm_80",
                    .body = kernel(R"(
  const u32 t = thread_id(), s = shared_base();
  if (t < 16) sts_u32(s + t * 4, 0);
  block_sync();
  atomic_add_shared(s + (ldg_u32(IN + t) % 16) * 4, ldg_u32(IN2 + t));
  block_sync();
  if (t < 16) stg_u32(OUT + t, lds_u32(s + t * 4));)",
                                   128),
                    .threads = 128,
                    .shared_bytes = 64,
                    .out_words = 16});
  // Every second line is discarded and written again; its neighbours stay.
  cases->push_back({.name = "discard_line", .arch = "sm_80", .body = kernel(R"(
  for (u32 i = lane_id(); i < 1024; i += 32) stg_u32(OUT + i, ldg_u32(IN + i));
  warp_sync();
  if (lane_id() % 2 == 0) discard_line(OUT + lane_id() * 32);
  warp_sync();
  for (u32 i = 0; i < 32; i += 2) stg_u32(OUT + i * 32 + lane_id(), ldg_u32(IN2 + i * 32 + lane_id()));)")});
  cases->push_back({.name = "named_barriers",
                    .arch = "sm_80",
                    .body = kernel(R"(
  const u32 s = shared_base() + lane_id() * 4;
  for (u32 i = 0; i < 8; ++i) {
    if (warp_id() == 0) {
      if (i > 0) bar_sync(2, 64);
      sts_u32(s, ldg_u32(IN + i * 32 + lane_id()));
      bar_arrive(1, 64);
    } else {
      bar_sync(1, 64);
      stg_u32(OUT + i * 32 + lane_id(), lds_u32(shared_base() + (31 - lane_id()) * 4));
      if (i < 7) bar_arrive(2, 64);
    }
  })",
                                   64),
                    .threads = 64,
                    .shared_bytes = 128,
                    .out_words = 256});
  cases->push_back({.name = "cp_async",
                    .arch = "sm_80",
                    .body = kernel(R"(
  const u32 t = thread_id(), s = shared_base() + t * 16;
  for (u32 i = 0; i < 4; ++i) {
    cp_async16(s + i * 1024, IN + (i * 64 + t) * 4, ldg_u32(IN2 + i * 64 + t) % 3 != 0);
    cp_async_commit();
  }
  cp_async_wait<2>();
  stg_u32x4(OUT + t * 4, lds_u32x4(s));
  stg_u32x4(OUT + 256 + t * 4, lds_u32x4(s + 1024));
  cp_async_wait<0>();
  block_sync();
  stg_u32x4(OUT + 512 + t * 4, lds_u32x4(shared_base() + 2048 + (63 - t) * 16));
  stg_u32x4(OUT + 768 + t * 4, lds_u32x4(shared_base() + 3072 + (63 - t) * 16));)",
                                   64),
                    .threads = 64,
                    .shared_bytes = 4096});
}

void add_matrix(std::vector<Case>* cases) {
  for (const char* form : {"x4", "x4_trans", "x2", "x2_trans"}) {
    const std::string count(1, form[1]);
    cases->push_back({.name = std::string("ldmatrix_") + form,
                      .arch = "sm_80",
                      .body = kernel("const u32 t = thread_id(), s = shared_base();\n"
                                     "sts_u32x4(s + t * 16, ldg_u32x4(IN + t * 4));\nwarp_sync();\n"
                                     "u32 r[" +
                                     count + "];\nldmatrix_" + form +
                                     "(r, s + ((t * 5) % 32) * 16);\n"
                                     "for (int i = 0; i < " +
                                     count + "; ++i) stg_u32(OUT + t * " + count + " + i, r[i]);"),
                      .shared_bytes = 512,
                      .out_words = 32 * (form[1] - '0')});
  }
  const auto add_mma = [&](const char* name, const char* call, Fill fill, double relative) {
    cases->push_back({.name = name,
                      .arch = "sm_80",
                      .body = kernel(std::string(R"(
  for (u32 round = 0; round < 8; ++round) {
    const u32 at = round * 32 + thread_id();
    u32 x[4], b[2];
    f32 d[4];
    for (int i = 0; i < 4; ++i) { x[i] = ldg_u32(IN + at * 4 + i); d[i] = static_cast<f32>(i) - 1.0f; }
    for (int i = 0; i < 2; ++i) b[i] = ldg_u32(IN2 + at * 2 + i);
    )") + call + R"((d, x, b);
    for (int i = 0; i < 4; ++i) stg_f32(reinterpret_cast<f32*>(OUT) + at * 4 + i, d[i]);
  })"),
                      .fill = fill,
                      .max_relative = relative});
  };
  add_mma("mma_bf16_integers", "mma_bf16", Fill::kHalfInts, 0);
  add_mma("mma_f16_integers", "mma_f16", Fill::kHalfIntsF16, 0);
  add_mma("mma_tf32_integers", "mma_tf32", Fill::kFloatInts, 0);
  add_mma("mma_bf16_random", "mma_bf16", Fill::kHalfs, 2e-6);
}

}  // namespace

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  add_numbers(&cases);
  add_warp(&cases);
  add_memory(&cases);
  add_matrix(&cases);
  add_sm90_cases(&cases);
  return cases;
}

KernelSource make_source(const Case& test, const std::string& arch, bool simulated) {
  const bool hopper = arch == "sm_90a";
  const char* device = simulated ? (hopper ? "device/sim/sm90.h" : "device/sim/sm80.h")
                                 : (hopper ? "device/cuda_wgmma.h" : "device/cuda_sm80.h");
  KernelSource source;
  source.name = test.name + (simulated ? ".cc" : ".cu");
  source.arch = arch;
  source.language = simulated ? "sim" : "cuda";
  source.text =
      moejit::internal::expand_templates({"abi.h", device}) +
      "using namespace dev;\nusing moejit_abi::MoeArgs;\n"
      "#define IN static_cast<const u32*>(a.x)\n#define IN2 static_cast<const u32*>(a.w13)\n"
      "#define OUT static_cast<u32*>(a.out)\n" +
      test.body;
  moejit::internal::Entry entry;
  entry.name = "k0";
  entry.grid.fixed = test.blocks;
  entry.threads = test.threads;
  entry.shared_bytes = test.shared_bytes;
  entry.cluster = test.cluster;
  entry.tensor_maps = !test.maps.empty();
  source.entries.push_back(entry);
  source.tensor_maps = test.maps;
  return source;
}

std::vector<uint32_t> make_input(const Case& test, int which) {
  std::seed_seq seed{static_cast<int>(test.name.size()), which, static_cast<int>(test.name[0]), 17};
  std::mt19937 random(seed);
  const auto small = [&] { return static_cast<float>(static_cast<int>(random() % 17) - 8); };
  const auto bf16 = [](float v) { return bits_of(v) >> 16; };
  const auto f16_of_small = [](float v) {
    if (v == 0) return 0u;
    const uint32_t bits = bits_of(v);
    return (bits >> 16 & 0x8000u) | ((bits & 0x7fffffffu) - 0x38000000u) >> 13;
  };
  std::vector<uint32_t> words(kInputWords);
  for (uint32_t& word : words) {
    switch (test.fill) {
      case Fill::kBits:
        word = random();
        break;
      case Fill::kFloats:
        word = bits_of(std::ldexp(static_cast<float>(random() >> 8) + 1.0f,
                                  static_cast<int>(random() % 40) - 44)) |
               (random() & 0x80000000u);
        break;
      case Fill::kHalfInts:
        word = bf16(small()) | bf16(small()) << 16;
        break;
      case Fill::kHalfIntsF16:
        word = f16_of_small(small()) | f16_of_small(small()) << 16;
        break;
      case Fill::kFloatInts:
        word = bits_of(small()) | (random() & 0x1fffu);
        break;
      case Fill::kHalfs: {
        const float v = static_cast<float>(random()) * 0x1p-30f - 2.0f,
                    w = static_cast<float>(random()) * 0x1p-30f - 2.0f;
        word = bf16(v) | bf16(w) << 16;
        break;
      }
      case Fill::kUnit:
        word = bits_of(static_cast<float>(random()) * 0x1p-32f * 8.9f - 0.9f);
        break;
    }
  }
  return words;
}

}  // namespace moejit_conformance
