// SafeTensors::parse: every view lies within the input, no two overlap, and what is accepted can
// be written and read again.
#include <cstring>

#include "base/safetensors.h"
#include "tests/fuzz/fuzz.h"

using moejit::internal::NamedTensor;
using moejit::internal::SafeTensors;
using moejit::internal::TensorType;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = SafeTensors::parse({reinterpret_cast<const char*>(data), size});
  if (!file.ok()) {
    FUZZ_CHECK(file.status().message().rfind("safetensors: ", 0) == 0);
    return 0;
  }
  std::vector<NamedTensor> tensors;
  size_t total = 0;
  for (const auto& [name, tensor] : file->tensors()) {
    const auto* begin = static_cast<const uint8_t*>(tensor.data);
    FUZZ_CHECK(tensor.bytes >= 0);
    FUZZ_CHECK(begin >= data && begin + tensor.bytes <= data + size);
    total += static_cast<size_t>(tensor.bytes);
    tensors.push_back({name, tensor});
  }
  FUZZ_CHECK(total <= size);
  const auto bytes = moejit::internal::safetensors_bytes(tensors, file->metadata());
  FUZZ_CHECK(bytes.ok());
  const auto again = SafeTensors::parse(*bytes);
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(again->metadata() == file->metadata());
  for (const auto& [name, tensor] : file->tensors()) {
    const auto copy = again->find(name);
    FUZZ_CHECK(copy.ok() && copy->shape == tensor.shape && copy->type == tensor.type);
    FUZZ_CHECK(tensor.bytes == 0 ||
               std::memcmp(copy->data, tensor.data, static_cast<size_t>(tensor.bytes)) == 0);
  }
  return 0;
}

std::vector<std::string> fuzz_seeds() {
  const char data[64] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde";
  const auto bytes = [](const std::vector<NamedTensor>& tensors) {
    return *moejit::internal::safetensors_bytes(tensors, {{"k", "v"}});
  };
  std::vector<std::string> seeds = {
      bytes({{"x", {TensorType::kF32, {2, 3}, data, 24}},
             {"ids", {TensorType::kI64, {4}, data, 32}}}),
      bytes({{"scalar", {TensorType::kBF16, {}, data, 2}},
             {"none", {TensorType::kF64, {3, 0}, data, 0}},
             {"b", {TensorType::kBool, {5}, data, 5}}}),
  };
  // Headers that a writer would not make: a product that overflows, a range that is reversed.
  for (const std::string header :
       {R"({"a":{"dtype":"F64","shape":[4294967296,4294967296,8],"data_offsets":[0,0]}})",
        R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[4,0]}})",
        R"({"a":{"dtype":"U8","shape":[],"data_offsets":[0,9223372036854775807]}})"}) {
    std::string file(8, '\0');
    file[0] = static_cast<char>(header.size());
    seeds.push_back(file + header + "data");
  }
  return seeds;
}
