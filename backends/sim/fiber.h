// Fibers: one stack and one saved stack pointer per simulated thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace moejit::internal::sim {

// A suspended flow of control. Not thread-safe; resumed by the thread that prepared it.
struct Fiber {
  void* sp = nullptr;     // saved stack pointer while suspended
  char* stack = nullptr;  // lowest byte of the stack, null for the scheduler's own
  size_t stack_bytes = 0;
};

// Saves the running flow in `from` and goes on with `to`. Costs a few nanoseconds.
void switch_fiber(Fiber& from, Fiber& to);

// Called first by `entry` of a fiber.
void begin_fiber();

// Fills in the stack that `fiber` runs on now, for the sanitizers.
void adopt_current_stack(Fiber& fiber);

// Makes `fiber`, which owns a stack, start in `entry(argument)` when it is next switched to.
// `entry` must not return.
void prepare_fiber(Fiber& fiber, void (*entry)(void*), void* argument);

// False where the canary at the low end of the stack was overwritten.
bool stack_intact(const Fiber& fiber);

// Stacks of one size, mapped lazily by the system and kept for reuse.
class StackPool {
 public:
  static constexpr size_t kStackBytes = 128 << 10;

  ~StackPool();
  // Sets stack and stack_bytes; false where the system has no memory left.
  bool acquire(Fiber& fiber);
  void release(Fiber& fiber);

 private:
  std::vector<char*> free_;
  std::vector<char*> slabs_;
};

}  // namespace moejit::internal::sim
