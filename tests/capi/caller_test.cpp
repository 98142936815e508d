// Launches on an interpreter's objects: here an array of descriptions, as a framework would give
// them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

#include "moejit/moejit_c.h"
#include "tests/generators/problem.h"

namespace {

using moejit_test::make_problem;
using moejit_test::Problem;
using moejit_test::worst_row_error;

struct Described {  // DLTensor of DLPack 1
  void* data;
  int32_t device_type, device_id, ndim;
  uint8_t code, bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct Object {
  Described tensor{};
  std::vector<int64_t> shape, strides;
  bool broken = false;
};

int errors = 0, open_locks = 0, locks = 0;

int describe(void* object, void* out) {
  auto* o = static_cast<Object*>(object);
  o->tensor.ndim = static_cast<int32_t>(o->shape.size());
  o->tensor.shape = o->shape.data();
  o->tensor.strides = o->strides.empty() ? nullptr : o->strides.data();
  std::memcpy(out, &o->tensor, sizeof o->tensor);
  errors += o->broken;
  return o->broken ? -1 : 0;
}
void* item(void* objects, ptrdiff_t index) {
  auto& all = *static_cast<std::vector<Object*>*>(objects);
  return index < static_cast<ptrdiff_t>(all.size()) ? all[static_cast<size_t>(index)] : nullptr;
}
void clear_error() {
  errors = 0;
}
void* unlock() {
  ++open_locks;
  ++locks;
  return &open_locks;
}
void lock(void* state) {
  --*static_cast<int*>(state);
}

class CApiCaller : public testing::Test {
 protected:
  void SetUp() override {
    moejit_config* config = nullptr;
    ASSERT_EQ(moejit_config_from_json(layer_.to_json().c_str(), &config), MOEJIT_OK);
    static const std::string cache = [] {
      std::string path = testing::TempDir() + "moejit_caller_XXXXXX";
      return std::string(mkdtemp(path.data()));
    }();
    moejit_options options;
    moejit_options_init(&options, sizeof options);
    options.device = "cpu";
    options.max_tokens = 8;
    options.cache_path = cache.c_str();
    const moejit_status status = moejit_get_kernel(config, &options, &kernel_);
    moejit_config_destroy(config);
    if (status == MOEJIT_UNAVAILABLE) GTEST_SKIP() << moejit_last_error();
    ASSERT_EQ(status, MOEJIT_OK) << moejit_last_error();
    workspace_.resize(moejit_kernel_workspace_size(kernel_, 8) + 256);
    desc_.struct_size = sizeof desc_;
    desc_.describe = describe;
    desc_.item = item;
    desc_.clear_error = clear_error;
    desc_.unlock = unlock;
    desc_.lock = lock;
    desc_.workspace =
        workspace_.data() + (256 - reinterpret_cast<uintptr_t>(workspace_.data()) % 256);
    desc_.workspace_size = workspace_.size() - 256;
    ASSERT_EQ(moejit_caller_create(kernel_, &desc_, &caller_), MOEJIT_OK) << moejit_last_error();
    const auto object = [](const void* data, std::vector<int64_t> shape, uint8_t code) {
      Object o;
      o.tensor.data = const_cast<void*>(data);
      o.tensor.device_type = 1;
      o.tensor.code = code;
      o.tensor.bits = 32;
      o.tensor.lanes = 1;
      o.shape = std::move(shape);
      return o;
    };
    objects_ = {
        object(problem_.x.data(), {4, 64}, 2),      object(problem_.w13.data(), {8, 96, 64}, 2),
        object(problem_.w2.data(), {8, 64, 48}, 2), object(problem_.weights.data(), {4, 2}, 2),
        object(problem_.ids.data(), {4, 2}, 0),     object(problem_.out.data(), {4, 64}, 2)};
  }
  void TearDown() override {
    moejit_caller_destroy(caller_);
    moejit_kernel_destroy(kernel_);
    EXPECT_EQ(open_locks, 0);
  }

  moejit_status launch() {
    std::vector<Object*> pointers;
    for (Object& o : objects_) pointers.push_back(&o);
    return moejit_caller_launch(caller_, &pointers);
  }

  const moejit::MoeConfig layer_{.num_experts = 8,
                                 .top_k = 2,
                                 .hidden_size = 64,
                                 .intermediate_size = 48,
                                 .dtype = moejit::DType::kF32};
  Problem problem_ = make_problem(layer_, {.tokens = 4});
  std::vector<char> workspace_;
  std::vector<Object> objects_;
  moejit_caller_desc desc_{};
  moejit_kernel* kernel_ = nullptr;
  moejit_caller* caller_ = nullptr;
};

// Bindings declare the struct themselves.
TEST(CApi, LayoutOfTheCallerDesc) {
  EXPECT_EQ(sizeof(moejit_caller_desc), 72u);
  EXPECT_EQ(offsetof(moejit_caller_desc, describe), 8u);
  EXPECT_EQ(offsetof(moejit_caller_desc, workspace_size), 64u);
}

TEST_F(CApiCaller, LaunchesWhatIsRight) {
  for (int i = 0; i < 2; ++i) {
    locks = 0;
    ASSERT_EQ(launch(), MOEJIT_OK) << moejit_last_error();
    EXPECT_EQ(locks, 1);
    EXPECT_LT(worst_row_error(problem_.result(), problem_.expected(), 64), 1e-5);
    EXPECT_TRUE(problem_.intact());
    // Strides as frameworks fill them in, with anything where a dimension has one element; an
    // offset.
    objects_[1].strides = {96 * 64, 64, 1};
    objects_[3].strides = {2, 1};
    objects_[0].tensor.data = static_cast<char*>(objects_[0].tensor.data) - 64;
    objects_[0].tensor.byte_offset = 64;
  }
  for (Object* one : {&objects_[0], &objects_[3], &objects_[4], &objects_[5]}) one->shape[0] = 1;
  objects_[3].strides = {77, 1};
  EXPECT_EQ(launch(), MOEJIT_OK) << moejit_last_error();
}

TEST_F(CApiCaller, WhatIsNotRightIsNamedAndNotLaunched) {
  struct Case {
    size_t which;
    const char* words;
    std::function<void(Object*)> change;
  };
  const Case cases[] = {
      {0, "x: must be", [](Object* o) { o->tensor.code = 4; }},
      {0, "x: must be", [](Object* o) { o->tensor.bits = 16; }},
      {0, "x: must be", [](Object* o) { o->tensor.lanes = 2; }},
      {0, "x: must be", [](Object* o) { o->shape = {64}; }},
      {0, "x: must be", [](Object* o) { o->shape[0] = 0; }},
      {0, "x: must be", [](Object* o) { o->shape[0] = 9; }},
      {0, "x: must be", [](Object* o) { o->tensor.data = nullptr; }},
      {1, "w13: must be",
       [](Object* o) {
         o->strides = {96 * 64, 1, 96};
       }},
      {1, "w13: must be",
       [](Object* o) {
         o->shape = {8, 64, 96};
       }},
      {2, "w2: must be", [](Object* o) { o->tensor.device_type = 2; }},
      {2, "w2: must be", [](Object* o) { o->broken = true; }},
      {3, "topk_weights: must be", [](Object* o) { o->shape[0] = 3; }},
      {4, "topk_ids: must be", [](Object* o) { o->tensor.bits = 64; }},
      {5, "out: must be",
       [](Object* o) {
         o->shape = {4, 32};
       }},
      {5, "out overlaps x:",
       [&](Object* o) { o->tensor.data = static_cast<char*>(objects_[0].tensor.data) + 256; }},
      {5, "out overlaps w13:", [&](Object* o) { o->tensor.data = objects_[1].tensor.data; }},
      {5, "out overlaps topk_ids:",
       [&](Object* o) { o->tensor.data = static_cast<char*>(objects_[4].tensor.data) - 1000; }},
      {0, "x = ", [](Object* o) { o->tensor.byte_offset = 4; }},  // the launch's own rule
  };
  for (const Case& c : cases) {
    const std::vector<Object> right = objects_;
    c.change(&objects_[c.which]);
    locks = 0;
    EXPECT_EQ(launch(), MOEJIT_INVALID_ARGUMENT) << c.words;
    EXPECT_EQ(std::string(moejit_last_error()).rfind(c.words, 0), 0u) << moejit_last_error();
    EXPECT_EQ(errors, 0);  // the interpreter's, cleared
    objects_ = right;
  }
  objects_.pop_back();
  EXPECT_EQ(launch(), MOEJIT_INVALID_ARGUMENT);
  EXPECT_TRUE(problem_.intact());
}

TEST_F(CApiCaller, CreateNamesWhatIsMissing) {
  moejit_caller* made = nullptr;
  desc_.item = nullptr;
  EXPECT_EQ(moejit_caller_create(kernel_, &desc_, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_STREQ(moejit_last_error(), "desc->item = NULL: must not be");
  desc_.item = item;
  desc_.lock = nullptr;
  EXPECT_EQ(moejit_caller_create(kernel_, &desc_, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(moejit_caller_create(nullptr, &desc_, &made), MOEJIT_INVALID_ARGUMENT);
  desc_.struct_size = 8;
  EXPECT_EQ(moejit_caller_create(kernel_, &desc_, &made), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(made, nullptr);
  EXPECT_EQ(moejit_caller_launch(nullptr, &desc_), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(moejit_caller_launch(caller_, nullptr), MOEJIT_INVALID_ARGUMENT);
  moejit_caller_destroy(nullptr);
}

TEST_F(CApiCaller, WorkspaceOfTheDevice) {
  moejit_workspace* workspace = nullptr;
  ASSERT_EQ(moejit_workspace_create(kernel_, moejit_kernel_workspace_size(kernel_, 8), &workspace),
            MOEJIT_OK)
      << moejit_last_error();
  void* data = moejit_workspace_data(workspace);
  ASSERT_NE(data, nullptr);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(data) % 256, 0U);
  moejit_caller_destroy(caller_);
  desc_.workspace = data;
  ASSERT_EQ(moejit_caller_create(kernel_, &desc_, &caller_), MOEJIT_OK);
  EXPECT_EQ(launch(), MOEJIT_OK) << moejit_last_error();
  moejit_workspace_destroy(workspace);
  EXPECT_EQ(moejit_workspace_create(nullptr, 8, &workspace), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(workspace, nullptr);
  EXPECT_EQ(moejit_workspace_create(kernel_, 8, nullptr), MOEJIT_INVALID_ARGUMENT);
  EXPECT_EQ(moejit_workspace_data(nullptr), nullptr);
  moejit_workspace_destroy(nullptr);
}

}  // namespace
