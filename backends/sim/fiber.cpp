#include "backends/sim/fiber.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOEJIT_SIM_ASAN 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define MOEJIT_SIM_ASAN 1
#endif
#if defined(MOEJIT_SIM_ASAN)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace moejit::internal::sim {
namespace {

constexpr uint64_t kCanary = 0x5afe57ac4b075eed;
// Below the lowest stack of a slab, so that a small overflow is found by its canary and not by a
// crash.
constexpr size_t kSlabMargin = 64 << 10;
constexpr size_t kStacksPerSlab = 64;
constexpr size_t kSlabBytes = kSlabMargin + StackPool::kStackBytes * kStacksPerSlab;

}  // namespace

// AddressSanitizer must know which stack it looks at, and an abandoned fiber leaves marks on its
// own.
#if defined(MOEJIT_SIM_ASAN)

namespace {

template <typename Change>
void announced(const Fiber& to, Change change) {
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(&fake, to.stack, to.stack_bytes);
  change();
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
}

void forget_marks(const Fiber& fiber) {
  __asan_unpoison_memory_region(fiber.stack, fiber.stack_bytes);
}

}  // namespace

void begin_fiber() {
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
}

void adopt_current_stack(Fiber& fiber) {
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) != 0) return;
  void* low = nullptr;
  pthread_attr_getstack(&attributes, &low, &fiber.stack_bytes);
  fiber.stack = static_cast<char*>(low);
  pthread_attr_destroy(&attributes);
}

#else

namespace {

template <typename Change>
void announced(const Fiber&, Change change) {
  change();
}

void forget_marks(const Fiber&) {}

}  // namespace

void begin_fiber() {}
void adopt_current_stack(Fiber&) {}

#endif

#if defined(__x86_64__)

// The System V callee-saved registers and the two floating-point control words are all that a call
// must preserve, so that is all that a switch keeps.
asm(R"(
.text
.p2align 4
.type moejit_sim_switch, @function
.hidden moejit_sim_switch
.globl moejit_sim_switch
moejit_sim_switch:
  .cfi_startproc
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .cfi_endproc
.size moejit_sim_switch, .-moejit_sim_switch

.p2align 4
.type moejit_sim_start, @function
.hidden moejit_sim_start
.globl moejit_sim_start
moejit_sim_start:
  .cfi_startproc
  .cfi_undefined rip
  movq %r13, %rdi
  call *%r12
  ud2
  .cfi_endproc
.size moejit_sim_start, .-moejit_sim_start
)");

extern "C" void moejit_sim_switch(void** save, void* restore);
extern "C" void moejit_sim_start();

void switch_fiber(Fiber& from, Fiber& to) {
  announced(to, [&] { moejit_sim_switch(&from.sp, to.sp); });
}

void prepare_fiber(Fiber& fiber, void (*entry)(void*), void* argument) {
  forget_marks(fiber);
  std::memcpy(fiber.stack, &kCanary, sizeof kCanary);
  auto top = reinterpret_cast<uintptr_t>(fiber.stack + fiber.stack_bytes) & ~uintptr_t{63};
  auto* frame = reinterpret_cast<void**>(top);
  // Popped in the order of moejit_sim_switch: r15 r14 r13 r12 rbx rbp, return address. The start
  // routine then calls with the alignment that the ABI asks for.
  *--frame = nullptr;
  *--frame = nullptr;
  *--frame = reinterpret_cast<void*>(&moejit_sim_start);
  *--frame = nullptr;
  *--frame = nullptr;
  *--frame = reinterpret_cast<void*>(entry);
  *--frame = argument;
  *--frame = nullptr;
  *--frame = nullptr;
  fiber.sp = frame;
}

#else  // any other CPU: the C library's contexts, some hundred nanoseconds a switch

namespace {

struct Context {
  ucontext_t context;
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
};

Context* context_of(Fiber& fiber) {
  if (fiber.sp == nullptr) fiber.sp = new Context();
  return static_cast<Context*>(fiber.sp);
}

void start(unsigned high, unsigned low) {
  auto* context = reinterpret_cast<Context*>(uintptr_t{high} << 32 | low);
  context->entry(context->argument);
}

}  // namespace

void switch_fiber(Fiber& from, Fiber& to) {
  announced(to, [&] { swapcontext(&context_of(from)->context, &context_of(to)->context); });
}

void prepare_fiber(Fiber& fiber, void (*entry)(void*), void* argument) {
  forget_marks(fiber);
  std::memcpy(fiber.stack, &kCanary, sizeof kCanary);
  Context* context = context_of(fiber);
  getcontext(&context->context);
  context->entry = entry;
  context->argument = argument;
  context->context.uc_link = nullptr;
  context->context.uc_stack.ss_sp = fiber.stack + 64;
  context->context.uc_stack.ss_size = fiber.stack_bytes - 64;
  const auto address = reinterpret_cast<uintptr_t>(context);
  makecontext(&context->context, reinterpret_cast<void (*)()>(start), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
}

#endif

bool stack_intact(const Fiber& fiber) {
  return fiber.stack == nullptr || std::memcmp(fiber.stack, &kCanary, sizeof kCanary) == 0;
}

StackPool::~StackPool() {
  for (char* slab : slabs_) munmap(slab, kSlabBytes);
}

bool StackPool::acquire(Fiber& fiber) {
  if (free_.empty()) {
    void* slab = mmap(nullptr, kSlabBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slab == MAP_FAILED) return false;
    slabs_.push_back(static_cast<char*>(slab));
    // Stacks would otherwise start on the same cache sets: 4 KB aligned tops alias in L1.
    for (size_t i = kStacksPerSlab; i-- > 0;) {
      free_.push_back(static_cast<char*>(slab) + kSlabMargin + i * kStackBytes);
    }
  }
  fiber.stack = free_.back();
  free_.pop_back();
  const size_t color = (reinterpret_cast<uintptr_t>(fiber.stack) / kStackBytes % 32) * 128;
  fiber.stack_bytes = kStackBytes - color;
  return true;
}

void StackPool::release(Fiber& fiber) {
  if (fiber.stack != nullptr) free_.push_back(fiber.stack);
  fiber.stack = nullptr;
#if !defined(__x86_64__)
  delete static_cast<Context*>(fiber.sp);
#endif
  fiber.sp = nullptr;
}

}  // namespace moejit::internal::sim
