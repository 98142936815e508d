// What the sanitizers must be told for these tests.
#if defined(__SANITIZE_THREAD__)

extern "C" __attribute__((visibility("default"))) const char* __tsan_default_options() {
  // die_after_fork: the fork tests start workers in the child. report_signal_unsafe: the crash of
  // the compiler on purpose is left through a signal handler.
  return "die_after_fork=0:report_signal_unsafe=0";
}

#elif defined(__SANITIZE_ADDRESS__)

extern "C" __attribute__((visibility("default"))) const char* __lsan_default_suppressions() {
  // A crash of the compiler leaves its memory behind.
  return "leak:libclang-cpp\nleak:libLLVM\nleak:libmoejit_cpu\n";
}

#endif
