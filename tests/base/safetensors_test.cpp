#include "base/safetensors.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <random>

namespace moejit::internal {
namespace {

std::string file_of(const std::string& header, size_t data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>(uint64_t{header.size()} >> (8 * i));
  return bytes + header + std::string(data, 'x');
}

std::string error_of(const std::string& header, size_t data) {
  const Result<SafeTensors> result = SafeTensors::parse(file_of(header, data));
  if (result.ok()) return "ok";
  EXPECT_EQ(result.status().code(), StatusCode::kDataError);
  return result.status().message();
}

TEST(SafeTensors, ReadsWhatItWrites) {
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};
  const std::vector<uint16_t> b = {7, 8};
  Result<std::string> bytes =
      safetensors_bytes({{"b", {TensorType::kBF16, {2}, b.data(), 4}},
                         {"a\"\n", {TensorType::kF32, {2, 3}, a.data(), 24}},
                         {"empty", {TensorType::kI64, {0, 5}, nullptr, 0}},
                         {"scalar", {TensorType::kU8, {}, "z", 1}}},
                        {{"made by", "a test"}});
  ASSERT_TRUE(bytes.ok()) << bytes.status().to_string();
  Result<SafeTensors> file = SafeTensors::parse(*bytes);
  ASSERT_TRUE(file.ok()) << file.status().to_string();
  EXPECT_EQ(file->tensors().size(), 4u);
  EXPECT_EQ(file->metadata().at("made by"), "a test");
  Result<TensorView> read = file->find("a\"\n");
  ASSERT_TRUE(read.ok());
  EXPECT_EQ(describe(*read), "F32 [2, 3]");
  EXPECT_EQ(memcmp(read->data, a.data(), 24), 0);
  EXPECT_EQ(*static_cast<const char*>(file->find("scalar")->data), 'z');
  EXPECT_EQ(file->find("empty")->bytes, 0);
  EXPECT_EQ((static_cast<const char*>(file->find("b")->data) - bytes->data()) % 64, 0);
  EXPECT_EQ(file->find("c").status().message(),
            "tensor \"c\": not in the file, which has a\"\n, b, empty, scalar");
}

TEST(SafeTensors, TypesHaveTheirSizes) {
  int64_t sum = 0;
  for (int i = 0; i <= static_cast<int>(TensorType::kF64); ++i) {
    const auto type = static_cast<TensorType>(i);
    EXPECT_STRNE(to_string(type), "unknown");
    const std::string data(8, 'd');
    Result<std::string> bytes = safetensors_bytes({{"t", {type, {1}, data.data(), size_of(type)}}});
    ASSERT_TRUE(bytes.ok());
    EXPECT_EQ(SafeTensors::parse(*bytes)->find("t")->type, type);
    sum += size_of(type);
  }
  EXPECT_EQ(sum, 5 * 1 + 4 * 2 + 3 * 4 + 3 * 8);
}

TEST(SafeTensors, AnEmptyFileOfTensorsIsValid) {
  EXPECT_EQ(error_of("{}", 0), "ok");
  EXPECT_EQ(error_of("{}   ", 0), "ok");
  EXPECT_EQ(error_of("{\"__metadata__\":{\"a\":\"b\"}}", 0), "ok");
}

TEST(SafeTensors, ErrorsNameTheTensorAndTheRule) {
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return "{\"t\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}}";
  };
  EXPECT_EQ(error_of(tensor("F32", "[2]", "[0,8]"), 8), "ok");
  EXPECT_EQ(error_of(tensor("F31", "[2]", "[0,8]"), 8),
            "safetensors: tensor \"t\": dtype \"F31\" is not known");
  EXPECT_EQ(error_of(tensor("F32", "[3]", "[0,8]"), 8),
            "safetensors: tensor \"t\": F32 [3] takes 12 bytes, data_offsets give 8");
  EXPECT_EQ(error_of(tensor("F32", "[2]", "[0,9]"), 8),
            "safetensors: tensor \"t\": data_offsets [0, 9] must ascend and end within the 8 bytes "
            "of data");
  EXPECT_EQ(error_of(tensor("F32", "[2]", "[8,0]"), 8),
            "safetensors: tensor \"t\": data_offsets [8, 0] must ascend and end within the 8 bytes "
            "of data");
  const char* shape_rule =
      "safetensors: tensor \"t\": shape must be a list of integers from 0 to 2^63 - 1";
  for (const char* shape : {"[-2]", "[2.0]", "2", "[\"2\"]", "[9223372036854775808]", "[[2]]"}) {
    EXPECT_EQ(error_of(tensor("F32", shape, "[0,8]"), 8), shape_rule) << shape;
  }
  for (const char* offsets : {"[0]", "[0,8,8]", "[0,-8]", "8", "[0,8.0]", "[0,1e3]"}) {
    EXPECT_EQ(error_of(tensor("F32", "[2]", offsets), 8),
              "safetensors: tensor \"t\": data_offsets must be two integers from 0 to 2^63 - 1");
  }
  const char* size_rule = "safetensors: tensor \"t\": shape has more than 2^63 - 1 bytes";
  EXPECT_EQ(error_of(tensor("F32", "[4294967296,4294967296]", "[0,0]"), 0), size_rule);
  EXPECT_EQ(error_of(tensor("F64", "[2305843009213693952]", "[0,0]"), 0), size_rule);
  EXPECT_EQ(error_of(tensor("F64", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0),
            "ok");
  EXPECT_EQ(error_of("{\"t\":{\"dtype\":\"F32\",\"shape\":[]}}", 0),
            "safetensors: tensor \"t\".data_offsets: is missing");
  EXPECT_EQ(error_of("{\"t\":[]}", 0), "safetensors: tensor \"t\" = a list: must be an object");
  EXPECT_EQ(error_of("{\"t\":1,\"t\":2}", 0), "safetensors: header: t: given twice");
  EXPECT_EQ(error_of("{\"__metadata__\":{\"a\":1}}", 0),
            "safetensors: __metadata__.\"a\": must be a string");
}

TEST(SafeTensors, TensorsTileTheData) {
  const auto two = [](const char* a, const char* b) {
    const auto piece = [](const char* range) {
      return std::string("{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":") + range + "}";
    };
    return "{\"a\":" + piece(a) + ",\"b\":" + piece(b) + "}";
  };
  EXPECT_EQ(error_of(two("[4,8]", "[0,4]"), 8), "ok");
  EXPECT_EQ(error_of(two("[0,4]", "[3,7]"), 7),
            "safetensors: tensor \"b\": data_offsets [3, 7] overlap those of \"a\"");
  EXPECT_EQ(error_of(two("[0,4]", "[5,9]"), 9),
            "safetensors: tensor \"b\": bytes [4, 5] before it belong to no tensor");
  EXPECT_EQ(error_of(two("[0,4]", "[4,8]"), 9),
            "safetensors: bytes [8, 9] of the data belong to no tensor");
}

TEST(SafeTensors, RefusesBrokenHeaders) {
  EXPECT_EQ(SafeTensors::parse("1234567").status().message(),
            "safetensors: the file has 7 bytes, fewer than the 8 of its header's length");
  EXPECT_EQ(
      SafeTensors::parse(std::string("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}", 10)).status().message(),
      "safetensors: a header of 18446744073709551615 bytes: must be at most 2");
  EXPECT_EQ(error_of("", 0), "safetensors: the header must begin with '{'");
  EXPECT_EQ(error_of(" {}", 0), "safetensors: the header must begin with '{'");
  EXPECT_EQ(error_of("{", 0).substr(0, 40), "safetensors: header: line 1, column 2: s");
}

// Every truncation and every changed byte of a valid file is read without harm (the sanitizers
// watch).
TEST(SafeTensors, SurvivesDamage) {
  const std::vector<float> data(8, 1.0f);
  const std::string good =
      *safetensors_bytes({{"x", {TensorType::kF32, {2, 4}, data.data(), 32}}}, {{"k", "v"}});
  for (size_t size = 0; size < good.size(); ++size) {
    // A copy of exactly that size, so that a read past it is a heap error.
    const std::vector<char> cut(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(SafeTensors::parse({cut.data(), cut.size()}).ok());
  }
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    std::vector<char> bad(good.begin(), good.end());
    for (int n = random() % 4; n >= 0; --n)
      bad[random() % bad.size()] = static_cast<char>(random());
    const Result<SafeTensors> file = SafeTensors::parse({bad.data(), bad.size()});
    if (!file.ok()) continue;
    for (const auto& [name, tensor] : file->tensors()) {
      const char* begin = static_cast<const char*>(tensor.data);
      EXPECT_TRUE(begin >= bad.data() && begin + tensor.bytes <= bad.data() + bad.size());
    }
  }
}

TEST(SafeTensors, RefusesToWriteWhatItCouldNotRead) {
  const TensorView tensor{TensorType::kU8, {1}, "a", 1};
  EXPECT_EQ(safetensors_bytes({{"t", tensor}, {"t", tensor}}).status().message(),
            "tensor \"t\": the name is taken");
  EXPECT_EQ(safetensors_bytes({{"__metadata__", tensor}}).status().code(),
            StatusCode::kInvalidArgument);
  EXPECT_EQ(safetensors_bytes({{"t", {TensorType::kF32, {1}, "a", 1}}}).status().message(),
            "tensor \"t\": bytes = 1: must fit F32 [1]");
}

TEST(SafeTensors, OpensFiles) {
  const std::string path = testing::TempDir() + "moejit_safetensors_" + std::to_string(getpid());
  const int32_t value = 42;
  ASSERT_TRUE(write_safetensors(path, {{"v", {TensorType::kI32, {1}, &value, 4}}}).ok());
  TensorView tensor;
  Result<SafeTensors> kept = SafeTensors();
  {
    Result<SafeTensors> file = SafeTensors::open(path);
    ASSERT_TRUE(file.ok()) << file.status().to_string();
    tensor = *file->find("v");
    kept = *file;  // keeps the mapping alive
  }
  EXPECT_EQ(memcmp(tensor.data, &value, 4), 0);
  std::ofstream(path, std::ios::trunc).flush();
  EXPECT_EQ(SafeTensors::open(path).status().code(), StatusCode::kDataError);
  unlink(path.c_str());
  EXPECT_EQ(SafeTensors::open(path).status().code(), StatusCode::kNotFound);
  EXPECT_EQ(SafeTensors::open("/").status().code(), StatusCode::kIoError);
}

}  // namespace
}  // namespace moejit::internal
