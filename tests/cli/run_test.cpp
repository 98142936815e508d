// `moejit run`: tensors of a file in, tensors of a file out.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <nlohmann/json.hpp>

#include "base/safetensors.h"
#include "tests/cli/process.h"
#include "tests/generators/problem.h"

namespace moejit::cli_test {
namespace {

namespace fs = std::filesystem;
using internal::NamedTensor;
using internal::SafeTensors;
using internal::TensorType;
using internal::TensorView;
using moejit_test::Doubles;
using moejit_test::Problem;
using testing::HasSubstr;

MoeConfig small_config(DType dtype) {
  MoeConfig config;
  config.num_experts = 6;
  config.top_k = 2;
  config.hidden_size = 64;
  config.intermediate_size = 48;
  config.dtype = dtype;
  return config;
}

TensorType type_of(DType dtype) {
  return dtype == DType::kF32    ? TensorType::kF32
         : dtype == DType::kBF16 ? TensorType::kBF16
                                 : TensorType::kF16;
}

// A file under construction; owns what it converts.
class File {
 public:
  void add(const std::string& name, TensorType type, std::vector<int64_t> shape, const void* data) {
    int64_t bytes = internal::size_of(type);
    for (const int64_t extent : shape) bytes *= extent;
    tensors_.push_back({name, {type, std::move(shape), data, bytes}});
  }
  void add_values(const std::string& name, DType dtype, std::vector<int64_t> shape,
                  const Doubles& values) {
    owned_.emplace_back(values.size() * static_cast<size_t>(size_of(dtype)) + 1);
    moejit_test::store(dtype, values, owned_.back().data());
    add(name, type_of(dtype), std::move(shape), owned_.back().data());
  }
  void add_ids64(const std::vector<int32_t>& ids, std::vector<int64_t> shape) {
    const std::vector<int64_t> wide(ids.begin(), ids.end());
    owned_.emplace_back(wide.size() * sizeof(int64_t) + 1);
    std::copy(wide.begin(), wide.end(), reinterpret_cast<int64_t*>(owned_.back().data()));
    add("topk_ids", TensorType::kI64, std::move(shape), owned_.back().data());
  }
  void drop(const std::string& name) {
    std::erase_if(tensors_, [&](const NamedTensor& t) { return t.name == name; });
  }
  void rename(const std::string& from, const std::string& to) {
    for (NamedTensor& t : tensors_) t.name = t.name == from ? to : t.name;
  }
  TensorView& at(const std::string& name) {
    for (NamedTensor& t : tensors_) {
      if (t.name == name) return t.tensor;
    }
    ADD_FAILURE() << name;
    return tensors_.front().tensor;
  }
  std::string write() const {
    const fs::path path = scratch() / "in.safetensors";
    const Status status = internal::write_safetensors(path.string(), tensors_);
    EXPECT_TRUE(status.ok()) << status.to_string();
    return path.string();
  }

 private:
  std::vector<NamedTensor> tensors_;
  std::vector<std::vector<char>> owned_;
};

void add_layer(File* file, Problem& p) {
  const MoeConfig& c = p.config;
  const LaunchArgs args = p.launch_args();
  const int64_t experts = c.total_experts();
  file->add("x", type_of(c.dtype), {args.num_tokens, c.hidden_size}, args.x);
  std::vector<int64_t> w13 = {experts, c.w13_rows(), c.hidden_size};
  std::vector<int64_t> w2 = {experts, c.hidden_size, c.intermediate_size};
  if (c.transposed) {
    std::swap(w13[1], w13[2]);
    std::swap(w2[1], w2[2]);
  }
  file->add("w13", type_of(c.dtype), w13, args.w13);
  file->add("w2", type_of(c.dtype), w2, args.w2);
  if (c.bias) {
    file->add("b13", type_of(c.dtype), {experts, c.w13_rows()}, args.b13);
    file->add("b2", type_of(c.dtype), {experts, c.hidden_size}, args.b2);
  }
}

void add_choices(File* file, Problem& p) {
  const LaunchArgs args = p.launch_args();
  file->add("topk_ids", TensorType::kI32, {args.num_tokens, p.config.top_k}, args.topk_ids);
  file->add("topk_weights", TensorType::kF32, {args.num_tokens, p.config.top_k}, args.topk_weights);
}

fs::path config_file(const MoeConfig& config) {
  const fs::path path = scratch() / "layer.json";
  write_text(path, config.to_json());
  return path;
}

Output run(const MoeConfig& config, const File& file, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {"run",
                                   "--config",
                                   config_file(config).string(),
                                   "--inputs",
                                   file.write(),
                                   "--output",
                                   (scratch() / "out.safetensors").string(),
                                   "--device",
                                   "cpu",
                                   "--threads",
                                   "2",
                                   "--json"};
  args.insert(args.end(), more.begin(), more.end());
  return moejit(args);
}

Result<SafeTensors> outputs() {
  return SafeTensors::open((scratch() / "out.safetensors").string());
}

void expect_close(const SafeTensors& file, const Problem& p) {
  const auto out = file.find("out");
  ASSERT_TRUE(out.ok());
  EXPECT_EQ(out->type, type_of(p.config.dtype));
  ASSERT_EQ(out->shape, (std::vector<int64_t>{p.options.tokens, p.config.hidden_size}));
  const size_t count = static_cast<size_t>(out->bytes / size_of(p.config.dtype));
  const Doubles got = moejit_test::load(p.config.dtype, out->data, count);
  EXPECT_LE(moejit_test::worst_row_error(got, p.expected(), p.config.hidden_size),
            moejit_test::tolerance(p.config.dtype));
}

class RunDtypes : public testing::TestWithParam<DType> {};

TEST_P(RunDtypes, ChosenExpertsGiveTheReference) {
  MoeConfig config = small_config(GetParam());
  config.bias = true;
  Problem p = moejit_test::make_problem(config, {.tokens = 5});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  const Output output = run(config, file);
  ASSERT_EQ(output.code, 0) << output.err;
  const auto json = json_of(output.out);
  EXPECT_THAT(output.out, HasSubstr("\"tokens\":5"));
  const auto result = outputs();
  ASSERT_TRUE(result.ok()) << result.status().to_string();
  expect_close(*result, p);
  EXPECT_FALSE(result->find("topk_ids").ok()) << "it did not route";
}

INSTANTIATE_TEST_SUITE_P(All, RunDtypes, testing::Values(DType::kF32, DType::kBF16, DType::kF16),
                         [](const auto& dtype) { return std::string(to_string(dtype.param)); });

TEST(Run, WideIdsAndNarrowWeightsAreConverted) {
  const MoeConfig config = small_config(DType::kF32);
  Problem p = moejit_test::make_problem(config, {.tokens = 4});
  // Weights that bf16 holds exactly.
  for (double& w : p.reference_weights) w = moejit_test::round_to(DType::kBF16, w);
  File file;
  add_layer(&file, p);
  file.add_ids64(p.reference_ids, {4, config.top_k});
  file.add_values("topk_weights", DType::kBF16, {4, config.top_k}, p.reference_weights);
  const Output output = run(config, file);
  ASSERT_EQ(output.code, 0) << output.err;
  const auto result = outputs();
  ASSERT_TRUE(result.ok());
  expect_close(*result, p);
}

TEST(Run, LogitsAreRoutedAndTheChoiceIsWritten) {
  MoeConfig config = small_config(DType::kF32);
  config.router.correction_bias = true;
  config.router.renormalize = true;
  Problem p = moejit_test::make_problem(
      config, {.tokens = 7, .routing = moejit_test::RoutingKind::kFromLogits});
  File file;
  add_layer(&file, p);
  const RoutedLaunchArgs args = p.routed_args();
  file.add("router_logits", TensorType::kF32, {7, config.num_experts}, args.router_logits);
  file.add("correction_bias", TensorType::kF32, {config.num_experts}, args.correction_bias);
  const Output output = run(config, file);
  ASSERT_EQ(output.code, 0) << output.err;
  const auto result = outputs();
  ASSERT_TRUE(result.ok());
  expect_close(*result, p);
  const auto ids = result->find("topk_ids"), weights = result->find("topk_weights");
  ASSERT_TRUE(ids.ok() && weights.ok());
  ASSERT_EQ(ids->shape, (std::vector<int64_t>{7, config.top_k}));
  for (size_t i = 0; i < p.reference_ids.size(); ++i) {
    EXPECT_EQ(static_cast<const int32_t*>(ids->data)[i], p.reference_ids[i]) << i;
    EXPECT_NEAR(static_cast<const float*>(weights->data)[i], p.reference_weights[i], 1e-5) << i;
  }
}

TEST(Run, DataAtAnyOffsetServes) {
  MoeConfig config = small_config(DType::kBF16);
  config.top_k = 1;
  Problem p = moejit_test::make_problem(config, {.tokens = 1});
  File file;
  add_choices(&file, p);  // 8 bytes ahead of everything else
  add_layer(&file, p);
  const auto written = SafeTensors::open(file.write());
  ASSERT_TRUE(written.ok());
  ASSERT_NE(reinterpret_cast<uintptr_t>(written->find("w13")->data) % 16, 0u);
  const Output output = run(config, file);
  ASSERT_EQ(output.code, 0) << output.err;
  const auto result = outputs();
  ASSERT_TRUE(result.ok());
  expect_close(*result, p);
}

TEST(Run, NoTokensGiveAnEmptyResult) {
  const MoeConfig config = small_config(DType::kBF16);
  Problem p = moejit_test::make_problem(config, {.tokens = 0});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  const Output output = run(config, file);
  ASSERT_EQ(output.code, 0) << output.err;
  const auto result = outputs();
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->find("out")->shape, (std::vector<int64_t>{0, config.hidden_size}));
}

TEST(Run, IdsOutsideAreSkippedUnlessStrict) {
  const MoeConfig config = small_config(DType::kF32);
  Problem p = moejit_test::make_problem(
      config, {.tokens = 6, .routing = moejit_test::RoutingKind::kSentinels});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  const Output lenient = run(config, file);
  ASSERT_EQ(lenient.code, 0) << lenient.err;
  const auto result = outputs();
  ASSERT_TRUE(result.ok());
  expect_close(*result, p);
  const Output strict = run(config, file, {"--strict"});
  EXPECT_EQ(strict.code, 2);
  EXPECT_THAT(strict.err, HasSubstr("topk_ids["));
  EXPECT_THAT(strict.err, HasSubstr("from 0 to 5"));
}

// Every wrong file: code 2, the tensor's name and the rule, nothing written.
TEST(Run, WrongTensorsAreNamed) {
  const MoeConfig config = small_config(DType::kF32);
  Problem p = moejit_test::make_problem(config, {.tokens = 3});
  struct Case {
    std::function<void(File*)> spoil;
    std::string says;
  };
  const std::vector<float> zeros(64);
  const std::vector<Case> cases = {
      {[](File* f) { f->drop("x"); }, "tensor x: is missing"},
      {[](File* f) { f->drop("w2"); }, "tensor w2: is missing"},
      {[](File* f) { f->drop("topk_weights"); }, "tensor topk_weights: is missing"},
      {[](File* f) { f->drop("topk_ids"); },
       "tensor topk_ids: is missing, and so is router_logits"},
      {[](File* f) { f->rename("w13", "w31"); }, "tensor w31: is unknown; did you mean w13"},
      {[](File* f) {
         f->at("x").shape = {64, 3};
       },
       "tensor x: is F32 [64, 3]; its shape must be [64, 64]"},
      {[](File* f) {
         f->at("w13").shape = {6, 64, 96};
       },
       "tensor w13: is F32 [6, 64, 96]; its shape must be [6, 96, 64]"},
      {[](File* f) { f->at("w2").type = TensorType::kI32; },
       "tensor w2: is I32 [6, 64, 48]; its type must be F32"},
      {[](File* f) { f->at("topk_ids").type = TensorType::kF32; }, "its type must be I32 or I64"},
      {[](File* f) { f->at("topk_weights").type = TensorType::kI32; },
       "its type must be F32 or BF16 or F16"},
      {[&](File* f) {
         f->add("router_logits", TensorType::kF32, {3, 6}, zeros.data());
       },
       "tensor router_logits: was given with topk_ids"},
      {[&](File* f) { f->add("correction_bias", TensorType::kF32, {6}, zeros.data()); },
       "router.correction_bias of the config is false"},
      {[&](File* f) { f->add("b2", TensorType::kF32, {1}, zeros.data()); },
       "tensor b2: was given, but bias of the config is false"},
  };
  for (const Case& wrong : cases) {
    File file;
    add_layer(&file, p);
    add_choices(&file, p);
    wrong.spoil(&file);
    const Output output = run(config, file);
    EXPECT_EQ(output.code, 2) << wrong.says;
    EXPECT_THAT(output.err, HasSubstr(wrong.says));
    EXPECT_EQ(output.out, "");
    EXPECT_FALSE(fs::exists(scratch() / "out.safetensors"));
  }
}

TEST(Run, WrongFilesAreNamed) {
  const fs::path config = config_file(small_config(DType::kF32));
  const fs::path garbage = scratch() / "garbage.safetensors";
  write_text(garbage, "this is not a tensor file, whatever its name");
  for (const std::string& inputs : {garbage.string(), (scratch() / "missing").string()}) {
    const Output output = moejit({"run", "--config", config.string(), "--inputs", inputs,
                                  "--output", (scratch() / "out").string()});
    EXPECT_EQ(output.code, 2);
    EXPECT_THAT(output.err, HasSubstr(inputs));
  }
}

TEST(Run, AnOutputThatCannotBeWrittenIsAFailure) {
  const MoeConfig config = small_config(DType::kF32);
  Problem p = moejit_test::make_problem(config, {.tokens = 1});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  const Output output =
      moejit({"run", "--config", config_file(config).string(), "--inputs", file.write(), "--output",
              (scratch() / "no" / "such" / "folder" / "out").string(), "--device", "cpu"});
  EXPECT_EQ(output.code, 1) << output.err;
  EXPECT_THAT(output.err, HasSubstr("no/such/folder"));
  EXPECT_EQ(output.out, "");
}

TEST(Run, TheInputsAreNotOverwritten) {
  const MoeConfig config = small_config(DType::kF32);
  Problem p = moejit_test::make_problem(config, {.tokens = 1});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  const std::string inputs = file.write(), before = read_text(inputs);
  const Output output = moejit({"run", "--config", config_file(config).string(), "--inputs", inputs,
                                "--output", inputs, "--device", "cpu"});
  EXPECT_EQ(output.code, 2);
  EXPECT_THAT(output.err, HasSubstr("is the file of --inputs"));
  EXPECT_EQ(read_text(inputs), before);
}

TEST(Run, RequireRefusesToCompile) {
  const MoeConfig config = small_config(DType::kF32);
  Problem p = moejit_test::make_problem(config, {.tokens = 1});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  EXPECT_EQ(run(config, file, {"--require"}).code, 3) << "the cache is empty";
  ASSERT_EQ(run(config, file).code, 0);
  EXPECT_EQ(run(config, file, {"--require"}).code, 0) << "the kernel is in the cache now";
}

// The file's weights lie as the flags say, whether the layer packs them or not.
TEST(Run, PackedWeightsGiveWhatTheFilesDo) {
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const int form : {0, 1, 2}) {
      MoeConfig config = small_config(dtype);
      config.hidden_size = 72;  // not whole blocks, nor is I
      config.intermediate_size = 40;
      config.transposed = form == 1;
      config.interleaved = config.bias = form == 2;
      SCOPED_TRACE(config.to_json());
      Problem p = moejit_test::make_problem(config, {.tokens = 9});
      File file;
      add_layer(&file, p);
      add_choices(&file, p);
      Doubles outs[2];
      for (const bool packed : {false, true}) {
        const Output output =
            run(config, file,
                packed ? std::vector<std::string>{"--packed"} : std::vector<std::string>{});
        ASSERT_EQ(output.code, 0) << output.err;
        const auto result = outputs();
        ASSERT_TRUE(result.ok()) << result.status().to_string();
        expect_close(*result, p);
        const auto written = MoeConfig::from_json(result->metadata().at("config"));
        ASSERT_TRUE(written.ok());
        EXPECT_EQ(written->packed, packed);
        outs[packed ? 1 : 0] =
            moejit_test::load(dtype, result->find("out")->data, static_cast<size_t>(9 * 72));
      }
      // Sums of another order: now and then the next number.
      EXPECT_LE(moejit_test::worst_row_error(outs[1], outs[0], 72),
                dtype == DType::kF32 ? 2e-6 : 2e-3);
    }
  }
}

TEST(Run, PackedWeightsAreRefusedByOtherDevices) {
  const MoeConfig config = small_config(DType::kBF16);
  Problem p = moejit_test::make_problem(config, {.tokens = 1});
  File file;
  add_layer(&file, p);
  add_choices(&file, p);
  const Output output =
      moejit({"run", "--config", config_file(config).string(), "--inputs", file.write(), "--output",
              (scratch() / "out.safetensors").string(), "-d", "sim:sm_90a", "--packed"});
  EXPECT_EQ(output.code, 4) << output.err;
  EXPECT_THAT(output.err, HasSubstr("packed = true"));
  EXPECT_FALSE(fs::exists(scratch() / "out.safetensors"));
}

}  // namespace
}  // namespace moejit::cli_test
