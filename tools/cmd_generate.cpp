#include "base/fs.h"
#include "moejit/tuning.h"
#include "tools/busy.h"
#include "tools/parse.h"
#include "tools/select.h"

namespace moejit::tools {
namespace {

class Generate : public Command {
  void declare(OptionSet& options) override {
    layer_.declare_one(options);
    device_.declare(options);
    options.value("-t,--tokens", "LIST", &tokens_, "Token counts; each names a schedule");
    options.value("--schedule", "JSON", &schedule_,
                  "This schedule, as `moejit explain --json` prints it, and not the chosen one");
    options.value("-o,--output", "DIR", &output_, "Directory for the files; created where missing");
  }

  ExitCode run(Context& context) override {
    if (output_.empty()) return context.fail(invalid_argument("output: give -o DIR"));
    auto config = layer_.resolve();
    if (!config.ok()) return context.fail(config.status());
    auto tokens = parse_tokens(tokens_);
    if (!tokens.ok()) return context.fail(tokens.status());
    Table table({{"tokens", "tokens"}, {"file", "file"}, {"bytes", "size", Unit::kBytes}});
    for (const int64_t count : *tokens) {
      auto files = while_busy(
          context, "compiling for " + std::to_string(count) + (count == 1 ? " token" : " tokens"),
          [&] { return generate(*config, device_.name(), count, schedule_); });
      if (!files.ok()) {
        const Status& status = files.status();
        if (!schedule_.empty() && status.message().starts_with("schedule"))
          return context.fail(invalid_argument(status.message()));
        const bool no_device = status.code() == StatusCode::kNotFound;
        return context.fail(
            no_device ? Status(StatusCode::kUnavailable, status.message(), status.log()) : status);
      }
      // Schedules of one layer share their names, so that each token count gets a folder.
      const std::string directory =
          tokens->size() > 1 ? internal::join_path(output_, "t" + std::to_string(count)) : output_;
      if (const Status made = internal::make_directories(directory); !made.ok()) {
        return context.fail(Status(StatusCode::kIoError, made.message()));
      }
      for (const GeneratedFile& file : *files) {
        const std::string path = internal::join_path(directory, file.name);
        if (const Status written = internal::write_file(path, file.text); !written.ok()) {
          return context.fail(Status(StatusCode::kIoError, written.message()));
        }
        table.add({count, path, static_cast<int64_t>(file.text.size())});
      }
    }
    return context.print(table);
  }

  LayerSelector layer_;
  DeviceSelector device_;
  std::string tokens_ = "1", schedule_, output_;
};

}  // namespace

std::unique_ptr<Command> make_generate() {
  return std::make_unique<Generate>();
}

}  // namespace moejit::tools
