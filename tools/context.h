// What every verb shares: exit codes, output, errors and progress.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/progress.h"
#include "base/table.h"
#include "moejit/status.h"

namespace moejit::tools {

using internal::Cell;
using internal::Column;
using internal::Table;
using internal::TableFormat;
using internal::Unit;

// Part of the command's interface (docs/cli.md): never renumber.
enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,
  kUsage = 2,         // the command line, or a file that it names, is wrong
  kNothingFound = 3,  // a key, or with --require a tuned choice, that does not exist
  kUnavailable = 4,   // no such device or compiler here, or it cannot do this
  kWrong = 5,         // wrong results, damaged cache entries
  kPartial = 6,       // some of several pieces of work failed
  kInterrupted = 130,
};

ExitCode exit_code(const Status& status);

// One for the process: log lines may come until its end.
class Context {
 public:
  // Set from the command line before a verb runs.
  std::string command;  // "tune", "cache ls"
  TableFormat format = TableFormat::kTable;
  bool color = false;
  bool assume_yes = false;
  int verbosity = 0;  // -1: -q, 1: -v, 2: -vv
  internal::ProgressMode progress_mode = internal::ProgressMode::kAuto;

  // Data, to stdout. kFailed (said on stderr) where it could not be written.
  ExitCode print(const Table& table);
  ExitCode print_text(std::string_view text);
  bool for_people() const { return format == TableFormat::kTable; }

  // A remark on stderr; silent with -q.
  void note(const std::string& text);
  // An error on stderr, with the compiler's log where the status has one; gives its exit code.
  ExitCode fail(const Status& status);
  // "`what` [y/N]" on a terminal; elsewhere, and without --yes, false with a sentence on stderr.
  bool confirm(const std::string& what);

  // Log lines of the library go to stderr, above the progress line, by -q and -v.
  void route_log();
  // Made on first use; lives as long as the context.
  internal::Progress& progress();

 private:
  std::unique_ptr<internal::Progress> progress_;
};

}  // namespace moejit::tools
