#include "moejit/moejit.h"
#include "tools/command.h"

namespace moejit::tools {
namespace {

class Version : public Command {
  void declare(OptionSet&) override {}
  ExitCode run(Context& context) override {
    if (context.for_people()) return context.print_text(std::string("moejit ") + version() + "\n");
    if (context.format == TableFormat::kJson) {
      Table table(std::vector<Column>{});
      table.fact("version", "version", std::string(version()));
      return context.print(table);
    }
    Table table(std::vector<Column>{{"version", "version"}});
    table.add({std::string(version())});
    return context.print(table);
  }
};

}  // namespace

std::unique_ptr<Command> make_version() {
  return std::make_unique<Version>();
}

}  // namespace moejit::tools
