// `moejit report`: the database as one page, or as rows.
#include "base/fs.h"
#include "tools/busy.h"
#include "tools/cache_common.h"
#include "tools/report.h"
#include "tools/report_page.h"

namespace moejit::tools {
namespace {

class ReportCommand : public Command {
  void declare(OptionSet& options) override {
    options.positional("FILE.html", &file_, "Write a page that opens in any browser, offline",
                       /*required=*/false);
    options.value("--from", "PATH", &from_, "A cache directory or a pack; default: this cache");
  }

  ExitCode run(Context& context) override {
    if (internal::is_database_file(file_)) {
      return context.fail(invalid_argument("FILE.html = \"" + file_ +
                                           "\": is a database, which a page would replace; --from "
                                           "reports on one"));
    }
    PlaceSelector here;
    auto place = from_.empty() ? here.resolve() : Result<internal::CachePlace>(place_at(from_));
    if (!place.ok()) return context.fail(place.status());
    auto report =
        while_busy(context, "reading the cache", [&] { return internal::read_report(*place); });
    if (!report.ok()) return context.fail(report.status());
    if (!file_.empty()) {
      const std::string page = report_html(*report);
      if (Status status = internal::write_file(file_, page); !status.ok())
        return context.fail(Status(StatusCode::kIoError, status.message()));
      context.note(std::to_string(report->choices.size()) + " choices, " +
                   std::to_string(report->devices.size()) + " devices, written to " + file_);
      return ExitCode::kOk;
    }
    if (context.format == internal::TableFormat::kJson)
      return context.print_text(internal::report_json(*report) + "\n");
    if (report->choices.empty()) context.note("nothing was measured yet; `moejit tune` does it");
    return context.print(rows(*report));
  }

  static Table rows(const internal::Report& report) {
    Table table({{"device", "device"},
                 {"layer", "layer"},
                 {"routing", "routing"},
                 {"tokens", "tokens"},
                 {"schedule", "schedule"},
                 {"how", "how"},
                 {"served", "served"},
                 {"median_s", "time", Unit::kSeconds},
                 {"predicted_s", "predicted", Unit::kSeconds},
                 {"floor_s", "floor", Unit::kSeconds},
                 {"bytes_per_s", "rate", Unit::kBytesPerS},
                 {"flops_per_s", "rate", Unit::kFlopsPerS},
                 {"share", "of limit", Unit::kShare},
                 {"candidates", "measured", Unit::kNone},
                 {"key", "key", Unit::kNone, /*wide=*/true}});
    for (const internal::ReportChoice& c : report.choices) {
      const internal::SelectionInfo& s = c.selection;
      const double seconds = s.median_s > 0 ? s.median_s : 0;
      table.add({report.devices.empty() ? std::string() : report.devices[c.device].name, c.layer,
                 c.routing, s.tokens, schedule_cell(s.schedule), s.how, c.served,
                 internal::known_if_positive(seconds), internal::known_if_positive(s.predicted_s),
                 internal::known_if_positive(s.floor_s),
                 internal::known_if_positive(seconds > 0 ? c.bytes / seconds : 0),
                 internal::known_if_positive(seconds > 0 ? c.flops / seconds : 0),
                 internal::known_if_positive(c.share()), int64_t{s.candidates}, s.key});
    }
    return table;
  }

  std::string file_, from_;
};

}  // namespace

std::unique_ptr<Command> make_report() {
  return std::make_unique<ReportCommand>();
}

}  // namespace moejit::tools
