#include "backends/hip/code_object.h"

#include <elf.h>

#include <algorithm>
#include <cstring>

namespace moejit::internal::hip {
namespace {

constexpr uint32_t kMetadataNote = 32;  // NT_AMDGPU_METADATA

// Thrown inside this file alone.
struct Malformed {
  const char* why;
};

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : data_(data), size_(size) {}
  size_t left() const { return size_; }
  const uint8_t* take(size_t n) {
    if (n > size_) throw Malformed{"it ends early"};
    const uint8_t* at = data_;
    data_ += n;
    size_ -= n;
    return at;
  }
  uint64_t big_endian(size_t n) {
    uint64_t value = 0;
    for (const uint8_t* p = take(n); n-- > 0; ++p) value = value << 8 | *p;
    return value;
  }

 private:
  const uint8_t* data_;
  size_t size_;
};

// MessagePack, as far as the metadata use it: maps, arrays, strings, integers, booleans, nil.
struct Value {
  int64_t number = 0;
  std::string text;
  std::vector<std::pair<std::string, Value>> map;
  std::vector<Value> array;

  const Value* find(const char* key) const {
    for (const auto& [name, value] : map) {
      if (name == key) return &value;
    }
    return nullptr;
  }
  int integer(const char* key, int otherwise) const {
    const Value* value = find(key);
    return value == nullptr ? otherwise : static_cast<int>(value->number);
  }
};

Value read_value(Bytes& in, int depth) {
  if (depth > 16) throw Malformed{"its metadata nest too deeply"};
  const auto tag = static_cast<unsigned>(in.big_endian(1));
  Value value;
  const auto text = [&](uint64_t n) {
    const auto* at = in.take(n);
    value.text.assign(reinterpret_cast<const char*>(at), n);
  };
  const auto map = [&](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) {
      std::string key = read_value(in, depth + 1).text;
      value.map.emplace_back(std::move(key), read_value(in, depth + 1));
    }
  };
  const auto array = [&](uint64_t n) {
    for (uint64_t i = 0; i < n; ++i) value.array.push_back(read_value(in, depth + 1));
  };
  if (tag <= 0x7f) {
    value.number = tag;
  } else if (tag <= 0x8f) {
    map(tag & 15);
  } else if (tag <= 0x9f) {
    array(tag & 15);
  } else if (tag <= 0xbf) {
    text(tag & 31);
  } else if (tag >= 0xe0) {
    value.number = static_cast<int>(tag) - 256;
  } else {
    switch (tag) {
      case 0xc0:
      case 0xc2:
        break;
      case 0xc3:
        value.number = 1;
        break;
      case 0xcc:
      case 0xcd:
      case 0xce:
      case 0xcf:
        value.number = static_cast<int64_t>(in.big_endian(size_t{1} << (tag - 0xcc)));
        break;
      case 0xd0:
        value.number = static_cast<int8_t>(in.big_endian(1));
        break;
      case 0xd1:
        value.number = static_cast<int16_t>(in.big_endian(2));
        break;
      case 0xd2:
        value.number = static_cast<int32_t>(in.big_endian(4));
        break;
      case 0xd3:
        value.number = static_cast<int64_t>(in.big_endian(8));
        break;
      case 0xd9:
      case 0xda:
      case 0xdb:
        text(in.big_endian(size_t{1} << (tag - 0xd9)));
        break;
      case 0xdc:
      case 0xdd:
        array(in.big_endian(size_t{2} << (tag - 0xdc)));
        break;
      case 0xde:
      case 0xdf:
        map(in.big_endian(size_t{2} << (tag - 0xde)));
        break;
      default:
        throw Malformed{"its metadata hold an unknown kind of value"};
    }
  }
  return value;
}

template <typename T>
T read_at(const std::vector<uint8_t>& bytes, uint64_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) throw Malformed{"it ends early"};
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

Value metadata(const std::vector<uint8_t>& bytes) {
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_machine != 224 ||
      header.e_type != ET_DYN) {
    throw Malformed{"it is no ELF file for AMD GPUs"};
  }
  for (uint16_t i = 0; i < header.e_phnum; ++i) {
    const auto segment =
        read_at<Elf64_Phdr>(bytes, header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr));
    if (segment.p_type != PT_NOTE) continue;
    if (segment.p_offset > bytes.size() || bytes.size() - segment.p_offset < segment.p_filesz)
      throw Malformed{"it ends early"};
    Bytes in(bytes.data() + segment.p_offset, segment.p_filesz);
    while (in.left() >= sizeof(Elf64_Nhdr)) {
      Elf64_Nhdr note;
      std::memcpy(&note, in.take(sizeof note), sizeof note);
      const size_t name_size = (size_t{note.n_namesz} + 3) & ~size_t{3};
      const size_t size = (size_t{note.n_descsz} + 3) & ~size_t{3};
      const uint8_t* name = in.take(name_size);
      const uint8_t* description = in.take(std::min(size, in.left()));
      const bool ours =
          note.n_type == kMetadataNote && note.n_namesz == 7 && std::memcmp(name, "AMDGPU", 7) == 0;
      if (!ours) continue;
      const auto room = static_cast<size_t>(bytes.data() + bytes.size() - description);
      Bytes content(description, std::min<size_t>(note.n_descsz, room));
      return read_value(content, 0);
    }
  }
  throw Malformed{"it has no metadata"};
}

}  // namespace

Result<CodeObject> read_code_object(const std::vector<uint8_t>& bytes) {
  try {
    const Value root = metadata(bytes);
    CodeObject object;
    if (const Value* target = root.find("amdhsa.target"); target != nullptr) {
      // "amdgcn-amd-amdhsa--gfx942:xnack-"
      const size_t at = target->text.find("--");
      if (at != std::string::npos) object.arch = target->text.substr(at + 2);
      object.arch = object.arch.substr(0, object.arch.find(':'));
    }
    const Value* kernels = root.find("amdhsa.kernels");
    if (object.arch.empty() || kernels == nullptr) throw Malformed{"its metadata name no target"};
    for (const Value& each : kernels->array) {
      KernelFacts facts;
      if (const Value* name = each.find(".name"); name != nullptr) facts.name = name->text;
      facts.vgprs = each.integer(".vgpr_count", -1);
      facts.agprs = each.integer(".agpr_count", -1);
      facts.sgprs = each.integer(".sgpr_count", -1);
      facts.spills = each.integer(".vgpr_spill_count", 0) + each.integer(".sgpr_spill_count", 0);
      facts.scratch_bytes = each.integer(".private_segment_fixed_size", 0);
      facts.lds_bytes = each.integer(".group_segment_fixed_size", 0);
      facts.max_threads = each.integer(".max_flat_workgroup_size", 0);
      object.kernels.push_back(std::move(facts));
    }
    return object;
  } catch (const Malformed& malformed) {
    return Status(StatusCode::kDataError,
                  std::string("the code object cannot be read: ") + malformed.why);
  }
}

}  // namespace moejit::internal::hip
