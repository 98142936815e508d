#include "base/settings.h"
#include "tools/command.h"

namespace moejit::tools {
namespace {

class Env : public Command {
  void declare(OptionSet&) override {}

  ExitCode run(Context& context) override {
    Table table({{"name", "name"},
                 {"value", "value"},
                 {"origin", "origin"},
                 {"default", "default", Unit::kNone, /*wide=*/true},
                 {"help", "meaning"},
                 {"problem", "problem", Unit::kNone, /*wide=*/true}});
    for (const internal::SettingRow& row : internal::setting_rows()) {
      table.add({std::string(row.name), row.value, row.origin, std::string(row.default_text),
                 std::string(row.help), row.problem.empty() ? Cell() : Cell(row.problem)});
    }
    return context.print(table);
  }
};

}  // namespace

std::unique_ptr<Command> make_env() {
  return std::make_unique<Env>();
}

}  // namespace moejit::tools
