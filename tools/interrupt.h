// Ctrl-C: work that can stop in good order does; everything else ends at once with code 130.
#pragma once

namespace moejit::tools {

void install_interrupt_handler();

// While one lives, the first SIGINT only sets the flag and says so; the second ends the process.
class Interruptible {
 public:
  explicit Interruptible(const char* message);  // for stderr, with its line feed; a literal
  ~Interruptible();
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  static bool requested();
};

}  // namespace moejit::tools
