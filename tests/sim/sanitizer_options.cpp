// A finding abandons the fibers of its launch, with what the simulator held on their stacks: a few
// kilobytes that LeakSanitizer would report at the end of these tests.
extern "C" __attribute__((visibility("default"), used)) const char* __lsan_default_suppressions();

const char* __lsan_default_suppressions() {
  return "leak:moejit::internal::sim\n";
}
