// Clang in process: one CompilerInstance per compile, source and output in memory, no driver, no
// resource directory, no header search.
#include <algorithm>
#include <array>
#include <chrono>
#include <iterator>
#include <mutex>
#include <string_view>

#include "backends/cpu/module/codegen.h"
#include "backends/cpu/module/module.h"
#include "clang/CodeGen/CodeGenAction.h"
#include "clang/Frontend/CompilerInstance.h"
#include "clang/Frontend/CompilerInvocation.h"
#include "clang/Frontend/TextDiagnosticPrinter.h"
#include "clang/Lex/PreprocessorOptions.h"
#include "llvm/ADT/SmallVector.h"
#include "llvm/IR/Module.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Support/VirtualFileSystem.h"
#include "llvm/Support/raw_ostream.h"

// LLVM declares the functions of one target only in a header that names them all.
extern "C" {
void LLVMInitializeAMDGPUTargetInfo();
void LLVMInitializeAMDGPUTarget();
void LLVMInitializeAMDGPUTargetMC();
void LLVMInitializeAMDGPUAsmPrinter();
void LLVMInitializeAMDGPUAsmParser();
}

namespace moejit_cpu {
namespace {

// What an arch string means to Clang. 512-bit vectors are asked for by name: LLVM's own tuning of
// x86-64-v4 splits them in two.
struct Arch {
  std::string_view name;
  std::array<const char*, 5> args;  // null after the last
  bool amdgpu = false;
};

const Arch* find_arch(std::string_view name) {
  static constexpr Arch kArchs[] = {
      {"x86-64-v3", {"-target-cpu", "x86-64-v3"}},
      {"x86-64-v4", {"-target-cpu", "x86-64-v4", "-mprefer-vector-width=512"}},
      {"x86-64-v4+bf16",
       {"-target-cpu", "x86-64-v4", "-mprefer-vector-width=512", "-target-feature", "+avx512bf16"}},
      {"gfx90a", {"-target-cpu", "gfx90a"}, true},
      {"gfx942", {"-target-cpu", "gfx942"}, true},
      {"gfx1100", {"-target-cpu", "gfx1100"}, true},
  };
  for (const Arch& arch : kArchs) {
    if (arch.name == name) return &arch;
  }
  return nullptr;
}

// Options that reach outside the compile: LLVM's own are global to the process, plug-ins run code,
// and the rest would read or write files.
bool refused_option(std::string_view option) {
  for (std::string_view prefix :
       {"-mllvm", "-load", "-plugin", "-add-plugin", "-fplugin", "-fpass-plugin", "-o", "-I",
        "-include", "-isystem", "-internal-isystem", "-fmodule", "-emit", "-S", "-E",
        "-fsyntax-only"}) {
    if (option.substr(0, prefix.size()) == prefix) return true;
  }
  return option.empty() || (option[0] != '-' && option[0] != '+');
}

// Sources that say themselves what is inlined and unrolled ask for the short pipeline of codegen.h
// with Clang's own option.
bool has_option(const MoejitCpuRequest& request, std::string_view wanted) {
  return std::find(request.options, request.options + request.num_options, wanted) !=
         request.options + request.num_options;
}

bool make_arguments(const MoejitCpuRequest& request, std::vector<const char*>& args, Output& out) {
  const Arch* arch = find_arch(request.arch);
  if (arch == nullptr) {
    out.fail(MOEJIT_CPU_INVALID, "arch = " + std::string(request.arch) +
                                     ": must be x86-64-v3, x86-64-v4, x86-64-v4+bf16, gfx90a, "
                                     "gfx942 or gfx1100");
    return false;
  }
  const char* emit = request.output == MOEJIT_CPU_ASSEMBLY ? "-S" : "-emit-obj";
  if (arch->amdgpu) {
    // HIP as the language alone: no header, no device library. Version 4 of the code object is
    // what every ROCm from 5 to 7 loads.
    args = {"-triple",
            "amdgcn-amd-amdhsa",
            "-aux-triple",
            "x86_64-unknown-linux-gnu",
            emit,
            "-x",
            "hip",
            "-std=c++20",
            "-fcuda-is-device",
            "-mcode-object-version=4",
            "-O3",
            "-vectorize-slp",
            "-fvisibility=hidden",
            "-fapply-global-visibility-to-externs",
            "-ffreestanding",
            "-fno-rtti",
            "-fno-threadsafe-statics",
            "-ffp-contract=on",
            "-fdenormal-fp-math-f32=ieee",
            "-mframe-pointer=none",
            "-nostdsysteminc",
            "-nobuiltininc",
            "-disable-llvm-verifier",
            "-discard-value-names",
            "-Wall",
            "-Wno-unused-function",
            "-Wno-unused-const-variable",
            "-Wno-undefined-inline",
            "-Wno-pass-failed"};  // loops that may be too long to unroll say so
  } else {
    args = {"-triple", "x86_64-unknown-linux-gnu", emit, "-x", "c++", "-std=c++20",
            // The templates unroll what must be unrolled; -O3 and the compiler's own unrolling cost
            // 60 % more time to compile and gave no faster kernel.
            "-O2", "-fno-unroll-loops", "-vectorize-loops", "-vectorize-slp", "-mrelocation-model",
            "pic", "-pic-level", "2", "-fvisibility=hidden", "-ffreestanding", "-fno-builtin",
            "-fno-rtti", "-fno-threadsafe-statics", "-ffp-contract=on", "-mframe-pointer=none",
            "-nostdsysteminc", "-nobuiltininc", "-disable-llvm-verifier", "-discard-value-names",
            "-fno-use-cxa-atexit", "-Wall", "-Wno-unused-function",
            "-Wno-unused-const-variable"};  // the constants of a config are one block for all
  }
  std::copy_if(arch->args.begin(), arch->args.end(), std::back_inserter(args),
               [](const char* arg) { return arg != nullptr; });
  for (uint32_t i = 0; i < request.num_options; ++i) {
    if (refused_option(request.options[i])) {
      out.fail(MOEJIT_CPU_INVALID, "option \"" + std::string(request.options[i]) +
                                       "\" is not allowed: it must be a "
                                       "code-generation option that acts on this compile alone");
      return false;
    }
    args.push_back(request.options[i]);
  }
  args.push_back(request.name);
  return true;
}

void initialize_targets() {
  static std::once_flag once;
  std::call_once(once, [] {
    llvm::InitializeNativeTarget();
    llvm::InitializeNativeTargetAsmPrinter();
    llvm::InitializeNativeTargetAsmParser();
    LLVMInitializeAMDGPUTargetInfo();
    LLVMInitializeAMDGPUTarget();
    LLVMInitializeAMDGPUTargetMC();
    LLVMInitializeAMDGPUAsmPrinter();
    LLVMInitializeAMDGPUAsmParser();
  });
}

}  // namespace

void compile(const MoejitCpuRequest& request, Output& out) {
  const auto start = std::chrono::steady_clock::now();
  initialize_targets();
  std::vector<const char*> args;
  if (!make_arguments(request, args, out)) return;

  llvm::raw_string_ostream log(out.log);
  auto options = llvm::makeIntrusiveRefCnt<clang::DiagnosticOptions>();
  auto printer = std::make_unique<clang::TextDiagnosticPrinter>(log, options.get());
  clang::DiagnosticsEngine diagnostics(llvm::makeIntrusiveRefCnt<clang::DiagnosticIDs>(), options,
                                       printer.get(), /*ShouldOwnClient=*/false);
  auto invocation = std::make_shared<clang::CompilerInvocation>();
  // Unchecked, a failure here crashes later.
  if (!clang::CompilerInvocation::CreateFromArgs(*invocation, args, diagnostics)) {
    log.flush();
    return out.fail(MOEJIT_CPU_INVALID, "the compiler refused an option");
  }

  auto files = llvm::makeIntrusiveRefCnt<llvm::vfs::InMemoryFileSystem>();
  files->addFile(request.name, 0,
                 llvm::MemoryBuffer::getMemBufferCopy(
                     llvm::StringRef(request.text, request.text_size), request.name));

  clang::CompilerInstance compiler;
  compiler.setInvocation(std::move(invocation));
  compiler.setVerboseOutputStream(log);  // "1 warning generated." goes there
  compiler.createDiagnostics(printer.get(), /*ShouldOwnClient=*/false);
  compiler.createFileManager(files);
  llvm::SmallVector<char, 0> bytes;
  compiler.setOutputStream(std::make_unique<llvm::raw_svector_ostream>(bytes));

  bool done = false;
  const bool own_passes = has_option(request, "-disable-llvm-passes");
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> module;
  if (own_passes) {
    clang::EmitLLVMOnlyAction action(&context);
    done = compiler.ExecuteAction(action);
    module = action.takeModule();
    done = done && module != nullptr;
  } else if (request.output == MOEJIT_CPU_ASSEMBLY) {
    clang::EmitAssemblyAction action;
    done = compiler.ExecuteAction(action);
  } else {
    clang::EmitObjAction action;
    done = compiler.ExecuteAction(action);
  }
  log.flush();
  if (!done || compiler.getDiagnostics().hasErrorOccurred()) {
    return out.fail(MOEJIT_CPU_REFUSED, "the compiler refused the source");
  }
  if (own_passes) {
    const clang::TargetOptions& target = compiler.getTarget().getTargetOpts();
    generate_code(*module, target.CPU, target.Features, request.output == MOEJIT_CPU_ASSEMBLY, out);
  } else {
    out.bytes.assign(bytes.begin(), bytes.end());
  }
  out.compile_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace moejit_cpu
