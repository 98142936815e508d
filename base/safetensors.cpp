#include "base/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/fs.h"
#include "base/json_util.h"
#include "base/nearest.h"

namespace moejit::internal {
namespace {

using nlohmann::json;

constexpr size_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // the format's own limit
constexpr size_t kDataAlignment = 64;
constexpr const char* kMetadata = "__metadata__";

struct TypeRow {
  TensorType type;
  const char* name;
  int64_t size;
};

constexpr TypeRow kTypes[] = {
    {TensorType::kBool, "BOOL", 1},      {TensorType::kU8, "U8", 1},
    {TensorType::kI8, "I8", 1},          {TensorType::kF8E5M2, "F8_E5M2", 1},
    {TensorType::kF8E4M3, "F8_E4M3", 1}, {TensorType::kI16, "I16", 2},
    {TensorType::kU16, "U16", 2},        {TensorType::kF16, "F16", 2},
    {TensorType::kBF16, "BF16", 2},      {TensorType::kI32, "I32", 4},
    {TensorType::kU32, "U32", 4},        {TensorType::kF32, "F32", 4},
    {TensorType::kI64, "I64", 8},        {TensorType::kU64, "U64", 8},
    {TensorType::kF64, "F64", 8},
};

const TypeRow* find_type(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

Status data_error(std::string message) {
  return Status(StatusCode::kDataError, "safetensors: " + std::move(message));
}

Status tensor_error(const std::string& name, const std::string& message) {
  return data_error("tensor " + in_quotes(name) + ": " + message);
}

// Bytes of a dense tensor, or -1 where an extent is negative or the product beyond 2^63 - 1. A zero
// extent makes it empty whatever the others are.
int64_t dense_bytes(const std::vector<int64_t>& shape, int64_t element) {
  if (std::any_of(shape.begin(), shape.end(), [](int64_t d) { return d < 0; })) return -1;
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) return 0;
  int64_t bytes = element;
  for (int64_t extent : shape) {
    if (__builtin_mul_overflow(bytes, extent, &bytes)) return -1;
  }
  return bytes;
}

bool read_integers(const json* list, std::vector<int64_t>* out) {
  if (list == nullptr || !list->is_array()) return false;
  for (const json& item : *list) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > uint64_t{INT64_MAX}) return false;
    out->push_back(static_cast<int64_t>(item.get<uint64_t>()));
  }
  return true;
}

std::string range_text(int64_t begin, int64_t end) {
  return "[" + std::to_string(begin) + ", " + std::to_string(end) + "]";
}

Result<TensorView> read_tensor(const std::string& name, const json& value, const char* data,
                               int64_t data_size) {
  JsonFields fields(value, "tensor " + in_quotes(name));
  std::string type_name;
  for (const char* field : {"dtype", "shape", "data_offsets"}) fields.require(field);
  fields.read("dtype", &type_name);
  const json* shape = fields.child("shape");
  const json* offsets = fields.child("data_offsets");
  if (const Status status = fields.finish(); !status.ok()) return data_error(status.message());

  TensorView tensor;
  const TypeRow* type = find_type(type_name);
  if (type == nullptr) return tensor_error(name, "dtype " + in_quotes(type_name) + " is not known");
  tensor.type = type->type;
  if (!read_integers(shape, &tensor.shape)) {
    return tensor_error(name, "shape must be a list of integers from 0 to 2^63 - 1");
  }
  std::vector<int64_t> range;
  if (!read_integers(offsets, &range) || range.size() != 2) {
    return tensor_error(name, "data_offsets must be two integers from 0 to 2^63 - 1");
  }
  if (range[0] > range[1] || range[1] > data_size) {
    return tensor_error(name, "data_offsets " + range_text(range[0], range[1]) +
                                  " must ascend and end within the " + std::to_string(data_size) +
                                  " bytes of data");
  }
  tensor.bytes = dense_bytes(tensor.shape, type->size);
  if (tensor.bytes < 0) return tensor_error(name, "shape has more than 2^63 - 1 bytes");
  if (tensor.bytes != range[1] - range[0]) {
    return tensor_error(name, describe(tensor) + " takes " + std::to_string(tensor.bytes) +
                                  " bytes, data_offsets give " +
                                  std::to_string(range[1] - range[0]));
  }
  tensor.data = data + range[0];
  return tensor;
}

// The tensors must tile the data: no byte in two of them and none in no tensor.
Status check_tiling(const std::map<std::string, TensorView>& tensors, const char* data,
                    int64_t data_size) {
  struct Piece {
    int64_t begin, end;
    const std::string* name;
  };
  std::vector<Piece> pieces;
  for (const auto& [name, tensor] : tensors) {
    if (tensor.bytes == 0) continue;
    const int64_t begin = static_cast<const char*>(tensor.data) - data;
    pieces.push_back({begin, begin + tensor.bytes, &name});
  }
  std::sort(pieces.begin(), pieces.end(),
            [](const Piece& a, const Piece& b) { return a.begin < b.begin; });
  int64_t end = 0;
  const std::string* last = nullptr;
  for (const Piece& piece : pieces) {
    if (piece.begin < end) {
      return tensor_error(*piece.name, "data_offsets " + range_text(piece.begin, piece.end) +
                                           " overlap those of " + in_quotes(*last));
    }
    if (piece.begin > end) {
      return tensor_error(
          *piece.name, "bytes " + range_text(end, piece.begin) + " before it belong to no tensor");
    }
    end = piece.end;
    last = piece.name;
  }
  if (end != data_size) {
    return data_error("bytes " + range_text(end, data_size) + " of the data belong to no tensor");
  }
  return Status();
}

}  // namespace

const char* to_string(TensorType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return row.name;
  }
  return "unknown";
}

int64_t size_of(TensorType type) {
  for (const TypeRow& row : kTypes) {
    if (row.type == type) return row.size;
  }
  return 0;
}

std::string describe(const TensorView& tensor) {
  std::string text = std::string(to_string(tensor.type)) + " [";
  for (size_t i = 0; i < tensor.shape.size(); ++i) {
    text += (i > 0 ? ", " : "") + std::to_string(tensor.shape[i]);
  }
  return text + "]";
}

Result<SafeTensors> SafeTensors::parse(std::string_view bytes) {
  if (bytes.size() < kLengthBytes) {
    return data_error("the file has " + std::to_string(bytes.size()) +
                      " bytes, fewer than the 8 of its header's length");
  }
  uint64_t length = 0;
  for (size_t i = 0; i < kLengthBytes; ++i) {
    length |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
  }
  const uint64_t rest = bytes.size() - kLengthBytes;
  if (length > kMaxHeader || length > rest) {
    return data_error("a header of " + std::to_string(length) + " bytes: must be at most " +
                      std::to_string(std::min(kMaxHeader, rest)));
  }
  const std::string_view header = bytes.substr(kLengthBytes, length);
  if (header.empty() || header[0] != '{') return data_error("the header must begin with '{'");
  Result<json> parsed = parse_json(header);
  if (!parsed.ok()) return data_error("header: " + parsed.status().message());
  if (!parsed->is_object()) return data_error("the header must be an object");

  const char* data = bytes.data() + kLengthBytes + length;
  const auto data_size = static_cast<int64_t>(rest - length);
  SafeTensors result;
  for (const auto& [name, value] : parsed->items()) {
    if (name == kMetadata) {
      if (!value.is_object()) return data_error("__metadata__ must be an object");
      for (const auto& [key, text] : value.items()) {
        if (!text.is_string()) {
          return data_error("__metadata__." + in_quotes(key) + ": must be a string");
        }
        result.metadata_[key] = text.get<std::string>();
      }
      continue;
    }
    Result<TensorView> tensor = read_tensor(name, value, data, data_size);
    if (!tensor.ok()) return tensor.status();
    result.tensors_[name] = *std::move(tensor);
  }
  MOEJIT_RETURN_IF_ERROR(check_tiling(result.tensors_, data, data_size));
  return result;
}

Result<SafeTensors> SafeTensors::open(const std::string& path) {
  const Fd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info;
  if (!file || fstat(file.get(), &info) != 0) {
    return Status(errno == ENOENT ? StatusCode::kNotFound : StatusCode::kIoError,
                  path + ": " + errno_message(errno));
  }
  if (!S_ISREG(info.st_mode)) return Status(StatusCode::kIoError, path + ": not a regular file");
  const auto size = static_cast<size_t>(info.st_size);
  std::shared_ptr<const void> mapping;
  if (size > 0) {
    void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
    if (memory == MAP_FAILED) {
      return Status(StatusCode::kIoError, path + ": " + errno_message(errno));
    }
    mapping = std::shared_ptr<const void>(
        memory, [size](const void* p) { munmap(const_cast<void*>(p), size); });
  }
  Result<SafeTensors> result = parse({static_cast<const char*>(mapping.get()), size});
  if (!result.ok()) return Status(result.status().code(), path + ": " + result.status().message());
  result->mapping_ = std::move(mapping);
  return result;
}

Result<TensorView> SafeTensors::find(const std::string& name) const {
  const auto it = tensors_.find(name);
  if (it != tensors_.end()) return it->second;
  std::vector<std::string> names;
  for (const auto& [known, unused] : tensors_) names.push_back(known);
  constexpr size_t kMaxListed = 20;
  if (names.size() > kMaxListed) {
    names.resize(kMaxListed);
    names.push_back("...");
  }
  return Status(StatusCode::kNotFound, "tensor " + in_quotes(name) +
                                           ": not in the file, which has " +
                                           (names.empty() ? "none" : join(names)));
}

Result<std::string> safetensors_bytes(const std::vector<NamedTensor>& tensors,
                                      const std::map<std::string, std::string>& metadata) {
  std::string text = "{";
  const auto append = [&](const std::string& name, const std::string& value) {
    if (text.size() > 1) text += ',';
    text += json_string(name) + ":" + value;
  };
  if (!metadata.empty()) {
    std::string inner = "{";
    for (const auto& [key, value] : metadata) {
      inner += (inner.size() > 1 ? "," : "") + json_string(key) + ":" + json_string(value);
    }
    append(kMetadata, inner + "}");
  }
  std::vector<std::string> seen;
  int64_t end = 0;
  for (const auto& [name, tensor] : tensors) {
    if (name == kMetadata || std::find(seen.begin(), seen.end(), name) != seen.end()) {
      return invalid_argument("tensor " + in_quotes(name) + ": the name is taken");
    }
    seen.push_back(name);
    if (tensor.bytes != dense_bytes(tensor.shape, size_of(tensor.type))) {
      return invalid_argument("tensor " + in_quotes(name) + ": bytes = " +
                              std::to_string(tensor.bytes) + ": must fit " + describe(tensor));
    }
    const int64_t begin = end;
    end += tensor.bytes;
    std::string shape;
    for (int64_t extent : tensor.shape) {
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    }
    append(name, std::string("{\"dtype\":\"") + to_string(tensor.type) + "\",\"shape\":[" + shape +
                     "],\"data_offsets\":[" + std::to_string(begin) + "," + std::to_string(end) +
                     "]}");
  }
  text += '}';
  while ((kLengthBytes + text.size()) % kDataAlignment != 0) text += ' ';
  std::string bytes;
  bytes.reserve(kLengthBytes + text.size() + static_cast<size_t>(end));
  for (size_t i = 0; i < kLengthBytes; ++i) {
    bytes += static_cast<char>(uint64_t{text.size()} >> (8 * i));
  }
  bytes += text;
  for (const NamedTensor& item : tensors) {
    if (item.tensor.bytes == 0) continue;
    bytes.append(static_cast<const char*>(item.tensor.data),
                 static_cast<size_t>(item.tensor.bytes));
  }
  return bytes;
}

Status write_safetensors(const std::string& path, const std::vector<NamedTensor>& tensors,
                         const std::map<std::string, std::string>& metadata) {
  Result<std::string> bytes = safetensors_bytes(tensors, metadata);
  if (!bytes.ok()) return bytes.status();
  return write_file(path, *bytes);
}

}  // namespace moejit::internal
