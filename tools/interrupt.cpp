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

// Only what is async-signal-safe. A job that is told to end may be told twice, by its scheduler and
// by its shell: whoever is in a hurry has SIGKILL.
void on_interrupt(int signal) {
  const char* message = g_message.load();
  if (message == nullptr) _exit(128 + signal);
  if (g_requested.exchange(true)) {
    if (signal == SIGTERM) return;
    _exit(130);
  }
  const int saved = errno;
  if (write(STDERR_FILENO, message, std::strlen(message)) < 0) {
    // Nobody to tell.
  }
  errno = saved;
}

}  // namespace

void install_interrupt_handler() {
  for (const int signal : {SIGINT, SIGTERM}) {
    struct sigaction current {};
    // A background job of a shell without job control starts with SIGINT ignored; keep that.
    if (sigaction(signal, nullptr, &current) == 0 && current.sa_handler == SIG_IGN) continue;
    struct sigaction action {};
    action.sa_handler = on_interrupt;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGINT);
    sigaddset(&action.sa_mask, SIGTERM);
    action.sa_flags = SA_RESTART;
    sigaction(signal, &action, nullptr);
  }
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
