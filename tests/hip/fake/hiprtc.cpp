// A hiprtc that knows gfx90a, dies of gfx942 as old versions do, hangs on no arch, and refuses text
// with #error in it.
#include <cstdlib>
#include <cstring>
#include <string>

namespace {
std::string g_source;
bool g_refused = false;
}  // namespace

extern "C" {
int hiprtcCreateProgram(void** program, const char* source, const char*, int, const char**,
                        const char**) {
  g_source = source;
  *program = &g_source;
  return 0;
}
int hiprtcCompileProgram(void*, int count, const char** options) {
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(options[i], "--offload-arch=gfx942") == 0) std::abort();
  }
  g_refused = g_source.find("#error") != std::string::npos;
  return g_refused ? 6 : 0;
}
int hiprtcGetProgramLogSize(void*, size_t* size) {
  *size = 16;
  return 0;
}
int hiprtcGetProgramLog(void*, char* log) {
  std::memcpy(log, "line 1: a log\n", 15);
  log[15] = '\0';
  return 0;
}
int hiprtcGetCodeSize(void*, size_t* size) {
  *size = g_source.size();
  return 0;
}
int hiprtcGetCode(void*, char* code) {
  std::memcpy(code, g_source.data(), g_source.size());
  return 0;
}
}  // extern "C"
