#include "tests/conformance/archive.h"

#include <cstdio>
#include <memory>

namespace moejit_conformance {
namespace {

using moejit::Result;
using moejit::Status;
using moejit::StatusCode;
using File = std::unique_ptr<FILE, int (*)(FILE*)>;

constexpr uint64_t kMagic = 0x31666e6f6374696a;

class Writer {
 public:
  explicit Writer(FILE* file) : file_(file) {}
  void put(const void* data, uint64_t size) {
    ok_ = ok_ && fwrite(&size, sizeof size, 1, file_) == 1 && fwrite(data, 1, size, file_) == size;
  }
  bool ok() const { return ok_; }

 private:
  FILE* file_;
  bool ok_ = true;
};

template <typename Container>
bool get(FILE* file, Container* out) {
  uint64_t size = 0;
  if (fread(&size, sizeof size, 1, file) != 1 || size > (uint64_t{1} << 28)) return false;
  out->resize(size / sizeof(*out->data()));
  return fread(out->data(), 1, size, file) == size;
}

}  // namespace

Status write_archive(const std::string& path, const std::vector<Expected>& items) {
  const File file(fopen(path.c_str(), "wb"), fclose);
  if (file == nullptr) return {StatusCode::kIoError, path + ": cannot be written"};
  Writer writer(file.get());
  writer.put(&kMagic, sizeof kMagic);
  for (const Expected& item : items) {
    writer.put(item.name.data(), item.name.size());
    for (const std::string* text :
         {&item.binary.format, &item.binary.arch, &item.binary.compiler}) {
      writer.put(text->data(), text->size());
    }
    writer.put(item.binary.bytes.data(), item.binary.bytes.size());
    writer.put(item.out.data(), item.out.size() * 4);
  }
  if (!writer.ok()) return {StatusCode::kIoError, path + ": cannot be written"};
  return {};
}

Result<std::vector<Expected>> read_archive(const std::string& path) {
  const File file(fopen(path.c_str(), "rb"), fclose);
  if (file == nullptr) return Status(StatusCode::kIoError, path + ": cannot be read");
  std::vector<uint64_t> magic;
  if (!get(file.get(), &magic) || magic != std::vector<uint64_t>{kMagic}) {
    return Status(StatusCode::kDataError, path + ": not an archive of this program");
  }
  std::vector<Expected> items;
  for (Expected item; get(file.get(), &item.name); item = Expected{}) {
    if (!get(file.get(), &item.binary.format) || !get(file.get(), &item.binary.arch) ||
        !get(file.get(), &item.binary.compiler) || !get(file.get(), &item.binary.bytes) ||
        !get(file.get(), &item.out)) {
      return Status(StatusCode::kDataError, path + ": ends in the middle of " + item.name);
    }
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace moejit_conformance
