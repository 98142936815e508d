// From Clang's unoptimised module to machine code. The templates say what is inlined and unrolled,
// and are written in vectors already: a third of LLVM's -O2 pipeline does all that they need, in a
// third of its time, and gives the same inner loops.
#include "backends/cpu/module/codegen.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Analysis/TargetLibraryInfo.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Support/raw_ostream.h"
#include "llvm/Target/TargetMachine.h"
#include "llvm/Target/TargetOptions.h"
#include "llvm/Transforms/Scalar.h"

namespace moejit_cpu {
namespace {

// Functions are cleaned before they are inlined: there is less to copy, and a quarter of the time
// of these passes is saved.
constexpr const char* kPipeline =
    "function(sroa,early-cse,simplifycfg),always-inline,function("
    "sroa,simplifycfg,loop-simplify,lcssa,loop(loop-rotate),loop(loop-unroll-full),"
    "sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,"
    "loop-mssa(licm),simplifycfg),globaldce";

// The passes of code generation, without loop strength reduction: a fifth of the time to compile,
// and it spends registers on address arithmetic that x86's addressing modes do for nothing (T = 1
// is 10 % slower with it).
class Emission : public llvm::legacy::PassManagerBase {
 public:
  void add(llvm::Pass* pass) override {
    const std::unique_ptr<llvm::Pass> unwanted(llvm::createLoopStrengthReducePass());
    if (pass->getPassID() == unwanted->getPassID()) {
      delete pass;
    } else {
      passes_.add(pass);
    }
  }
  void run(llvm::Module& module) { passes_.run(module); }

 private:
  llvm::legacy::PassManager passes_;
};

}  // namespace

void generate_code(llvm::Module& module, const std::string& cpu,
                   const std::vector<std::string>& features, bool assembly, Output& out) {
  std::string why;
  const llvm::Target* target = llvm::TargetRegistry::lookupTarget(module.getTargetTriple(), why);
  if (target == nullptr) return out.fail(MOEJIT_CPU_INTERNAL, "LLVM has no such target: " + why);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;
  options.UseInitArray = true;  // where the linker looks for constructors, to refuse them
  const std::unique_ptr<llvm::TargetMachine> machine(
      target->createTargetMachine(module.getTargetTriple(), cpu, llvm::join(features, ","), options,
                                  llvm::Reloc::PIC_, std::nullopt, llvm::CodeGenOptLevel::Default));
  if (machine == nullptr) return out.fail(MOEJIT_CPU_INTERNAL, "LLVM made no target machine");

  // Nothing is linked: no call may become one of a C library.
  llvm::TargetLibraryInfoImpl library{llvm::Triple(module.getTargetTriple())};
  library.disableAllFunctions();

  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager graphs;
  llvm::ModuleAnalysisManager modules;
  functions.registerPass([&] { return llvm::TargetLibraryAnalysis(library); });
  llvm::PassBuilder builder(machine.get());
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graphs);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graphs, modules);
  llvm::ModulePassManager passes;
  if (llvm::Error error = builder.parsePassPipeline(passes, kPipeline)) {
    return out.fail(MOEJIT_CPU_INTERNAL, "passes: " + llvm::toString(std::move(error)));
  }
  passes.run(module, modules);

  llvm::SmallVector<char, 0> bytes;
  llvm::raw_svector_ostream stream(bytes);
  Emission emission;
  emission.add(new llvm::TargetLibraryInfoWrapperPass(library));
  if (machine->addPassesToEmitFile(
          emission, stream, nullptr,
          assembly ? llvm::CodeGenFileType::AssemblyFile : llvm::CodeGenFileType::ObjectFile)) {
    return out.fail(MOEJIT_CPU_INTERNAL, "LLVM cannot emit this kind of file");
  }
  emission.run(module);
  out.bytes.assign(bytes.begin(), bytes.end());
}

}  // namespace moejit_cpu
