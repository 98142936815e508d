// Who compiles: part of the key of every cached binary, so it names each library by its build id.
#include <elf.h>
#include <link.h>

#include <cstring>
#include <string>

#include "backends/cpu/module/module.h"
#include "clang/Basic/Version.h"
#include "clang/CodeGen/CodeGenAction.h"
#include "llvm/Support/raw_ostream.h"

namespace moejit_cpu {
namespace {

struct Search {
  const void* inside;  // an address in the library that is looked for
  std::string build_id;
};

std::string read_build_id(const char* note, size_t size) {
  static const char kDigits[] = "0123456789abcdef";
  size_t at = 0;
  while (size - at >= sizeof(ElfW(Nhdr))) {
    ElfW(Nhdr) header;
    std::memcpy(&header, note + at, sizeof header);
    at += sizeof header;
    const size_t name_size = (size_t{header.n_namesz} + 3) & ~size_t{3};
    const size_t value_size = (size_t{header.n_descsz} + 3) & ~size_t{3};
    if (name_size > size - at || value_size > size - at - name_size) break;
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
        std::memcmp(note + at, "GNU", 4) == 0) {
      std::string id;
      for (size_t i = 0; i < header.n_descsz; ++i) {
        const auto byte = static_cast<unsigned char>(note[at + name_size + i]);
        id += kDigits[byte >> 4];
        id += kDigits[byte & 15];
      }
      return id;
    }
    at += name_size + value_size;
  }
  return {};
}

int visit(dl_phdr_info* info, size_t, void* data) {
  auto* search = static_cast<Search*>(data);
  const auto target = reinterpret_cast<ElfW(Addr)>(search->inside);
  bool holds = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    const ElfW(Addr) start = info->dlpi_addr + header.p_vaddr;
    holds |= header.p_type == PT_LOAD && target >= start && target - start < header.p_memsz;
  }
  if (!holds) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    search->build_id = read_build_id(
        reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr), header.p_memsz);
    if (!search->build_id.empty()) break;
  }
  return 1;
}

std::string build_id(const void* inside) {
  Search search{inside, {}};
  dl_iterate_phdr(visit, &search);
  return search.build_id.empty() ? "none" : search.build_id.substr(0, 16);
}

// An object's vtable lies in the library that defines its class.
template <typename T>
const void* vtable_of(const T& object) {
  const void* table;
  std::memcpy(&table, &object, sizeof table);
  return table;
}

}  // namespace

std::string make_identity() {
  static const char kHere = 0;
  const clang::EmitObjAction action;
  return clang::getClangFullVersion() + " clang-cpp:" + build_id(vtable_of(action)) +
         " llvm:" + build_id(vtable_of(llvm::errs())) + " module:" + build_id(&kHere);
}

}  // namespace moejit_cpu
