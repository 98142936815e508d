// The `moejit` command: reads the command line with CLI11 (used here only) and runs one verb.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>

#include "base/nearest.h"
#include "moejit/moejit.h"
#include "runtime/trial_process.h"
#include "tools/command.h"
#include "tools/interrupt.h"

namespace moejit::tools {

#define MOEJIT_VERB(function, name, summary) std::unique_ptr<Command> make_##function();
#include "tools/verbs.inc"
#undef MOEJIT_VERB

const std::vector<Verb>& verbs() {
  static const std::vector<Verb> all = {
#define MOEJIT_VERB(function, name, summary) Verb{name, summary, make_##function},
#include "tools/verbs.inc"
#undef MOEJIT_VERB
  };
  return all;
}

namespace {

// Verbs declare against this, so that CLI11's headers are compiled once.
class CliOptions : public OptionSet {
 public:
  explicit CliOptions(CLI::App* app) : app_(app) {}

  void flag(const char* names, bool* out, const char* help) override {
    app_->add_flag(names, *out, help);
  }
  void value(const char* names, const char* what, std::string* out, const char* help) override {
    app_->add_option(names, *out, help)->type_name(what);
  }
  void value(const char* names, const char* what, int32_t* out, const char* help) override {
    app_->add_option(names, *out, help)->type_name(what);
  }
  void value(const char* names, const char* what, std::optional<int32_t>* out,
             const char* help) override {
    app_->add_option_function<int32_t>(
            names, [out](const int32_t& given) { *out = given; }, help)
        ->type_name(what);
  }
  void value(const char* names, const char* what, double* out, const char* help) override {
    app_->add_option(names, *out, help)->type_name(what);
  }
  void positional(const char* name, std::string* out, const char* help, bool required) override {
    app_->add_option(name, *out, help)->required(required)->type_name("");
  }
  void positional(const char* name, std::vector<std::string>* out, const char* help,
                  bool required) override {
    app_->add_option(name, *out, help)->required(required)->type_name("");
  }

 private:
  CLI::App* app_;
};

struct Global {
  std::string format;
  std::string progress = "auto";
  std::string color = "auto";
  bool json = false, quiet = false, yes = false;
  int verbose = 0;
};

void declare_global(CLI::App* app, Global* global) {
  const char* group = "Every verb";
  app->add_option("--format", global->format,
                  "table, json, jsonl or csv; default: table on a terminal, else csv")
      ->type_name("FORMAT")
      ->group(group);
  app->add_flag("--json", global->json, "Same as --format json")->group(group);
  app->add_option("--progress", global->progress, "auto, line, plain, json or none")
      ->type_name("MODE")
      ->group(group);
  app->add_option("--color", global->color, "auto, always or never; NO_COLOR is respected")
      ->type_name("WHEN")
      ->group(group);
  app->add_flag("-q,--quiet", global->quiet, "Errors only")->group(group);
  app->add_flag("-v,--verbose", global->verbose, "More columns and log lines; twice: even more")
      ->group(group);
  app->add_flag("-y,--yes", global->yes, "Do not ask before deleting")->group(group);
}

bool terminal_color() {
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* terminal = std::getenv("TERM");
  return isatty(STDOUT_FILENO) && terminal != nullptr && std::string_view(terminal) != "dumb";
}

Status apply_global(const Global& global, Context* context) {
  context->format = isatty(STDOUT_FILENO) ? TableFormat::kTable : TableFormat::kCsv;
  if (global.json) context->format = TableFormat::kJson;
  if (!global.format.empty()) {
    auto format = internal::table_format_from_string(global.format);
    if (!format.ok()) return format.status();
    if (global.json && *format != TableFormat::kJson) {
      return invalid_argument("format = \"" + global.format + "\": --json was given too");
    }
    context->format = *format;
  }
  auto progress = internal::progress_mode_from_string(global.progress);
  if (!progress.ok()) return progress.status();
  context->progress_mode = *progress;
  if (global.color != "auto" && global.color != "always" && global.color != "never") {
    return invalid_argument("color = \"" + global.color + "\": must be auto, always or never");
  }
  context->color = global.color == "auto" ? terminal_color() : global.color == "always";
  context->assume_yes = global.yes;
  context->verbosity = global.quiet ? -1 : global.verbose;
  return {};
}

struct Parsed {
  Global global;
  std::vector<std::unique_ptr<Command>> commands;
  std::map<const CLI::App*, size_t> leaves;  // index into verbs()
};

// One CLI11 subcommand per verb; "cache ls" becomes a subcommand of "cache".
void declare_verbs(CLI::App* app, Parsed* parsed) {
  std::map<std::string, CLI::App*> groups;
  for (size_t i = 0; i < verbs().size(); ++i) {
    const Verb& verb = verbs()[i];
    const std::string name = verb.name;
    CLI::App* parent = app;
    std::string leaf = name;
    if (const size_t space = name.find(' '); space != std::string::npos) {
      const std::string group = name.substr(0, space);
      leaf = name.substr(space + 1);
      CLI::App*& entry = groups[group];
      if (entry == nullptr) {
        entry = app->add_subcommand(group,
                                    "Verbs of the " + group + "; see moejit " + group + " --help");
        entry->fallthrough();
        entry->require_subcommand(1);
      }
      parent = entry;
    }
    CLI::App* sub = parent->add_subcommand(leaf, verb.summary);
    sub->fallthrough();
    sub->footer("`moejit --help` lists the options of every verb (--format, --json, -q, -v, ...).");
    parsed->commands.push_back(verb.make());
    CliOptions options(sub);
    parsed->commands.back()->declare(options);
    parsed->leaves[sub] = i;
  }
}

// "moejit tunee": CLI11 would call it an unexpected argument; say which verbs are near.
std::string unknown_verb(CLI::App* app, int argc, char** argv) {
  CLI::App* level = app;
  for (int i = 1; i < argc && argv[i][0] != '-'; ++i) {
    const auto subs = level->get_subcommands([](CLI::App*) { return true; });
    if (subs.empty()) return "";
    std::vector<std::string> names;
    CLI::App* next = nullptr;
    for (CLI::App* sub : subs) {
      names.push_back(sub->get_name());
      if (sub->get_name() == argv[i]) next = sub;
    }
    if (next == nullptr) {
      std::string message = "unknown verb " + internal::in_quotes(argv[i]);
      const auto near = internal::nearest_names(argv[i], names, 2);
      message += ": " + (near.empty() ? "there are " + internal::join(names)
                                      : "did you mean " + internal::join(near, " or ") + "?");
      return message;
    }
    level = next;
  }
  return "";
}

int command_line(int argc, char** argv) {
  CLI::App app("Fused Mixture-of-Experts kernels, generated, compiled, tuned and cached.",
               "moejit");
  app.set_version_flag("--version", std::string("moejit ") + version());
  app.require_subcommand(1);
  app.footer(
      "Data goes to stdout, everything else to stderr.\n"
      "Exit codes: 0 done, 1 failed, 2 wrong call, 3 nothing found, 4 device or compiler not\n"
      "available, 5 wrong results, 6 partly failed, 130 interrupted.");
  Parsed parsed;
  declare_global(&app, &parsed.global);
  declare_verbs(&app, &parsed);

  if (const std::string message = unknown_verb(&app, argc, argv); !message.empty()) {
    std::fprintf(stderr, "moejit: error: %s\n", message.c_str());
    return static_cast<int>(ExitCode::kUsage);
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    return app.exit(request);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "moejit: error: %s\nRun with --help for more information.\n",
                 error.what());
    return static_cast<int>(ExitCode::kUsage);
  }

  const CLI::App* chosen = &app;
  while (!chosen->get_subcommands().empty()) chosen = chosen->get_subcommands().front();
  const size_t index = parsed.leaves.at(chosen);
  static Context& context = *new Context;  // log lines may come until the process ends
  context.command = verbs()[index].name;
  if (const Status status = apply_global(parsed.global, &context); !status.ok()) {
    return static_cast<int>(context.fail(status));
  }
  context.route_log();
  install_interrupt_handler();
  return static_cast<int>(parsed.commands[index]->run(context));
}

}  // namespace
}  // namespace moejit::tools

int main(int argc, char** argv) {
  try {
    // The tuner starts this command once more to run candidates that may not survive.
    if (argc == 2 && std::string_view(argv[1]) == moejit::internal::kTrialVerb) {
      return moejit::internal::serve_trials(STDIN_FILENO);
    }
    return moejit::tools::command_line(argc, argv);
  } catch (const std::exception& error) {  // CLI11's own mistakes, and memory that ran out
    std::fprintf(stderr, "moejit: error: %s\n", error.what());
    return static_cast<int>(moejit::tools::ExitCode::kFailed);
  }
}
