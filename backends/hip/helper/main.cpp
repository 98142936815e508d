// moejit_hiprtc: compiles one program with hiprtc and ends. Links nothing of moejit.
//   moejit_hiprtc identify LIBRARY...       the first that opens: its path, then the build ids of
//   it
//                                           and of libamd_comgr
//   moejit_hiprtc compile LIBRARY NAME OPTION...   source on standard input; a head, the log and
//                                           the code object on standard output
#include <dlfcn.h>
#include <elf.h>
#include <limits.h>
#include <link.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace {

struct Search {
  const char* name;  // a part of the file name
  std::string build_id;
};

int visit(dl_phdr_info* info, size_t, void* data) {
  auto* search = static_cast<Search*>(data);
  if (info->dlpi_name == nullptr || std::strstr(info->dlpi_name, search->name) == nullptr) return 0;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_NOTE) continue;
    const auto* note = reinterpret_cast<const char*>(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
    const auto* end = note + info->dlpi_phdr[i].p_memsz;
    while (end - note >= static_cast<ptrdiff_t>(sizeof(ElfW(Nhdr)))) {
      ElfW(Nhdr) head;
      std::memcpy(&head, note, sizeof head);
      const char* name = note + sizeof head;
      const char* value = name + ((head.n_namesz + 3) & ~3u);
      if (value + head.n_descsz > end) break;
      if (head.n_type == NT_GNU_BUILD_ID && head.n_namesz == 4 &&
          std::memcmp(name, "GNU", 4) == 0) {
        for (unsigned k = 0; k < head.n_descsz && k < 8; ++k) {
          char two[3];
          std::snprintf(two, sizeof two, "%02x", static_cast<unsigned char>(value[k]));
          search->build_id += two;
        }
        return 1;
      }
      note = value + ((head.n_descsz + 3) & ~3u);
    }
  }
  return 0;
}

std::string build_id(const char* name) {
  Search search{name, {}};
  dl_iterate_phdr(visit, &search);
  return search.build_id.empty() ? "none" : search.build_id;
}

struct Rtc {
  using Program = void*;
  int (*create)(Program*, const char*, const char*, int, const char**, const char**);
  int (*compile)(Program, int, const char**);
  int (*log_size)(Program, size_t*);
  int (*log)(Program, char*);
  int (*code_size)(Program, size_t*);
  int (*code)(Program, char*);
};

template <typename Function>
bool find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

bool load(void* library, Rtc* rtc) {
  return find(library, "hiprtcCreateProgram", rtc->create) &&
         find(library, "hiprtcCompileProgram", rtc->compile) &&
         find(library, "hiprtcGetProgramLogSize", rtc->log_size) &&
         find(library, "hiprtcGetProgramLog", rtc->log) &&
         find(library, "hiprtcGetCodeSize", rtc->code_size) &&
         find(library, "hiprtcGetCode", rtc->code);
}

int identify(int count, char** libraries) {
  for (int i = 0; i < count; ++i) {
    void* library = dlopen(libraries[i], RTLD_NOW | RTLD_GLOBAL);
    Rtc rtc{};
    if (library == nullptr || !load(library, &rtc)) continue;
    Dl_info info{};
    dladdr(reinterpret_cast<void*>(rtc.compile), &info);
    char real[PATH_MAX];
    const char* path = info.dli_fname != nullptr ? realpath(info.dli_fname, real) : nullptr;
    // The compiler proper, which hiprtc opens when it is needed: beside it, or where the loader
    // finds it.
    const std::string file = path != nullptr ? path : "";
    const std::string folder = file.substr(0, file.rfind('/') + 1);
    bool found = false;
    for (const std::string& place : {folder, std::string()}) {
      for (const char* name : {"libamd_comgr.so.3", "libamd_comgr.so.2", "libamd_comgr.so"}) {
        found = found || dlopen((place + name).c_str(), RTLD_NOW | RTLD_GLOBAL) != nullptr;
      }
    }
    // The loader's list has the name that was opened, links and all.
    const std::string opened = info.dli_fname != nullptr ? info.dli_fname : libraries[i];
    const std::string base = opened.substr(opened.rfind('/') + 1);
    std::printf("%s\n%s comgr %s\n", path != nullptr ? path : opened.c_str(),
                build_id(base.c_str()).c_str(), build_id("libamd_comgr").c_str());
    return 0;
  }
  std::fprintf(stderr, "none of %d candidate libraries has hiprtc", count);
  return 1;
}

bool write_all(int fd, const void* data, size_t size) {
  const auto* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = write(fd, at, size);
    if (n <= 0) return false;
    at += n;
    size -= static_cast<size_t>(n);
  }
  return true;
}

int compile(const char* path, const char* name, int count, const char** options) {
  // What libraries print must not mix with the answer.
  const int answer = dup(1);
  dup2(2, 1);
  std::string source;
  char buffer[1 << 16];
  for (ssize_t n; (n = read(0, buffer, sizeof buffer)) > 0;) {
    source.append(buffer, static_cast<size_t>(n));
  }
  void* library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  Rtc rtc{};
  if (library == nullptr || !load(library, &rtc)) {
    std::fprintf(stderr, "%s: %s\n", path, library == nullptr ? dlerror() : "has no hiprtc");
    return 3;
  }
  Rtc::Program program = nullptr;
  if (rtc.create(&program, source.c_str(), name, 0, nullptr, nullptr) != 0) return 4;
  const bool refused = rtc.compile(program, count, options) != 0;
  std::vector<char> log, code;
  size_t size = 0;
  if (rtc.log_size(program, &size) == 0 && size > 1) {
    log.resize(size);
    rtc.log(program, log.data());
    while (!log.empty() && log.back() == '\0') log.pop_back();
  }
  if (!refused && rtc.code_size(program, &size) == 0) {
    code.resize(size);
    rtc.code(program, code.data());
  }
  const uint32_t status = refused || code.empty() ? 1 : 0;
  const uint64_t sizes[2] = {log.size(), code.size()};
  const bool written = write_all(answer, "MOEJ", 4) && write_all(answer, &status, 4) &&
                       write_all(answer, sizes, sizeof sizes) &&
                       write_all(answer, log.data(), log.size()) &&
                       write_all(answer, code.data(), code.size());
  _exit(written ? 0 : 5);  // without the libraries' own ends, which have been seen to hang
}

}  // namespace

int main(int argc, char** argv) {
  // comgr's own cache would answer instead of the compiler, and grows without a bound of ours.
  setenv("AMD_COMGR_CACHE", "0", 1);
  if (argc >= 3 && std::strcmp(argv[1], "identify") == 0) return identify(argc - 2, argv + 2);
  if (argc >= 4 && std::strcmp(argv[1], "compile") == 0) {
    return compile(argv[2], argv[3], argc - 4, const_cast<const char**>(argv + 4));
  }
  std::fprintf(stderr, "moejit_hiprtc is a part of moejit that its HIP backend starts\n");
  return 2;
}
