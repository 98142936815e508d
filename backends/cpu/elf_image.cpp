#include "backends/cpu/elf_image.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstring>

namespace moejit::internal {
namespace {

constexpr char kMagic[8] = {'M', 'O', 'E', 'J', 'I', 'T', 'K', '1'};
constexpr size_t kTrailerBytes = 16;
constexpr uint64_t kMostBytes = uint64_t{1} << 30;

uint64_t checksum(const uint8_t* data, size_t size) {  // FNV-1a
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; ++i) hash = (hash ^ data[i]) * 0x100000001b3u;
  return hash;
}

Status bad(const std::string& what) {
  return {StatusCode::kDataError, "compiled kernel: " + what};
}

template <typename T>
T read_at(const std::vector<uint8_t>& bytes, uint64_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

bool within(uint64_t offset, uint64_t length, uint64_t size) {
  return offset <= size && length <= size - offset;
}

Status check_header(const std::vector<uint8_t>& bytes, uint64_t size) {
  if (size < sizeof(Elf64_Ehdr)) return bad("smaller than an ELF header");
  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return bad("not an ELF file");
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB) {
    return bad("not 64-bit little-endian ELF");
  }
  if (header.e_machine != EM_X86_64) {
    return bad("ELF machine " + std::to_string(header.e_machine) + ", must be 62 (x86-64)");
  }
  if (header.e_type != ET_DYN) return bad("not a shared object");
  if (header.e_phentsize != sizeof(Elf64_Phdr) || header.e_phnum == 0 || header.e_phnum > 16 ||
      !within(header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr), size)) {
    return bad("bad program header table");
  }
  return {};
}

Status check_dynamic(const std::vector<uint8_t>& bytes, const Elf64_Phdr& dynamic) {
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= dynamic.p_filesz; at += sizeof(Elf64_Dyn)) {
    switch (read_at<Elf64_Dyn>(bytes, dynamic.p_offset + at).d_tag) {
      case DT_NULL:
        return {};
      case DT_HASH:
      case DT_SYMTAB:
      case DT_STRTAB:
      case DT_STRSZ:
      case DT_SYMENT:
      case DT_RELA:
      case DT_RELASZ:
      case DT_RELAENT:
      case DT_FLAGS:
      case DT_FLAGS_1:
        break;
      default:
        return bad(
            "dynamic section has an entry that a kernel does not need (a dependency, an "
            "initialiser)");
    }
  }
  return bad("dynamic section does not end");
}

std::string last_error(const char* what) {
  const char* why = dlerror();
  return std::string(what) + (why != nullptr ? why : "unknown reason");
}

bool write_all(int fd, const uint8_t* data, size_t size) {
  while (size > 0) {
    const ssize_t n = write(fd, data, size);
    if (n <= 0) return false;
    data += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

struct Mapped {
  void* handle = nullptr;
  int fd = -1;
  std::string why;
};

Mapped map_memory(const std::vector<uint8_t>& bytes, const std::string& name) {
  Mapped mapped;
  mapped.fd = memfd_create(("moejit:" + name).substr(0, 200).c_str(), MFD_CLOEXEC);
  if (mapped.fd < 0) {
    mapped.why = "memfd_create failed";
    return mapped;
  }
  if (!write_all(mapped.fd, bytes.data(), bytes.size())) {
    mapped.why = "writing the memfd failed";
  } else {
    const std::string path = "/proc/self/fd/" + std::to_string(mapped.fd);
    mapped.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (mapped.handle == nullptr) mapped.why = last_error("");
  }
  if (mapped.handle == nullptr) {
    close(mapped.fd);
    mapped.fd = -1;
  }
  return mapped;
}

Mapped map_file(const std::vector<uint8_t>& bytes) {
  Mapped mapped;
  static std::atomic<uint64_t> counter{0};
  const char* temporary = getenv("TMPDIR");
  // Process and count are in the name, so that no path comes twice in a process.
  std::string path = std::string(temporary != nullptr && *temporary != '\0' ? temporary : "/tmp") +
                     "/moejit-" + std::to_string(getpid()) + "-" + std::to_string(counter++) +
                     "-XXXXXX";
  const int fd = mkostemp(path.data(), O_CLOEXEC);  // mode 0600
  if (fd < 0) {
    mapped.why = "no temporary file: " + path;
    return mapped;
  }
  const bool written = write_all(fd, bytes.data(), bytes.size());
  close(fd);
  if (!written) {
    mapped.why = "writing " + path + " failed";
  } else {
    mapped.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (mapped.handle == nullptr) mapped.why = last_error("");
  }
  unlink(path.c_str());
  return mapped;
}

}  // namespace

void seal_image(std::vector<uint8_t>& bytes) {
  const uint64_t sum = checksum(bytes.data(), bytes.size());
  const size_t at = bytes.size();
  bytes.resize(at + kTrailerBytes);
  std::memcpy(bytes.data() + at, &sum, sizeof sum);
  std::memcpy(bytes.data() + at + sizeof sum, kMagic, sizeof kMagic);
}

Status check_image(const std::vector<uint8_t>& bytes) {
  if (bytes.size() < kTrailerBytes || bytes.size() > kMostBytes) {
    return bad(std::to_string(bytes.size()) + " bytes is no possible size");
  }
  const uint64_t size = bytes.size() - kTrailerBytes;
  if (std::memcmp(bytes.data() + size + 8, kMagic, sizeof kMagic) != 0)
    return bad("no trailer: truncated");
  if (read_at<uint64_t>(bytes, size) != checksum(bytes.data(), size))
    return bad("checksum differs: corrupted");
  MOEJIT_RETURN_IF_ERROR(check_header(bytes, size));

  const auto header = read_at<Elf64_Ehdr>(bytes, 0);
  int num_dynamic = 0, num_load = 0;
  uint64_t address = 0;
  for (int i = 0; i < header.e_phnum; ++i) {
    const auto segment = read_at<Elf64_Phdr>(bytes, header.e_phoff + i * sizeof(Elf64_Phdr));
    if (!within(segment.p_offset, segment.p_filesz, size))
      return bad("a segment lies outside the file");
    if (segment.p_type == PT_LOAD) {
      ++num_load;
      if (segment.p_memsz < segment.p_filesz || segment.p_memsz > kMostBytes ||
          segment.p_vaddr < address || segment.p_vaddr > kMostBytes) {
        return bad("bad segment size or order");
      }
      if ((segment.p_flags & PF_W) != 0 && (segment.p_flags & PF_X) != 0) {
        return bad("a segment is both writable and executable");
      }
      address = segment.p_vaddr + segment.p_memsz;
    } else if (segment.p_type == PT_DYNAMIC) {
      ++num_dynamic;
      MOEJIT_RETURN_IF_ERROR(check_dynamic(bytes, segment));
    } else if (segment.p_type != PT_GNU_STACK) {
      return bad("segment type " + std::to_string(segment.p_type) + " is not allowed");
    }
  }
  if (num_dynamic != 1 || num_load == 0)
    return bad("needs one dynamic section and a loaded segment");
  return {};
}

Result<std::shared_ptr<const LoadedImage>> LoadedImage::load(const std::vector<uint8_t>& bytes,
                                                             const std::string& name, MapVia via) {
  MOEJIT_RETURN_IF_ERROR(check_image(bytes));
  Mapped mapped;
  std::string why;
  if (via != MapVia::kFile) {
    mapped = map_memory(bytes, name);
    why = mapped.why;
  }
  if (mapped.handle == nullptr && via != MapVia::kMemory) {
    mapped = map_file(bytes);
    why += (why.empty() ? "" : "; ") + mapped.why;
  }
  if (mapped.handle == nullptr) {
    return Status(StatusCode::kDeviceError, "the dynamic loader refused a compiled kernel: " + why);
  }
  return std::shared_ptr<const LoadedImage>(new LoadedImage(mapped.handle, mapped.fd));
}

LoadedImage::~LoadedImage() {
  dlclose(handle_);
  if (fd_ >= 0) close(fd_);
}

void* LoadedImage::symbol(const char* name) const {
  return dlsym(handle_, name);
}

}  // namespace moejit::internal
