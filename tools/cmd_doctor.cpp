#include <unistd.h>

#include "backends/backend.h"
#include "base/fs.h"
#include "base/settings.h"
#include "moejit/moejit.h"
#include "tools/busy.h"
#include "tools/command.h"
#include "tools/matrix.h"

namespace moejit::tools {
namespace {

// "writable", or why not, without creating anything.
std::string cache_state() {
  const internal::Settings& settings = internal::settings();
  if (settings.cache == internal::CacheMode::kOff) return "off (MOEJIT_CACHE)";
  if (settings.cache_dir.empty()) return "in memory only: " + settings.cache_dir_reason;
  std::string existing = settings.cache_dir;
  while (!internal::path_exists(existing) && existing != internal::parent_path(existing)) {
    existing = internal::parent_path(existing);
  }
  if (existing == settings.cache_dir && !settings.cache_allow_shared) {
    const Status trusted = internal::check_private_directory(existing);
    if (!trusted.ok()) return "not used: " + trusted.message();
  }
  const std::string network = internal::network_file_system(existing);
  if (!network.empty() && !settings.cache_allow_network) return "not used: it is on " + network;
  if (access(existing.c_str(), W_OK | X_OK) != 0) return "not writable";
  if (settings.cache == internal::CacheMode::kReadOnly) return "read only (MOEJIT_CACHE)";
  return existing == settings.cache_dir ? "writable" : "writable, not created yet";
}

struct Readiness {
  bool ready = false;
  std::string sentence;  // "yes", "no (libcuda.so.1 not found)"
};

class Doctor : public Command {
  void declare(OptionSet& options) override {
    options.flag("--matrix", &matrix_, "What each kernel family supports, on whatever machine");
    options.flag("--markdown", &markdown_, "The matrix as the README shows it");
  }

  // Devices and facts of one backend as rows.
  Readiness examine(const internal::Backend& backend, Table* table) {
    const std::string name = backend.name();
    std::string why_none;
    const auto devices = backend.devices(&why_none);
    for (const internal::DeviceListing& device : devices) {
      table->add({name, std::string("device"), device.name, device.detail});
    }
    for (const auto& [what, value] : backend.facts()) {
      table->add({name, std::string("fact"), what, value});
    }
    if (devices.empty()) return {false, "no (" + why_none + ")"};
    const auto device = internal::open_device(devices.front().name);
    if (!device.ok()) return {false, "no (" + device.status().message() + ")"};
    const auto compiler = (*device)->compiler();
    if (!compiler.ok()) {
      return {false, "only kernels of the cache (" + compiler.status().message() + ")"};
    }
    return {true, "yes"};
  }

  ExitCode run(Context& context) override {
    if (markdown_) return context.print_text(support_matrix().markdown());
    if (matrix_) return context.print(support_matrix());
    Table table({{"backend", "backend"}, {"kind", "kind"}, {"name", "name"}, {"value", "value"}});
    bool any = false;
    std::string ready;
    for (const internal::Backend* backend : internal::backends()) {
      const Readiness state =
          while_busy(context, std::string("asking for ") + backend->name() + " devices",
                     [&] { return examine(*backend, &table); });
      any = any || state.ready;
      ready += (ready.empty() ? "" : ", ") + std::string(backend->name()) + " " + state.sentence;
    }
    const internal::Settings& settings = internal::settings();
    table.fact("version", "moejit", std::string(version()));
    table.fact("cache_directory", "cache directory",
               settings.cache_dir.empty() ? Cell() : Cell(settings.cache_dir));
    table.fact("cache_directory_reason", "  because", settings.cache_dir_reason);
    table.fact("cache_state", "cache", cache_state());
    table.fact("ready", "ready", ready);
    if (context.format == TableFormat::kCsv || context.format == TableFormat::kJsonLines) {
      // These have rows alone, and a script that asks wants these as well.
      const std::pair<const char*, std::string> own[] = {
          {"version", version()},
          {"cache_directory", settings.cache_dir},
          {"cache_directory_reason", settings.cache_dir_reason},
          {"cache_state", cache_state()},
          {"ready", ready}};
      for (const auto& [name, value] : own)
        table.add({std::string("moejit"), std::string("fact"), std::string(name), value});
    }
    const ExitCode printed = context.print(table);
    if (printed != ExitCode::kOk || any) return printed;
    return context.fail(
        Status(StatusCode::kUnavailable, "no device here can compile and run kernels"));
  }

  bool matrix_ = false, markdown_ = false;
};

}  // namespace

std::unique_ptr<Command> make_doctor() {
  return std::make_unique<Doctor>();
}

}  // namespace moejit::tools
