#include "base/settings.h"
#include "tools/command.h"

namespace moejit::tools {
namespace {

class CachePath : public Command {
  void declare(OptionSet&) override {}

  ExitCode run(Context& context) override {
    const internal::Settings& settings = internal::settings();
    if (settings.cache_dir.empty()) {
      return context.fail(Status(StatusCode::kNotFound, settings.cache_dir_reason));
    }
    if (context.for_people()) return context.print_text(settings.cache_dir + "\n");
    Table table({{"path", "path"}, {"reason", "because"}});
    table.add({settings.cache_dir, settings.cache_dir_reason});
    return context.print(table);
  }
};

}  // namespace

std::unique_ptr<Command> make_cache_path() {
  return std::make_unique<CachePath>();
}

}  // namespace moejit::tools
