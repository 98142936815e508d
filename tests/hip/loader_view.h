// A code object as ROCm's loader sees it: kernels are the objects NAME.kd of the section of type
// SHT_SYMTAB (not of .dynsym), and each descriptor says where its code begins. HIP wants .strtab by
// its name.
#pragma once

#include <elf.h>

#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

namespace moejit::internal {

class LoaderView {
 public:
  explicit LoaderView(const std::vector<uint8_t>& bytes) : bytes_(bytes) {
    const auto header = at<Elf64_Ehdr>(0);
    const auto section = [&](uint64_t i) {
      return at<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr));
    };
    for (uint16_t i = 0; i < header.e_phnum; ++i)
      segments_.push_back(at<Elf64_Phdr>(header.e_phoff + uint64_t{i} * sizeof(Elf64_Phdr)));
    for (uint16_t i = 0; i < header.e_shnum; ++i) {
      const Elf64_Shdr table = section(i);
      if (table.sh_type != SHT_SYMTAB) continue;
      const Elf64_Shdr names = section(table.sh_link);
      if (text_at(section(header.e_shstrndx).sh_offset + names.sh_name) != ".strtab") continue;
      for (uint64_t s = 0; s + sizeof(Elf64_Sym) <= table.sh_size; s += sizeof(Elf64_Sym)) {
        const auto symbol = at<Elf64_Sym>(table.sh_offset + s);
        if (ELF64_ST_TYPE(symbol.st_info) != STT_OBJECT || symbol.st_shndx == SHN_UNDEF) continue;
        const std::string name = text_at(names.sh_offset + symbol.st_name);
        if (name.size() <= 3 || name.substr(name.size() - 3) != ".kd") continue;
        if (symbol.st_size == 64 && starts_code(symbol.st_value))
          kernels_.insert(name.substr(0, name.size() - 3));
      }
    }
  }
  // With a descriptor of 64 aligned bytes whose code begins where it may.
  const std::set<std::string>& kernels() const { return kernels_; }

 private:
  template <typename T>
  T at(uint64_t offset) const {
    T value;
    std::memcpy(&value, &bytes_.at(offset), sizeof value);
    static_cast<void>(bytes_.at(offset + sizeof value - 1));
    return value;
  }
  std::string text_at(uint64_t offset) const {
    return reinterpret_cast<const char*>(&bytes_.at(offset));
  }
  bool starts_code(uint64_t descriptor) const {
    if (descriptor % 64 != 0) return false;
    for (const Elf64_Phdr& s : segments_) {
      if (s.p_type != PT_LOAD || descriptor < s.p_vaddr || descriptor - s.p_vaddr >= s.p_filesz)
        continue;
      const uint64_t code =
          descriptor + at<uint64_t>(s.p_offset + (descriptor - s.p_vaddr) + 16);  // signed
      for (const Elf64_Phdr& x : segments_) {
        if (x.p_type == PT_LOAD && (x.p_flags & PF_X) != 0 && code >= x.p_vaddr &&
            code - x.p_vaddr < x.p_filesz)
          return code % 256 == 0;
      }
    }
    return false;
  }

  const std::vector<uint8_t>& bytes_;
  std::vector<Elf64_Phdr> segments_;
  std::set<std::string> kernels_;
};

}  // namespace moejit::internal
