// The C ABI: layout of its structs, ownership, errors, and one launch of each kind.
#include "moejit/moejit_c.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/capi/handles.h"
#include "tests/generators/problem.h"

namespace {

using moejit_test::Config;
using moejit_test::config_of;
using moejit_test::GuardedBuffer;
using moejit_test::Kernel;
using moejit_test::make_problem;
using moejit_test::Problem;
using moejit_test::worst_row_error;

Config small_config() {
  return config_of({.num_experts = 8, .top_k = 2, .hidden_size = 64, .intermediate_size = 48});
}

// A compiled layer in a cache of its own, or null where this machine cannot compile.
Kernel cpu_kernel(const moejit_config* config) {
  static const std::string cache = [] {
    std::string path = testing::TempDir() + "moejit_capi_XXXXXX";
    return std::string(mkdtemp(path.data()));
  }();
  moejit_options options;
  moejit_options_init(&options, sizeof options);
  options.device = "cpu";
  options.max_tokens = 64;
  options.cache_path = cache.c_str();
  moejit_kernel* kernel = nullptr;
  const moejit_status status = moejit_get_kernel(config, &options, &kernel);
  EXPECT_TRUE(status == MOEJIT_OK || status == MOEJIT_UNAVAILABLE) << moejit_last_error();
  EXPECT_EQ(kernel != nullptr, status == MOEJIT_OK);
  return Kernel(kernel);
}

// Programs compiled against this header rely on these numbers.
TEST(CApi, LayoutIsThatOfAbi1) {
  EXPECT_EQ(moejit_abi_version(), 1u);
  EXPECT_EQ(sizeof(moejit_config_desc), 112u);
  EXPECT_EQ(offsetof(moejit_config_desc, swiglu_alpha), 56u);
  EXPECT_EQ(offsetof(moejit_config_desc, router_scoring), 72u);
  EXPECT_EQ(offsetof(moejit_config_desc, router_scaling_factor), 96u);
  EXPECT_EQ(offsetof(moejit_config_desc, packed), 104u);  // appended: 104 bytes are still taken
  EXPECT_EQ(sizeof(moejit_options), 72u);
  EXPECT_EQ(offsetof(moejit_options, stream), 64u);  // appended: 64 bytes are still taken
  EXPECT_EQ(offsetof(moejit_options, device), 8u);
  EXPECT_EQ(offsetof(moejit_options, num_threads), 56u);
  EXPECT_EQ(sizeof(moejit_launch_args), 96u);
  EXPECT_EQ(offsetof(moejit_launch_args, workspace_size), 88u);
  EXPECT_EQ(sizeof(moejit_routed_launch_args), 112u);
  EXPECT_EQ(offsetof(moejit_routed_launch_args, workspace_size), 104u);
}

// A caller whose header ended before `stream`.
TEST(CApi, AnOlderOptionsStructIsFilledUp) {
  moejit_config* config = nullptr;
  ASSERT_EQ(moejit_config_from_preset("mixtral-8x7b", &config), MOEJIT_OK);
  moejit_options options;
  std::memset(&options, 0xee, sizeof options);  // what lies behind the older struct
  moejit_options_init(&options, offsetof(moejit_options, stream));
  options.device = "cuda:4096";
  moejit_kernel* kernel = nullptr;
  const moejit_status status = moejit_get_kernel(config, &options, &kernel);
  EXPECT_NE(status, MOEJIT_OK);
  EXPECT_EQ(std::string(moejit_last_error()).find("struct_size"), std::string::npos)
      << moejit_last_error();
  options.struct_size -= 8;
  EXPECT_EQ(moejit_get_kernel(config, &options, &kernel), MOEJIT_INVALID_ARGUMENT);
  EXPECT_NE(std::string(moejit_last_error()).find("must be at least 64"), std::string::npos)
      << moejit_last_error();
  moejit_config_destroy(config);
}

TEST(CApi, NumbersAreThoseOfTheCppInterface) {
  for (int32_t code = 0; code <= MOEJIT_INTERNAL; ++code) {
    EXPECT_STREQ(moejit_status_name(code), to_string(static_cast<moejit::StatusCode>(code)));
  }
  EXPECT_STREQ(moejit_status_name(99), "UNKNOWN");
  EXPECT_STREQ(moejit_status_name(MOEJIT_NOT_READY), "NOT_READY");
  EXPECT_STREQ(to_string(static_cast<moejit::DType>(MOEJIT_F16)), "f16");
  EXPECT_STREQ(to_string(static_cast<moejit::Activation>(MOEJIT_SILU_CLAMP)), "silu_clamp");
  EXPECT_STREQ(to_string(static_cast<moejit::Scoring>(MOEJIT_SQRTSOFTPLUS)), "sqrtsoftplus");
  EXPECT_STREQ(to_string(static_cast<moejit::RouterOrder>(MOEJIT_TOPK_THEN_SCORE)),
               "topk_then_score");
  EXPECT_EQ(static_cast<int32_t>(moejit::Policy::kFrozen), MOEJIT_POLICY_FROZEN);
  EXPECT_STREQ(moejit_version(), moejit::version());
}

TEST(CApiConfig, StructAndJsonGiveTheSameLayer) {
  moejit_config_desc desc;
  memset(&desc, 0xAB, sizeof desc);
  moejit_config_desc_init(&desc, sizeof desc);
  EXPECT_EQ(desc.struct_size, sizeof desc);
  EXPECT_EQ(desc.gated, 1);
  EXPECT_EQ(desc.dtype, MOEJIT_BF16);
  EXPECT_EQ(desc.router_n_group, 1);
  desc.num_experts = 12;
  desc.top_k = 3;
  desc.hidden_size = 64;
  desc.intermediate_size = 40;
  desc.dtype = MOEJIT_F16;
  desc.activation = MOEJIT_SWIGLU_OAI;
  desc.bias = desc.transposed = desc.interleaved = desc.up_first = desc.packed = 1;
  desc.weight_on_input = 1;
  desc.num_shared_experts = 2;
  desc.swiglu_alpha = 1.5;
  desc.swiglu_limit = 3;
  desc.router_scoring = MOEJIT_SIGMOID;
  desc.router_order = MOEJIT_TOPK_THEN_SCORE;
  desc.router_correction_bias = desc.router_renormalize = 1;
  desc.router_n_group = 4;
  desc.router_topk_group = 2;
  desc.router_scaling_factor = 2.5;
  moejit_config* made = nullptr;
  ASSERT_EQ(moejit_config_create(&desc, &made), MOEJIT_OK) << moejit_last_error();
  const Config config(made);
  const auto parsed = moejit::MoeConfig::from_json(moejit_config_json(config.get()));
  ASSERT_TRUE(parsed.ok());
  const moejit::MoeConfig want{.num_experts = 12,
                               .top_k = 3,
                               .hidden_size = 64,
                               .intermediate_size = 40,
                               .dtype = moejit::DType::kF16,
                               .activation = moejit::Activation::kSwigluOai,
                               .bias = true,
                               .swiglu_alpha = 1.5,
                               .swiglu_limit = 3,
                               .transposed = true,
                               .interleaved = true,
                               .up_first = true,
                               .packed = true,
                               .num_shared_experts = 2,
                               .weight_on_input = true,
                               .router = {.scoring = moejit::Scoring::kSigmoid,
                                          .order = moejit::RouterOrder::kTopkThenScore,
                                          .correction_bias = true,
                                          .n_group = 4,
                                          .topk_group = 2,
                                          .renormalize = true,
                                          .scaling_factor = 2.5}};
  EXPECT_EQ(*parsed, want);
  moejit_config_desc back;
  memset(&back, 0, sizeof back);
  back.struct_size = sizeof back;
  ASSERT_EQ(moejit_config_get(config.get(), &back), MOEJIT_OK);
  EXPECT_EQ(memcmp(&back, &desc, sizeof desc), 0);
}

TEST(CApiConfig, PresetsShardsAndHuggingFace) {
  moejit_config* made = nullptr;
  ASSERT_EQ(moejit_config_from_preset("Mixtral-8x7B", &made), MOEJIT_OK);
  const Config model(made);
  ASSERT_EQ(moejit_config_shard(model.get(), 8, &made), MOEJIT_OK);
  const Config shard(made);
  EXPECT_NE(strstr(moejit_config_json(shard.get()), "\"intermediate_size\":1792"), nullptr);
  ASSERT_EQ(moejit_config_from_hf_json(
                "{\"model_type\":\"mixtral\",\"num_local_experts\":8,\"num_experts_per_tok\":2,"
                "\"hidden_size\":4096,\"intermediate_size\":14336}",
                &made),
            MOEJIT_OK);
  const Config read(made);
  EXPECT_STREQ(moejit_config_json(read.get()), moejit_config_json(model.get()));
  EXPECT_EQ(moejit_config_from_preset("mixtral", &made), MOEJIT_NOT_FOUND);
  EXPECT_EQ(made, nullptr);
  EXPECT_EQ(moejit_config_shard(model.get(), 3, &made), MOEJIT_INVALID_ARGUMENT);
}

TEST(CApiConfig, ErrorsAreSentencesAndLeaveNoHandle) {
  auto* made = reinterpret_cast<moejit_config*>(1);
  EXPECT_EQ(moejit_config_from_json("{\"num_experts\":8,\"top_k\":9,\"hidden_size\":64,"
                                    "\"intermediate_size\":32}",
                                    &made),
            MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(made, nullptr);
  EXPECT_STREQ(moejit_last_error(), "top_k = 9: must be between 1 and num_experts (8)");
  EXPECT_EQ(moejit_config_from_json("{", &made), MOEJIT_DATA_ERROR);
  moejit_config_desc desc;
  moejit_config_desc_init(&desc, sizeof desc);
  EXPECT_EQ(moejit_config_create(&desc, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_STREQ(moejit_last_error(), "num_experts = 0: must be between 1 and 1024");
  desc.gated = 2;
  EXPECT_EQ(moejit_config_create(&desc, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_STREQ(moejit_last_error(), "gated = 2: must be 0 or 1");
  // A success leaves the last message where it is.
  ASSERT_EQ(moejit_config_from_preset("dbrx", &made), MOEJIT_OK);
  const Config config(made);
  EXPECT_STREQ(moejit_last_error(), "gated = 2: must be 0 or 1");
}

TEST(CApiConfig, StructSizesOfOtherVersions) {
  moejit_config* made = nullptr;
  moejit_config_desc desc;
  moejit_config_desc_init(&desc, sizeof desc);
  desc.struct_size = offsetof(moejit_config_desc, packed) - 8;
  EXPECT_EQ(moejit_config_create(&desc, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_STREQ(
      moejit_last_error(),
      "desc->struct_size = 96: must be at least 104; its init function sets it, or where there "
      "is none the caller");
  desc.struct_size = 0xABABABAB;
  EXPECT_EQ(moejit_config_create(&desc, &made), MOEJIT_INVALID_ARGUMENT);

  struct Newer {
    moejit_config_desc desc;
    int64_t further;
  } newer;
  moejit_config_desc_init(&newer.desc, sizeof newer);
  EXPECT_EQ(newer.further, 0);  // the whole of the caller's struct was set
  newer.desc.num_experts = newer.desc.top_k = 1;
  newer.desc.hidden_size = newer.desc.intermediate_size = 64;
  ASSERT_EQ(moejit_config_create(&newer.desc, &made), MOEJIT_OK) << moejit_last_error();
  moejit_config_destroy(made);
  newer.further = 1;
  EXPECT_EQ(moejit_config_create(&newer.desc, &made), MOEJIT_UNSUPPORTED);
  EXPECT_STREQ(moejit_last_error(),
               "desc->struct_size = 120: byte 112 is set, a field that this version of the library "
               "does not know");
}

TEST(CApi, NullIsAnErrorAndNoCrash) {
  const Config config = small_config();
  moejit_config* made = nullptr;
  moejit_kernel* kernel = nullptr;
  char* text = nullptr;
  moejit_config_desc desc;
  moejit_config_desc_init(&desc, sizeof desc);
  moejit_config_desc_init(nullptr, sizeof desc);
  moejit_options_init(nullptr, sizeof(moejit_options));
  for (const moejit_status status :
       {moejit_config_create(nullptr, &made), moejit_config_create(&desc, nullptr),
        moejit_config_from_json(nullptr, &made), moejit_config_from_json("{}", nullptr),
        moejit_config_from_hf_json(nullptr, &made), moejit_config_from_preset(nullptr, &made),
        moejit_config_shard(nullptr, 1, &made), moejit_config_shard(config.get(), 1, nullptr),
        moejit_config_get(nullptr, &desc), moejit_config_get(config.get(), nullptr),
        moejit_get_kernel(nullptr, nullptr, &kernel),
        moejit_get_kernel(config.get(), nullptr, nullptr),
        moejit_kernel_launch(nullptr, nullptr, nullptr),
        moejit_kernel_launch_routed(nullptr, nullptr, nullptr),
        moejit_kernel_buckets_json(nullptr, &text), moejit_supports(nullptr, "cpu"),
        moejit_supports(config.get(), nullptr)}) {
    EXPECT_EQ(status, MOEJIT_INVALID_ARGUMENT);
  }
  EXPECT_STREQ(moejit_last_error(), "device = NULL: must not be");
  EXPECT_EQ(moejit_config_json(nullptr), nullptr);
  EXPECT_EQ(moejit_kernel_device(nullptr), nullptr);
  EXPECT_EQ(moejit_kernel_config_json(nullptr), nullptr);
  EXPECT_EQ(moejit_kernel_workspace_size(nullptr, 1), 0u);
  EXPECT_EQ(moejit_kernel_max_tokens(nullptr), -1);
  moejit_config_destroy(nullptr);
  moejit_kernel_destroy(nullptr);
  moejit_string_free(nullptr);
}

TEST(CApi, TheLastErrorBelongsToItsThread) {
  moejit_config* made = nullptr;
  EXPECT_EQ(moejit_config_from_preset("nowhere", &made), MOEJIT_NOT_FOUND);
  const std::string mine = moejit_last_error();
  std::thread([] {
    EXPECT_STREQ(moejit_last_error(), "");
    moejit_config* other = nullptr;
    EXPECT_EQ(moejit_config_from_json("[]", &other), MOEJIT_DATA_ERROR);
    EXPECT_STREQ(moejit_last_error(), "the JSON text: must be an object");
  }).join();
  EXPECT_EQ(moejit_last_error(), mine);
}

TEST(CApi, OptionsAreChecked) {
  const Config config = small_config();
  moejit_kernel* kernel = nullptr;
  moejit_options options;
  moejit_options_init(&options, sizeof options);
  options.policy = 3;
  EXPECT_EQ(moejit_get_kernel(config.get(), &options, &kernel), MOEJIT_INVALID_ARGUMENT);
  EXPECT_STREQ(moejit_last_error(), "policy = 3: must be an enum value between 0 and 2");
  options.policy = MOEJIT_POLICY_CACHED;
  options.num_tokens = 2;
  EXPECT_EQ(moejit_get_kernel(config.get(), &options, &kernel), MOEJIT_INVALID_ARGUMENT);
  options.num_tokens = 0;
  options.device = "abacus:7";
  EXPECT_NE(moejit_get_kernel(config.get(), &options, &kernel), MOEJIT_OK);
  EXPECT_NE(strstr(moejit_last_error(), "abacus"), nullptr) << moejit_last_error();
  EXPECT_EQ(kernel, nullptr);
  EXPECT_NE(moejit_supports(config.get(), "abacus:7"), MOEJIT_OK);
  EXPECT_EQ(moejit_supports(config.get(), "cpu"), MOEJIT_OK) << moejit_last_error();
}

TEST(CApiKernel, LaunchGivesTheLayer) {
  const moejit::MoeConfig layer{
      .num_experts = 8, .top_k = 2, .hidden_size = 64, .intermediate_size = 48};
  const Config config = config_of(layer);
  const Kernel kernel = cpu_kernel(config.get());
  if (kernel == nullptr) GTEST_SKIP() << moejit_last_error();
  EXPECT_STREQ(moejit_kernel_device(kernel.get()), "cpu");
  EXPECT_EQ(moejit_kernel_max_tokens(kernel.get()), 64);
  EXPECT_STREQ(moejit_kernel_config_json(kernel.get()), moejit_config_json(config.get()));

  Problem p = make_problem(layer, {.tokens = 7, .routing = moejit_test::RoutingKind::kSentinels});
  GuardedBuffer workspace(moejit_kernel_workspace_size(kernel.get(), 7), 256);
  moejit_launch_args args{};
  args.struct_size = sizeof args;
  args.num_tokens = 7;
  args.x = p.x.data();
  args.w13 = p.w13.data();
  args.w2 = p.w2.data();
  args.topk_ids = p.ids.as<int32_t>();
  args.topk_weights = p.weights.as<float>();
  args.out = p.out.data();
  args.workspace = workspace.data();
  args.workspace_size = workspace.size();
  ASSERT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_OK) << moejit_last_error();
  EXPECT_LT(worst_row_error(p.result(), p.expected(), layer.hidden_size),
            moejit_test::tolerance(layer.dtype));
  EXPECT_TRUE(p.intact() && workspace.intact());

  args.strict = 1;
  EXPECT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_INVALID_ARGUMENT);
  EXPECT_NE(strstr(moejit_last_error(), "topk_ids["), nullptr) << moejit_last_error();
  args.strict = 0;
  args.num_tokens = 65;
  EXPECT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_INVALID_ARGUMENT);
  args.num_tokens = 7;
  args.workspace_size = 1;
  EXPECT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_INVALID_ARGUMENT);
  args.struct_size = 8;
  EXPECT_EQ(moejit_kernel_launch(kernel.get(), &args, nullptr), MOEJIT_INVALID_ARGUMENT);
  EXPECT_NE(strstr(moejit_last_error(), "struct_size = 8"), nullptr) << moejit_last_error();
}

TEST(CApiKernel, RoutedLaunchGivesTheLayerAndItsRouting) {
  moejit::MoeConfig layer{.num_experts = 8, .top_k = 2, .hidden_size = 64, .intermediate_size = 48};
  layer.router = {.scoring = moejit::Scoring::kSigmoid,
                  .correction_bias = true,
                  .n_group = 2,
                  .topk_group = 1,
                  .renormalize = true,
                  .scaling_factor = 2.5};
  const Config config = config_of(layer);
  const Kernel kernel = cpu_kernel(config.get());
  if (kernel == nullptr) GTEST_SKIP() << moejit_last_error();
  Problem p = make_problem(layer, {.tokens = 5,
                                   .routing = moejit_test::RoutingKind::kFromLogits,
                                   .logits_dtype = moejit::DType::kBF16});
  GuardedBuffer workspace(moejit_kernel_workspace_size(kernel.get(), 5), 256);
  std::vector<int32_t> ids(10, -7);
  std::vector<float> weights(10, NAN);
  moejit_routed_launch_args args{};
  args.struct_size = sizeof args;
  args.logits_dtype = MOEJIT_BF16;
  args.num_tokens = 5;
  args.x = p.x.data();
  args.w13 = p.w13.data();
  args.w2 = p.w2.data();
  args.router_logits = p.logits.data();
  args.correction_bias = p.correction_bias.as<float>();
  args.topk_ids = ids.data();
  args.topk_weights = weights.data();
  args.out = p.out.data();
  args.workspace = workspace.data();
  ASSERT_EQ(moejit_kernel_launch_routed(kernel.get(), &args, nullptr), MOEJIT_OK)
      << moejit_last_error();
  EXPECT_EQ(ids, p.reference_ids);
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_NEAR(weights[i], p.reference_weights[i], 1e-5) << i;
  }
  EXPECT_LT(worst_row_error(p.result(), p.expected(), layer.hidden_size),
            moejit_test::tolerance(layer.dtype));
  args.logits_dtype = 5;
  EXPECT_EQ(moejit_kernel_launch_routed(kernel.get(), &args, nullptr), MOEJIT_INVALID_ARGUMENT);
}

TEST(CApiKernel, BucketsAreJson) {
  const Config config = small_config();
  const Kernel kernel = cpu_kernel(config.get());
  if (kernel == nullptr) GTEST_SKIP() << moejit_last_error();
  char* text = nullptr;
  ASSERT_EQ(moejit_kernel_buckets_json(kernel.get(), &text), MOEJIT_OK);
  const auto buckets = nlohmann::json::parse(text);
  moejit_string_free(text);
  ASSERT_FALSE(buckets.empty());
  int64_t last = 0;
  for (const auto& bucket : buckets) {
    EXPECT_GT(bucket.at("tokens").get<int64_t>(), last);
    last = bucket.at("tokens").get<int64_t>();
    EXPECT_TRUE(bucket.at("schedule").at("family").is_string());
    EXPECT_TRUE(bucket.at("source") == "model" || bucket.at("source") == "nearest" ||
                bucket.at("source") == "exact");
    EXPECT_GT(bucket.at("predicted_s").get<double>(), 0);
    EXPECT_FALSE(bucket.at("reason").get<std::string>().empty());
  }
}

TEST(CApi, LogLinesReachTheCallback) {
  std::vector<std::string> lines;
  moejit_set_log_callback(
      [](int level, const char* message, void* user) {
        static_cast<std::vector<std::string>*>(user)->push_back(std::to_string(level) + message);
      },
      &lines);
  // Without a usable cache directory get_kernel warns and goes on.
  const Config config = small_config();
  moejit_options options;
  moejit_options_init(&options, sizeof options);
  options.device = "cpu";
  options.cache_path = "/dev/null/cache";
  moejit_kernel* kernel = nullptr;
  const moejit_status status = moejit_get_kernel(config.get(), &options, &kernel);
  moejit_set_log_callback(nullptr, nullptr);
  moejit_kernel_destroy(kernel);
  EXPECT_TRUE(status == MOEJIT_OK || status == MOEJIT_UNAVAILABLE) << moejit_last_error();
  bool warned = false;
  for (const std::string& line : lines) warned = warned || line.rfind("1cache: ", 0) == 0;
  EXPECT_TRUE(warned);
}

}  // namespace
