// The `moejit` command: reads the command line with CLI11 (used here only) and runs one verb.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <sstream>
#include <string>

#include "moejit/moejit.h"
#include "runtime/trial_process.h"
#include "tools/command.h"
#include "tools/interrupt.h"
#include "tools/usage.h"

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
    number<int32_t>(names, what, help, [out](int32_t given) { *out = given; });
  }
  void value(const char* names, const char* what, std::optional<int32_t>* out,
             const char* help) override {
    number<int32_t>(names, what, help, [out](int32_t given) { *out = given; });
  }
  void value(const char* names, const char* what, double* out, const char* help) override {
    number<double>(names, what, help, [out](double given) { *out = given; });
  }
  void positional(const char* name, std::string* out, const char* help, bool required) override {
    app_->add_option(name, *out, help)->required(required)->type_name("");
  }
  void positional(const char* name, std::vector<std::string>* out, const char* help,
                  bool required) override {
    app_->add_option(name, *out, help)->required(required)->type_name("");
  }

 private:
  template <typename T>
  void number(const char* names, const char* what, const char* help, std::function<void(T)> take) {
    const auto parse = [name = option_name(names), take](const std::string& text) {
      auto value = parse_option<T>(name, text);
      if (!value.ok()) throw CLI::ValidationError(value.status().message());
      take(*value);
    };
    app_->add_option_function<std::string>(names, parse, help)->type_name(what);
  }

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

// The verb that the command line has reached: "", "cache" or "cache ls".
std::string verb_of(const CLI::App& app, const CLI::App** leaf) {
  std::string name;
  *leaf = &app;
  while (!(*leaf)->get_subcommands().empty()) {
    *leaf = (*leaf)->get_subcommands().front();
    name += (name.empty() ? "" : " ") + (*leaf)->get_name();
  }
  return name;
}

// What was wrong, for usage_message() to say.
WrongCall describe(const CLI::App& app, const CLI::ParseError& error) {
  WrongCall call;
  const CLI::App* leaf = nullptr;
  call.verb = verb_of(app, &leaf);
  for (const CLI::App* sub : leaf->get_subcommands([](const CLI::App*) { return true; }))
    call.verbs.push_back(sub->get_name());
  for (const CLI::App* level : {leaf, &app}) {
    for (const CLI::Option* option : level->get_options()) {
      for (const std::string& name : option->get_lnames()) call.options.push_back("--" + name);
      for (const std::string& name : option->get_snames()) call.options.push_back("-" + name);
      if (option->nonpositional()) continue;
      call.positionals.push_back(option->get_name());
    }
    if (leaf == &app) break;
  }
  for (const std::string& text : app.remaining(/*recurse=*/true)) call.unexpected.push_back(text);
  call.text = error.what();
  if (dynamic_cast<const CLI::ValidationError*>(&error) != nullptr) {
    call.kind = WrongCall::Kind::kValue;
  } else if (dynamic_cast<const CLI::ArgumentMismatch*>(&error) != nullptr) {
    call.kind = WrongCall::Kind::kCount;
  } else if (dynamic_cast<const CLI::RequiredError*>(&error) != nullptr) {
    call.kind = WrongCall::Kind::kMissing;
  } else if (dynamic_cast<const CLI::ExtrasError*>(&error) != nullptr) {
    call.kind = WrongCall::Kind::kUnexpected;
  }
  return call;
}

// A stream that the caller closed must not become the next file that is opened. What is written to
// it fails, as it would have.
void keep_streams() {
  for (int fd = 0; fd <= 2; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) (void)!open("/dev/null", O_RDONLY);
  }
}

int command_line(int argc, char** argv) {
  keep_streams();
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

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& request) {  // --help, --version
    std::ostringstream text;
    const int code = app.exit(request, text, text);
    if (std::fputs(text.str().c_str(), stdout) >= 0 && std::fflush(stdout) == 0) return code;
    std::fprintf(stderr, "moejit: error: cannot write to standard output\n");
    return static_cast<int>(ExitCode::kFailed);
  } catch (const CLI::ParseError& error) {
    WrongCall call = describe(app, error);
    call.words.assign(argv + 1, argv + argc);
    const std::string verb = call.verb.empty() ? "" : " " + call.verb;
    std::fprintf(stderr, "moejit%s: error: %s\n`moejit%s --help` lists what there is.\n",
                 verb.c_str(), usage_message(call).c_str(), verb.c_str());
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
