#include "tools/interrupt.h"

#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace moejit::tools {
namespace {

std::atomic<const char*> g_message{nullptr};
std::atomic<bool> g_requested{false};

// Only what is async-signal-safe.
void on_interrupt(int) {
  const char* message = g_message.load();
  if (message == nullptr || g_requested.exchange(true)) _exit(130);
  const int saved = errno;
  if (write(STDERR_FILENO, message, std::strlen(message)) < 0) {
    // Nobody to tell.
  }
  errno = saved;
}

}  // namespace

void install_interrupt_handler() {
  struct sigaction current {};
  // A background job of a shell without job control starts with SIGINT ignored; keep that.
  if (sigaction(SIGINT, nullptr, &current) == 0 && current.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

Interruptible::Interruptible(const char* message) {
  g_requested = false;
  g_message = message;
}
Interruptible::~Interruptible() {
  g_message = nullptr;
}
bool Interruptible::requested() {
  return g_requested;
}

}  // namespace moejit::tools
