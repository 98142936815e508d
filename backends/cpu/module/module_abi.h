// The C interface of libmoejit_cpu.so. Nothing but these plain types crosses it: the module may be
// built by another compiler than the core, and no exception leaves it.
#pragma once

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// Raised with every change of a type below; core and module of different versions refuse each
// other.
#define MOEJIT_CPU_MODULE_ABI 1

enum MoejitCpuCode {
  MOEJIT_CPU_OK = 0,
  MOEJIT_CPU_INVALID = 1,   // the request breaks a rule: unknown arch, refused option
  MOEJIT_CPU_REFUSED = 2,   // the compiler or the linker refused the source
  MOEJIT_CPU_CRASHED = 3,   // the compiler crashed; the process goes on
  MOEJIT_CPU_INTERNAL = 4,  // out of memory and the like
};

enum MoejitCpuOutput {
  MOEJIT_CPU_SHARED_OBJECT = 0,  // ELF ET_DYN, no DT_NEEDED, only `exports` visible
  MOEJIT_CPU_ASSEMBLY = 1,       // text
};

struct MoejitCpuRequest {
  const char* name;  // file name for messages
  const char* text;  // source, needs no terminator
  uint64_t text_size;
  const char* arch;            // "x86-64-v3", "x86-64-v4", "x86-64-v4+bf16"
  const char* const* options;  // cc1 options after the module's own
  uint32_t num_options;
  const char* const* exports;  // extern "C" functions that the object must define
  uint32_t num_exports;
  const char* const* imports;  // symbols that may stay undefined beside memcpy, memmove,
  uint32_t num_imports;        // memset and memcmp
  uint32_t output;             // MoejitCpuOutput
};

// Every pointer is owned by the module: hand the result to release() once.
struct MoejitCpuResult {
  int32_t code;  // MoejitCpuCode
  const uint8_t* bytes;
  uint64_t size;
  const char* message;  // one sentence, where code is not 0
  const char* log;      // what the compiler and linker printed, maybe ""
  double compile_ms;
  double link_ms;
  void* owner;
};

struct MoejitCpuModule {
  uint32_t abi;
  // Compiler name and version, and the build ids of this module and of the compiler's libraries.
  // Valid for the life of the process.
  const char* (*identity)(void);
  // Thread-safe; several compiles run in parallel. Fills `result` whatever happens.
  void (*compile)(const struct MoejitCpuRequest* request, struct MoejitCpuResult* result);
  void (*release)(struct MoejitCpuResult* result);
};

// The only exported symbol. Null where the module does not speak `abi`.
typedef const struct MoejitCpuModule* (*MoejitCpuModuleEntry)(uint32_t abi);
#define MOEJIT_CPU_MODULE_ENTRY "moejit_cpu_module"

#ifdef __cplusplus
}
#endif
