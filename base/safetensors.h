// The safetensors file format: named dense tensors behind a JSON header. Written from the format's
// definition: 8 bytes little-endian header length, the header, then the data without gaps.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "moejit/status.h"

namespace moejit::internal {

enum class TensorType : int32_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
};
const char* to_string(TensorType type);  // "F32", as in the file
int64_t size_of(TensorType type);

// A tensor of a file or of the caller. `data` is little-endian, row-major and, in a file, aligned
// to no more than the file makes it: copy before use where alignment matters.
struct TensorView {
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  int64_t bytes = 0;
};
// "BF16 [8, 64]"
std::string describe(const TensorView& tensor);

class SafeTensors {
 public:
  // Maps the file for reading; the views live as long as any copy of the result. The file must not
  // shrink meanwhile (the process would get SIGBUS). kIoError, kNotFound or, naming the tensor and
  // the rule that it breaks, kDataError.
  static Result<SafeTensors> open(const std::string& path);
  // The same from memory, which must outlive the views. Reads nothing outside `bytes`.
  static Result<SafeTensors> parse(std::string_view bytes);

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // kNotFound names the tensors that there are.
  Result<TensorView> find(const std::string& name) const;

 private:
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::shared_ptr<const void> mapping_;
};

struct NamedTensor {
  std::string name;
  TensorView tensor;
};

// Header and data of a file. Tensors are laid out in the order given, the data begins at a multiple
// of 64. kInvalidArgument where a name repeats or is "__metadata__", or `bytes` does not fit the
// shape.
Result<std::string> safetensors_bytes(const std::vector<NamedTensor>& tensors,
                                      const std::map<std::string, std::string>& metadata = {});
// The same to a file, replaced whole.
Status write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                         const std::map<std::string, std::string>& metadata = {});

}  // namespace moejit::internal
