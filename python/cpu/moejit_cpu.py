"""libmoejit_cpu.so and the libraries of Clang and LLVM that it needs, in `lib`. The moejit package finds it here."""
