// Links one relocatable object into a shared object that dlopen accepts, in memory.
//
// A linker of its own because a linker library would bring what this one does without: output
// through files, state that is global to the process (LLVM's option registry is reset on every run,
// under the feet of parallel compiles) and a lock around it. One object of freestanding code needs
// little: no libraries, no merging, no exceptions, no thread-local storage, no constructors.
//
// Layout: R (headers, dynamic symbols, relocations, constants), RX (code, stubs of imports),
// RW (data, addresses, .dynamic, then zeroed data). File offset and address agree modulo a page.
#include <elf.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <string_view>

#include "backends/cpu/module/module.h"
#include "llvm/Demangle/Demangle.h"

namespace moejit_cpu {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint64_t kStubBytes = 16;
constexpr std::string_view kAlwaysImported[] = {"memcpy", "memmove", "memset", "memcmp"};

uint64_t align_up(uint64_t value, uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

struct Refused {
  std::string why;
};

enum Segment { kReadOnly = 0, kCode = 1, kData = 2, kNumSegments = 3 };

class Linker {
 public:
  Linker(const MoejitCpuRequest& request, const std::vector<char>& object)
      : request_(request), object_(object) {}

  std::vector<char> run() {
    read_object();
    check_sections();
    collect_imports();
    collect_got();
    build_dynamic_symbols();
    lay_out();
    relocate();
    write_headers();
    return std::move(image_);
  }

 private:
  struct Placed {
    uint64_t offset = 0;
    uint64_t address = 0;
    bool placed = false;
  };

  template <typename T>
  T object_at(uint64_t offset) const {
    if (offset > object_.size() || object_.size() - offset < sizeof(T)) {
      throw Refused{"the compiler's object is truncated"};
    }
    T value;
    std::memcpy(&value, object_.data() + offset, sizeof value);
    return value;
  }
  template <typename T>
  void put(uint64_t offset, const T& value) {
    std::memcpy(image_.data() + offset, &value, sizeof value);
  }
  const char* name_of(const Elf64_Sym& symbol) const {
    return object_.data() + names_ + symbol.st_name;
  }

  void read_object() {
    const auto header = object_at<Elf64_Ehdr>(0);
    for (unsigned i = 0; i < header.e_shnum; ++i) {
      sections_.push_back(object_at<Elf64_Shdr>(header.e_shoff + i * sizeof(Elf64_Shdr)));
      const Elf64_Shdr& section = sections_.back();
      if (section.sh_type != SHT_NOBITS && (section.sh_offset > object_.size() ||
                                            object_.size() - section.sh_offset < section.sh_size)) {
        throw Refused{"the compiler's object is truncated"};
      }
    }
    if (header.e_shstrndx >= sections_.size())
      throw Refused{"the compiler's object has no sections"};
    for (const Elf64_Shdr& section : sections_) {
      section_names_.push_back(object_.data() + sections_[header.e_shstrndx].sh_offset +
                               section.sh_name);
      if (section.sh_type != SHT_SYMTAB) continue;
      names_ = sections_.at(section.sh_link).sh_offset;
      for (uint64_t at = 0; at + sizeof(Elf64_Sym) <= section.sh_size; at += sizeof(Elf64_Sym)) {
        symbols_.push_back(object_at<Elf64_Sym>(section.sh_offset + at));
      }
    }
    placed_.resize(sections_.size());
  }

  static Segment segment_of(const Elf64_Shdr& section) {
    if ((section.sh_flags & SHF_EXECINSTR) != 0) return kCode;
    return (section.sh_flags & SHF_WRITE) != 0 ? kData : kReadOnly;
  }
  static bool loaded(const Elf64_Shdr& section) {
    return (section.sh_flags & SHF_ALLOC) != 0 && section.sh_type != SHT_X86_64_UNWIND &&
           section.sh_size > 0;
  }

  void check_sections() const {
    for (size_t i = 0; i < sections_.size(); ++i) {
      const Elf64_Shdr& section = sections_[i];
      if (!loaded(section)) continue;
      if (section.sh_type == SHT_INIT_ARRAY || section.sh_type == SHT_FINI_ARRAY) {
        throw Refused{
            "the source has a global object with a constructor or destructor: globals must be "
            "constant-initialised"};
      }
      if ((section.sh_flags & SHF_TLS) != 0) {
        throw Refused{"the source has a thread_local variable: workers keep no state"};
      }
      if (section.sh_addralign > kPage) {
        throw Refused{std::string("section ") + section_names_[i] + " is aligned to " +
                      std::to_string(section.sh_addralign) + " bytes: at most 4096 is possible"};
      }
    }
  }

  bool may_import(std::string_view name) const {
    return std::find(std::begin(kAlwaysImported), std::end(kAlwaysImported), name) !=
               std::end(kAlwaysImported) ||
           std::find(request_.imports, request_.imports + request_.num_imports, name) !=
               request_.imports + request_.num_imports;
  }

  void collect_imports() {
    std::string missing;
    for (size_t i = 1; i < symbols_.size(); ++i) {
      const Elf64_Sym& symbol = symbols_[i];
      const std::string_view name = name_of(symbol);
      if (symbol.st_shndx != SHN_UNDEF || name.empty() || name == "_GLOBAL_OFFSET_TABLE_") continue;
      if (may_import(name)) {
        imports_.push_back(i);
      } else {
        missing += (missing.empty() ? "" : ", ") + llvm::demangle(name);
      }
    }
    if (!missing.empty()) {
      throw Refused{"undefined symbol: " + missing +
                    " (a kernel calls nothing outside its own source)"};
    }
  }

  // Every alloc section's relocations, in file order.
  template <typename Visit>
  void for_each_relocation(Visit visit) const {
    for (const Elf64_Shdr& section : sections_) {
      if (section.sh_type != SHT_RELA || section.sh_info >= sections_.size() ||
          !loaded(sections_[section.sh_info])) {
        continue;
      }
      for (uint64_t at = 0; at + sizeof(Elf64_Rela) <= section.sh_size; at += sizeof(Elf64_Rela)) {
        visit(section.sh_info, object_at<Elf64_Rela>(section.sh_offset + at));
      }
    }
  }

  static bool through_got(uint32_t type) {
    return type == R_X86_64_GOTPCREL || type == R_X86_64_GOTPCRELX ||
           type == R_X86_64_REX_GOTPCRELX;
  }

  void collect_got() {
    for (size_t symbol : imports_) got_.emplace(symbol, got_.size());
    for_each_relocation([&](uint32_t, const Elf64_Rela& rela) {
      const uint32_t type = ELF64_R_TYPE(rela.r_info);
      const size_t symbol = ELF64_R_SYM(rela.r_info);
      if (symbol >= symbols_.size()) throw Refused{"the compiler's object has a bad relocation"};
      if (through_got(type)) got_.emplace(symbol, got_.size());
      if (type == R_X86_64_64) ++num_absolute_;
    });
  }

  void build_dynamic_symbols() {
    dynamic_names_.push_back('\0');
    dynamic_symbols_.push_back(Elf64_Sym{});
    const auto add = [&](Elf64_Sym symbol, const char* name) {
      symbol.st_name = static_cast<Elf64_Word>(dynamic_names_.size());
      symbol.st_other = STV_DEFAULT;
      dynamic_names_.insert(dynamic_names_.end(), name, name + std::strlen(name) + 1);
      dynamic_symbols_.push_back(symbol);
    };
    for (size_t i : imports_) {
      Elf64_Sym symbol{};
      symbol.st_info = ELF64_ST_INFO(STB_GLOBAL, STT_NOTYPE);
      add(symbol, name_of(symbols_[i]));
    }
    for (uint32_t e = 0; e < request_.num_exports; ++e) {
      const std::string_view wanted = request_.exports[e];
      const auto found =
          std::find_if(symbols_.begin(), symbols_.end(), [&](const Elf64_Sym& symbol) {
            return symbol.st_shndx != SHN_UNDEF && symbol.st_shndx < sections_.size() &&
                   ELF64_ST_BIND(symbol.st_info) != STB_LOCAL && wanted == name_of(symbol);
          });
      if (found == symbols_.end()) {
        throw Refused{"the source does not define the entry " + std::string(wanted) +
                      " (as extern \"C\", not static)"};
      }
      exports_.push_back(static_cast<size_t>(found - symbols_.begin()));
      add(*found, request_.exports[e]);
    }
  }

  // Appends `bytes` of room to the image; the address follows from the segment's shift.
  Placed reserve(uint64_t bytes, uint64_t alignment) {
    const uint64_t offset = align_up(image_.size(), std::max<uint64_t>(alignment, 1));
    image_.resize(offset + bytes);
    return {offset, offset + shift_, true};
  }
  void begin_segment(Segment segment) {
    // Next page of addresses, same offset within the page.
    shift_ += kPage;
    image_.resize(align_up(image_.size(), 64));
    segments_[segment].p_offset = image_.size();
  }
  void place_sections(Segment segment, bool zeroed) {
    for (size_t i = 0; i < sections_.size(); ++i) {
      const Elf64_Shdr& section = sections_[i];
      if (!loaded(section) || segment_of(section) != segment ||
          (section.sh_type == SHT_NOBITS) != zeroed) {
        continue;
      }
      placed_[i] = reserve(section.sh_size, section.sh_addralign);
      if (!zeroed) {
        std::memcpy(image_.data() + placed_[i].offset, object_.data() + section.sh_offset,
                    section.sh_size);
      }
    }
  }
  void end_segment(Segment segment, Elf64_Word flags, uint64_t file_end) {
    Elf64_Phdr& header = segments_[segment];
    header.p_type = PT_LOAD;
    header.p_flags = flags;
    header.p_vaddr = header.p_paddr = header.p_offset + shift_;
    header.p_filesz = file_end - header.p_offset;
    header.p_memsz = image_.size() - header.p_offset;
    header.p_align = kPage;
  }

  void lay_out() {
    reserve(sizeof(Elf64_Ehdr) + kNumHeaders * sizeof(Elf64_Phdr), 8);
    symtab_ = reserve(dynamic_symbols_.size() * sizeof(Elf64_Sym), 8);
    strtab_ = reserve(dynamic_names_.size(), 1);
    hash_ = reserve((2 + 1 + dynamic_symbols_.size()) * sizeof(Elf64_Word), 4);
    rela_ = reserve((num_absolute_ + got_.size()) * sizeof(Elf64_Rela), 8);
    place_sections(kReadOnly, false);
    end_segment(kReadOnly, PF_R, image_.size());

    begin_segment(kCode);
    place_sections(kCode, false);
    stubs_ = reserve(imports_.size() * kStubBytes, kStubBytes);
    end_segment(kCode, PF_R | PF_X, image_.size());

    begin_segment(kData);
    place_sections(kData, false);
    got_place_ = reserve(got_.size() * sizeof(uint64_t), 8);
    dynamic_ = reserve(kNumDynamic * sizeof(Elf64_Dyn), 8);
    const uint64_t file_end = image_.size();
    place_sections(kData, true);
    end_segment(kData, PF_R | PF_W, file_end);
    image_.resize(file_end);
  }

  uint64_t address_of(size_t index) const {
    const Elf64_Sym& symbol = symbols_[index];
    if (symbol.st_shndx == SHN_UNDEF) {
      const auto found = std::find(imports_.begin(), imports_.end(), index);
      if (found == imports_.end()) throw Refused{"the compiler's object refers to nothing"};
      return stubs_.address + static_cast<uint64_t>(found - imports_.begin()) * kStubBytes;
    }
    if (symbol.st_shndx == SHN_ABS) return symbol.st_value;
    if (symbol.st_shndx >= sections_.size() || !placed_[symbol.st_shndx].placed) {
      throw Refused{std::string("symbol ") + name_of(symbol) +
                    " is in a section that is not loaded"};
    }
    return placed_[symbol.st_shndx].address + symbol.st_value;
  }
  uint64_t got_address(size_t symbol) const {
    return got_place_.address + got_.at(symbol) * sizeof(uint64_t);
  }

  void add_dynamic_relocation(uint64_t where, uint64_t symbol, uint32_t type, uint64_t addend) {
    Elf64_Rela rela{};
    rela.r_offset = where;
    rela.r_info = ELF64_R_INFO(symbol, type);
    rela.r_addend = static_cast<Elf64_Sxword>(addend);
    put(rela_.offset + num_dynamic_relocations_++ * sizeof rela, rela);
  }
  // 1-based place of an import in the dynamic symbols, 0 for a symbol of this object.
  uint64_t import_index(size_t symbol) const {
    const auto found = std::find(imports_.begin(), imports_.end(), symbol);
    return found == imports_.end() ? 0 : static_cast<uint64_t>(found - imports_.begin()) + 1;
  }
  void put_relative32(uint64_t offset, uint64_t value) {
    const auto distance = static_cast<int64_t>(value);
    if (distance != static_cast<int32_t>(distance))
      throw Refused{"the object is larger than 2 GiB"};
    put(offset, static_cast<int32_t>(distance));
  }

  void relocate() {
    for_each_relocation([&](uint32_t section, const Elf64_Rela& rela) {
      const uint32_t type = ELF64_R_TYPE(rela.r_info);
      const size_t symbol = ELF64_R_SYM(rela.r_info);
      const uint64_t width = type == R_X86_64_64 || type == R_X86_64_PC64 ? 8 : 4;
      if (rela.r_offset > sections_[section].sh_size ||
          sections_[section].sh_size - rela.r_offset < width) {
        throw Refused{"the compiler's object has a bad relocation"};
      }
      const uint64_t offset = placed_[section].offset + rela.r_offset;
      const uint64_t place = placed_[section].address + rela.r_offset;
      const auto addend = static_cast<uint64_t>(rela.r_addend);
      if (through_got(type)) {
        put_relative32(offset, got_address(symbol) + addend - place);
      } else if (type == R_X86_64_PC32 || type == R_X86_64_PLT32) {
        put_relative32(offset, address_of(symbol) + addend - place);
      } else if (type == R_X86_64_PC64) {
        put(offset, address_of(symbol) + addend - place);
      } else if (type == R_X86_64_64 && segment_of(sections_[section]) == kData) {
        const uint64_t import = import_index(symbol);
        if (import != 0) {
          add_dynamic_relocation(place, import, R_X86_64_64, addend);
        } else {
          add_dynamic_relocation(place, 0, R_X86_64_RELATIVE, address_of(symbol) + addend);
        }
      } else {
        throw Refused{"relocation type " + std::to_string(type) + " in " + section_names_[section] +
                      " is not position-independent"};
      }
    });
    for (const auto& [symbol, slot] : got_) {
      const uint64_t import = import_index(symbol);
      const uint64_t where = got_place_.address + slot * sizeof(uint64_t);
      if (import != 0) {
        add_dynamic_relocation(where, import, R_X86_64_GLOB_DAT, 0);
      } else {
        add_dynamic_relocation(where, 0, R_X86_64_RELATIVE, address_of(symbol));
      }
    }
    for (size_t i = 0; i < imports_.size(); ++i) {  // jmp *got(%rip)
      const uint64_t at = stubs_.offset + i * kStubBytes;
      const char jump[kStubBytes] = {'\xff', '\x25', 0, 0, 0, 0, '\xcc', '\xcc', '\xcc', '\xcc'};
      put(at, jump);
      put_relative32(at + 2, got_address(imports_[i]) - (stubs_.address + i * kStubBytes + 6));
    }
  }

  void write_headers() {
    for (size_t i = 0; i < exports_.size(); ++i) {
      Elf64_Sym& symbol = dynamic_symbols_[1 + imports_.size() + i];
      symbol.st_value = address_of(exports_[i]);
      symbol.st_shndx = 1;  // any defined section: there is no section table
    }
    std::memcpy(image_.data() + symtab_.offset, dynamic_symbols_.data(),
                dynamic_symbols_.size() * sizeof(Elf64_Sym));
    std::memcpy(image_.data() + strtab_.offset, dynamic_names_.data(), dynamic_names_.size());

    // One chain through all symbols: there is a handful.
    const auto count = static_cast<Elf64_Word>(dynamic_symbols_.size());
    std::vector<Elf64_Word> hash = {1, count, count > 1 ? 1u : 0u};
    for (Elf64_Word i = 0; i < count; ++i) hash.push_back(i == 0 || i + 1 == count ? 0 : i + 1);
    std::memcpy(image_.data() + hash_.offset, hash.data(), hash.size() * sizeof(Elf64_Word));

    const uint64_t relocations = num_dynamic_relocations_ * sizeof(Elf64_Rela);
    const std::pair<Elf64_Sxword, uint64_t> entries[kNumDynamic] = {
        {DT_HASH, hash_.address},
        {DT_SYMTAB, symtab_.address},
        {DT_STRTAB, strtab_.address},
        {DT_STRSZ, dynamic_names_.size()},
        {DT_SYMENT, sizeof(Elf64_Sym)},
        {DT_RELA, rela_.address},
        {DT_RELASZ, relocations},
        {DT_RELAENT, sizeof(Elf64_Rela)},
        {DT_FLAGS, DF_BIND_NOW},
        {DT_FLAGS_1, DF_1_NOW},
        {DT_NULL, 0}};
    for (size_t i = 0; i < kNumDynamic; ++i) {
      Elf64_Dyn entry{};
      entry.d_tag = entries[i].first;
      entry.d_un.d_val = entries[i].second;
      put(dynamic_.offset + i * sizeof entry, entry);
    }

    Elf64_Ehdr header{};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_DYN;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_phoff = sizeof header;
    header.e_ehsize = sizeof header;
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phnum = kNumHeaders;
    header.e_shentsize = sizeof(Elf64_Shdr);
    put(0, header);

    Elf64_Phdr dynamic{};
    dynamic.p_type = PT_DYNAMIC;
    dynamic.p_flags = PF_R | PF_W;
    dynamic.p_offset = dynamic_.offset;
    dynamic.p_vaddr = dynamic.p_paddr = dynamic_.address;
    dynamic.p_filesz = dynamic.p_memsz = kNumDynamic * sizeof(Elf64_Dyn);
    dynamic.p_align = 8;
    Elf64_Phdr stack{};  // without it the loader makes every thread's stack executable
    stack.p_type = PT_GNU_STACK;
    stack.p_flags = PF_R | PF_W;
    stack.p_align = 16;
    const Elf64_Phdr headers[kNumHeaders] = {segments_[0], segments_[1], segments_[2], dynamic,
                                             stack};
    put(sizeof header, headers);
  }

  static constexpr size_t kNumHeaders = kNumSegments + 2;
  static constexpr size_t kNumDynamic = 11;

  const MoejitCpuRequest& request_;
  const std::vector<char>& object_;
  std::vector<Elf64_Shdr> sections_;
  std::vector<const char*> section_names_;
  std::vector<Elf64_Sym> symbols_;
  uint64_t names_ = 0;
  std::vector<size_t> imports_;  // indices into symbols_
  std::vector<size_t> exports_;
  std::map<size_t, size_t> got_;  // symbol to slot; imports have the first slots
  size_t num_absolute_ = 0;
  size_t num_dynamic_relocations_ = 0;
  std::vector<Elf64_Sym> dynamic_symbols_;
  std::vector<char> dynamic_names_;
  std::vector<char> image_;
  std::vector<Placed> placed_;
  uint64_t shift_ = 0;  // address - offset in the current segment
  Elf64_Phdr segments_[kNumSegments] = {};
  Placed symtab_, strtab_, hash_, rela_, stubs_, got_place_, dynamic_;
};

}  // namespace

void link(const MoejitCpuRequest& request, const std::vector<char>& object, Output& out) {
  const auto start = std::chrono::steady_clock::now();
  try {
    out.bytes = Linker(request, object).run();
  } catch (const Refused& refused) {
    out.fail(MOEJIT_CPU_REFUSED, refused.why);
  }
  out.link_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace moejit_cpu
