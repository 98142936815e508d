// Links one relocatable AMD GPU object into the code object that ROCm loads, in memory.
//
// A linker of its own for the reasons that link.cpp gives. Kernels are one .text that refers to
// nothing outside; what remains is to place the sections, to let each kernel descriptor find its
// code, and to list the symbols: in .dynsym, where HIP finds the names of kernels, and in .symtab,
// where ROCm's loader finds the kernel descriptors. Segments lie as lld places them: read-only
// data, code, dynamic section, each on pages of its own.
#include <elf.h>

#include <chrono>
#include <cstring>
#include <map>

#include "backends/cpu/module/module.h"

namespace moejit_cpu {
namespace {

constexpr uint16_t kMachineAmdgpu = 224;
constexpr uint64_t kPage = 0x1000;
// Relocation types of the AMDGPU ABI.
constexpr uint32_t kRel32 = 4, kRel64 = 5, kRel32Lo = 10, kRel32Hi = 11;

struct Refusal {
  std::string why;
};

template <typename T>
T read(const std::vector<char>& bytes, uint64_t at) {
  if (at > bytes.size() || bytes.size() - at < sizeof(T)) throw Refusal{"the object is cut short"};
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

class Image {
 public:
  std::vector<char> bytes;

  uint64_t align(uint64_t to) {
    bytes.resize((bytes.size() + to - 1) / to * to);
    return bytes.size();
  }
  template <typename T>
  void add(const T& value) {
    const auto* from = reinterpret_cast<const char*>(&value);
    bytes.insert(bytes.end(), from, from + sizeof value);
  }
  void add(const std::string& text) {
    bytes.insert(bytes.end(), text.c_str(), text.c_str() + text.size() + 1);
  }
  template <typename T>
  void put(uint64_t at, const T& value) {
    if (at > bytes.size() || bytes.size() - at < sizeof value)
      throw Refusal{"a relocation outside its section"};
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
};

uint32_t sysv_hash(const std::string& name) {
  uint32_t h = 0;
  for (const char c : name) {
    h = (h << 4) + static_cast<unsigned char>(c);
    const uint32_t high = h & 0xf0000000u;
    h = (h ^ (high >> 24)) & ~high;
  }
  return h;
}

class Linker {
 public:
  explicit Linker(const std::vector<char>& object) : object_(object) {
    header_ = read<Elf64_Ehdr>(object_, 0);
    if (std::memcmp(header_.e_ident, ELFMAG, SELFMAG) != 0 || header_.e_machine != kMachineAmdgpu ||
        header_.e_type != ET_REL) {
      throw Refusal{"the compiler made no AMD GPU object"};
    }
    for (uint16_t i = 0; i < header_.e_shnum; ++i) {
      sections_.push_back(
          read<Elf64_Shdr>(object_, header_.e_shoff + uint64_t{i} * sizeof(Elf64_Shdr)));
    }
  }

  std::vector<char> link() {
    read_symbols();
    constexpr uint16_t kHeaders = 7;
    image_.bytes.assign(sizeof(Elf64_Ehdr) + kHeaders * sizeof(Elf64_Phdr), 0);
    const uint64_t note = image_.align(4);
    place([](const Elf64_Shdr& s) { return s.sh_type == SHT_NOTE; }, 0);
    const uint64_t note_end = image_.bytes.size();
    collect_exports();
    const uint64_t dynsym = image_.align(8);
    image_.bytes.resize(dynsym + (exports_.size() + 1) * sizeof(Elf64_Sym));
    const uint64_t hash = image_.align(4);
    add_hash();
    const uint64_t dynstr = image_.bytes.size();
    for (const std::string& name : names_) image_.add(name);
    const uint64_t dynstr_size = image_.bytes.size() - dynstr;
    place(
        [](const Elf64_Shdr& s) {
          return s.sh_type == SHT_PROGBITS && !(s.sh_flags & SHF_EXECINSTR);
        },
        0);
    const uint64_t read_only_end = image_.bytes.size();
    const uint64_t text = image_.align(256);
    place([](const Elf64_Shdr& s) { return (s.sh_flags & SHF_EXECINSTR) != 0; }, kPage);
    const uint64_t text_end = image_.bytes.size();
    const uint64_t dynamic = image_.align(256);
    for (const auto& [tag, value] : {std::pair<int64_t, uint64_t>{DT_SYMTAB, dynsym},
                                     {DT_SYMENT, sizeof(Elf64_Sym)},
                                     {DT_STRTAB, dynstr},
                                     {DT_STRSZ, dynstr_size},
                                     {DT_HASH, hash},
                                     {DT_NULL, 0}}) {
      Elf64_Dyn entry{};
      entry.d_tag = tag;
      entry.d_un.d_val = value;
      image_.add(entry);
    }
    const uint64_t dynamic_size = image_.bytes.size() - dynamic;
    for (size_t i = 0; i < exports_.size(); ++i) {
      Elf64_Sym& symbol = exports_[i];
      symbol.st_value += address_.at(symbol.st_shndx);
      symbol.st_shndx = number_of(symbol.st_shndx);
      image_.put(dynsym + (i + 1) * sizeof symbol, symbol);
    }
    relocate();
    // The same symbols and names again, as in every linked file that is not stripped.
    const uint64_t symtab = image_.align(8);
    image_.add(Elf64_Sym{});
    for (const Elf64_Sym& symbol : exports_) image_.add(symbol);
    const uint64_t strtab = image_.bytes.size();
    for (const std::string& name : names_) image_.add(name);
    const uint64_t strtab_end = image_.bytes.size();

    const auto segment = [&](uint16_t i, uint32_t type, uint32_t flags, uint64_t from, uint64_t to,
                             uint64_t shift, uint64_t alignment) {
      const Elf64_Phdr s = {type,         flags,     from,      from + shift,
                            from + shift, to - from, to - from, alignment};
      image_.put(sizeof(Elf64_Ehdr) + i * sizeof s, s);
    };
    const uint64_t table = sizeof(Elf64_Ehdr);
    segment(0, PT_PHDR, PF_R, table, table + kHeaders * sizeof(Elf64_Phdr), 0, 8);
    segment(1, PT_LOAD, PF_R, 0, read_only_end, 0, kPage);
    segment(2, PT_LOAD, PF_R | PF_X, text, text_end, kPage, kPage);
    segment(3, PT_LOAD, PF_R | PF_W, dynamic, dynamic + dynamic_size, 2 * kPage, kPage);
    segment(4, PT_DYNAMIC, PF_R | PF_W, dynamic, dynamic + dynamic_size, 2 * kPage, 8);
    segment(5, PT_GNU_STACK, PF_R | PF_W, 0, 0, 0, 0);
    segment(6, PT_NOTE, PF_R, note, note_end, 0, 4);

    // Section headers: tools and the loader's symbol look-up read them.
    std::string section_names(1, '\0');
    for (const char* name : {".note", ".dynsym", ".hash", ".dynstr", ".rodata", ".text", ".dynamic",
                             ".symtab", ".strtab", ".shstrtab"}) {
      (section_names += name) += '\0';
    }
    const auto name_at = [&](const char* name) {
      return static_cast<uint32_t>(section_names.find(std::string("\0", 1) + name + '\0') + 1);
    };
    const uint64_t strings = image_.bytes.size();
    image_.bytes.insert(image_.bytes.end(), section_names.begin(), section_names.end());
    const uint64_t headers = image_.align(8);
    image_.add(Elf64_Shdr{});
    const auto section = [&](const char* name, uint32_t type, uint64_t flags, uint64_t shift,
                             uint64_t from, uint64_t to, uint32_t link, uint32_t info,
                             uint64_t alignment, uint64_t entry) {
      image_.add(Elf64_Shdr{name_at(name), type, flags, flags != 0 ? from + shift : 0, from,
                            to - from, link, info, alignment, entry});
    };
    section(".note", SHT_NOTE, SHF_ALLOC, 0, note, note_end, 0, 0, 4, 0);
    section(".dynsym", SHT_DYNSYM, SHF_ALLOC, 0, dynsym,
            dynsym + (exports_.size() + 1) * sizeof(Elf64_Sym), 4, 1, 8, sizeof(Elf64_Sym));
    section(".hash", SHT_HASH, SHF_ALLOC, 0, hash, dynstr, 2, 0, 4, 4);
    section(".dynstr", SHT_STRTAB, SHF_ALLOC, 0, dynstr, dynstr + dynstr_size, 0, 0, 1, 0);
    section(".rodata", SHT_PROGBITS, SHF_ALLOC, 0, dynstr + dynstr_size, read_only_end, 0, 0, 1, 0);
    section(".text", SHT_PROGBITS, SHF_ALLOC | SHF_EXECINSTR, kPage, text, text_end, 0, 0, 256, 0);
    section(".dynamic", SHT_DYNAMIC, SHF_ALLOC | SHF_WRITE, 2 * kPage, dynamic,
            dynamic + dynamic_size, 4, 0, 8, sizeof(Elf64_Dyn));
    section(".symtab", SHT_SYMTAB, 0, 0, symtab, strtab, 9, 1, 8, sizeof(Elf64_Sym));
    section(".strtab", SHT_STRTAB, 0, 0, strtab, strtab_end, 0, 0, 1, 0);
    section(".shstrtab", SHT_STRTAB, 0, 0, strings, strings + section_names.size(), 0, 0, 1, 0);

    Elf64_Ehdr header = header_;
    header.e_type = ET_DYN;
    header.e_phoff = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = kHeaders;
    header.e_shoff = headers;
    header.e_shentsize = sizeof(Elf64_Shdr);
    header.e_shnum = 11;
    header.e_shstrndx = 10;
    image_.put(0, header);
    return std::move(image_.bytes);
  }

 private:
  std::string name_of(uint64_t table, uint32_t at) const {
    std::string name;
    for (uint64_t i = table + at;; ++i) {
      const char c = read<char>(object_, i);
      if (c == '\0') return name;
      name += c;
    }
  }

  void read_symbols() {
    for (const Elf64_Shdr& s : sections_) {
      if (s.sh_type != SHT_SYMTAB) continue;
      for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= s.sh_size; at += sizeof(Elf64_Sym)) {
        symbols_.push_back(read<Elf64_Sym>(object_, s.sh_offset + at));
      }
      strings_ = sections_.at(s.sh_link).sh_offset;
    }
  }

  // Appends the object's allocated sections that `wanted` names.
  template <typename Wanted>
  void place(Wanted wanted, uint64_t shift) {
    for (size_t i = 0; i < sections_.size(); ++i) {
      const Elf64_Shdr& s = sections_[i];
      if ((s.sh_flags & SHF_ALLOC) == 0 || !wanted(s) || s.sh_size == 0) continue;
      if ((s.sh_flags & SHF_WRITE) != 0) throw Refusal{"kernels may have no global variables"};
      if (s.sh_offset > object_.size() || object_.size() - s.sh_offset < s.sh_size)
        throw Refusal{"the object is cut short"};
      const uint64_t at = image_.align(s.sh_addralign > 1 ? s.sh_addralign : 1);
      const auto* from = object_.data() + s.sh_offset;
      image_.bytes.insert(image_.bytes.end(), from, from + s.sh_size);
      address_[static_cast<uint16_t>(i)] = at + shift;
      offset_[static_cast<uint16_t>(i)] = at;
    }
  }

  // Global symbols of code and descriptors; the compiler's mark of the translation unit, alone in
  // .bss, is left behind.
  void collect_exports() {
    names_ = {""};
    uint32_t at = 1;
    for (Elf64_Sym symbol : symbols_) {
      if (ELF64_ST_BIND(symbol.st_info) == STB_LOCAL) continue;
      const std::string name = name_of(strings_, symbol.st_name);
      if (symbol.st_shndx == SHN_UNDEF) throw Refusal{"undefined symbol " + name};
      if (ELF64_ST_VISIBILITY(symbol.st_other) == STV_HIDDEN || name == "__hip_cuid_") continue;
      if (symbol.st_shndx >= sections_.size() || sections_[symbol.st_shndx].sh_type != SHT_PROGBITS)
        throw Refusal{"symbol " + name + ": kernels may have no global variables"};
      symbol.st_name = at;
      at += static_cast<uint32_t>(name.size()) + 1;
      exports_.push_back(symbol);
      names_.push_back(name);
    }
  }

  void add_hash() {
    const auto count = static_cast<uint32_t>(exports_.size() + 1);
    std::vector<uint32_t> buckets(count), chains(count);
    for (uint32_t i = 1; i < count; ++i) {
      uint32_t& bucket = buckets[sysv_hash(names_[i]) % count];
      chains[i] = bucket;
      bucket = i;
    }
    image_.add(count);
    image_.add(count);
    for (const uint32_t b : buckets) image_.add(b);
    for (const uint32_t c : chains) image_.add(c);
  }

  void relocate() {
    for (const Elf64_Shdr& s : sections_) {
      if (s.sh_type != SHT_RELA) continue;
      const auto target = static_cast<uint16_t>(s.sh_info);
      if (!address_.contains(target)) continue;
      for (uint64_t at = 0; at + sizeof(Elf64_Rela) <= s.sh_size; at += sizeof(Elf64_Rela)) {
        const auto r = read<Elf64_Rela>(object_, s.sh_offset + at);
        const Elf64_Sym& symbol = symbols_.at(ELF64_R_SYM(r.r_info));
        if (!address_.contains(symbol.st_shndx))
          throw Refusal{"a relocation to " + name_of(strings_, symbol.st_name)};
        const uint64_t value = address_[symbol.st_shndx] + symbol.st_value +
                               static_cast<uint64_t>(r.r_addend) - (address_[target] + r.r_offset);
        const uint64_t where = offset_[target] + r.r_offset;
        switch (ELF64_R_TYPE(r.r_info)) {
          case kRel64:
            image_.put(where, value);
            break;
          case kRel32:
          case kRel32Lo:
            image_.put(where, static_cast<uint32_t>(value));
            break;
          case kRel32Hi:
            image_.put(where, static_cast<uint32_t>(value >> 32));
            break;
          default:
            throw Refusal{"relocation type " + std::to_string(ELF64_R_TYPE(r.r_info))};
        }
      }
    }
  }

  // Of the output's section table.
  uint16_t number_of(uint16_t section) const {
    return (sections_[section].sh_flags & SHF_EXECINSTR) != 0 ? 6 : 5;
  }

  const std::vector<char>& object_;
  Elf64_Ehdr header_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<Elf64_Sym> symbols_, exports_;
  std::vector<std::string> names_;
  uint64_t strings_ = 0;
  std::map<uint16_t, uint64_t> address_, offset_;
  Image image_;
};

}  // namespace

void link_amdgpu(const MoejitCpuRequest& request, const std::vector<char>& object, Output& out) {
  const auto start = std::chrono::steady_clock::now();
  try {
    out.bytes = Linker(object).link();
  } catch (const Refusal& refusal) {
    return out.fail(MOEJIT_CPU_REFUSED,
                    "linking for " + std::string(request.arch) + ": " + refusal.why);
  }
  out.link_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace moejit_cpu
