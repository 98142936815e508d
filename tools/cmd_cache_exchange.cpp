// `moejit cache pack | merge | diff`: caches that travel.
#include "cache/signature.h"
#include "tools/busy.h"
#include "tools/cache_common.h"

namespace moejit::tools {
namespace {

class CachePack : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.positional("file", &file_, "The pack to write", true);
    options.value("--backend", "NAME", &options_.backend, "Only of this backend");
    options.value("--arch", "NAME", &options_.arch, "Only of this architecture");
    options.value("--toolchain", "NAME", &options_.toolchain, "Only of this compiler");
    options.flag("--no-kernels", &no_kernels_, "Choices alone");
    options.flag("--losers", &options_.losers, "Also kernels that were not chosen");
    options.flag("--measurements", &options_.measurements, "Also every measurement");
    options.value("--sign", "KEY", &options_.sign,
                  "Sign with this secret key (cache keygen), into FILE.sig");
  }

  ExitCode run(Context& context) override {
    auto place = place_.resolve();
    if (!place.ok()) return context.fail(place.status());
    options_.binaries = !no_kernels_;
    auto report = while_busy(context, "packing",
                             [&] { return internal::pack_cache(*place, file_, options_); });
    if (!report.ok()) return context.fail(report.status());
    Table table({{"path", "pack"},
                 {"bytes", "size", Unit::kBytes},
                 {"binaries", "kernels"},
                 {"selections", "choices"},
                 {"measurements", "measurements"},
                 {"sha256", "sha256"},
                 {"signature", "signature"}});
    table.add({report->path, report->bytes, report->binaries, report->selections,
               report->measurements, report->sha256,
               report->signature.empty() ? Cell() : Cell(report->signature)});
    return context.print(table);
  }

  PlaceSelector place_;
  internal::PackOptions options_;
  std::string file_;
  bool no_kernels_ = false;
};

class CacheMerge : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.positional("source", &source_, "A pack, or the directory of another cache", true);
    options.value("--sha256", "HEX", &options_.sha256, "Refuse a pack with another hash");
    options.value(
        "--trust", "KEYS", &options_.trust,
        "Refuse a pack that no key of this file signed; takes machine code of one that is");
    options.flag("--cpu-code", &options_.cpu_code,
                 "Take machine code for the CPU too: it runs in the processes that use this cache");
    options.value("--margin", "SHARE", &options_.margin,
                  "A choice must be faster than ours by this share; default: 0.03");
    options.flag("--dry-run", &options_.dry_run, "Only say what would be taken");
  }

  ExitCode run(Context& context) override {
    if (!(options_.margin >= 0 && options_.margin < 1)) {
      return context.fail(invalid_argument("margin = " + std::to_string(options_.margin) +
                                           ": must be at least 0 and below 1"));
    }
    auto place = place_.resolve_to_change();
    if (!place.ok()) return context.fail(place.status());
    auto report = while_busy(context, "merging", [&] {
      return internal::merge_cache(*place, place_at(source_), options_);
    });
    if (!report.ok()) {
      const ExitCode code = context.fail(report.status());
      return report.status().code() == StatusCode::kDataError ? ExitCode::kWrong : code;
    }
    Table table({{"what", "what"},
                 {"taken", "taken"},
                 {"known", "known or kept"},
                 {"refused", "refused"},
                 {"damaged", "damaged"}});
    table.add({std::string("kernels"), report->binaries, report->binaries_known,
               report->binaries_refused, report->binaries_damaged});
    table.add({std::string("choices"), report->selections, report->selections_kept, Cell(),
               report->selections_damaged});
    table.add({std::string("measurements"), report->measurements, report->measurements_known,
               Cell(), Cell()});
    table.add({std::string("devices"), report->environments, Cell(), Cell(), Cell()});
    const ExitCode printed = context.print(table);
    if (report->binaries_refused > 0) {
      context.note(
          std::to_string(report->binaries_refused) +
          " kernels for the CPU were left out; --cpu-code takes them from a source that you trust,"
          " --trust KEYS from a signed pack");
    }
    if (report->binaries_damaged > 0) {
      context.note(std::to_string(report->binaries_damaged) +
                   " kernels were left out: they fail their SHA-256");
    }
    if (report->selections_damaged > 0) {
      context.note(std::to_string(report->selections_damaged) +
                   " choices were left out: no tune can have found their time or schedule");
    }
    if (!report->signed_by.empty()) context.note("signed by " + report->signed_by);
    if (printed != ExitCode::kOk) return printed;
    const bool whole = report->binaries_damaged == 0 && report->selections_damaged == 0;
    return whole ? ExitCode::kOk : ExitCode::kPartial;
  }

  PlaceSelector place_;
  internal::MergeOptions options_;
  std::string source_;
};

class CacheKeygen : public Command {
  void declare(OptionSet& options) override {
    options.positional("file", &file_, "The secret key to write; the public one is FILE.pub", true);
  }

  ExitCode run(Context& context) override {
    const auto key = internal::make_signing_key(file_);
    if (!key.ok()) return context.fail(key.status());
    Table table({{"secret", "secret key"}, {"public", "public key"}, {"key", "key"}});
    table.add({file_, file_ + ".pub", *key});
    return context.print(table);
  }

  std::string file_;
};

class CacheDiff : public Command {
  void declare(OptionSet& options) override {
    place_.declare(options);
    options.positional("places", &places_, "One place, compared with the cache, or two", true);
  }

  ExitCode run(Context& context) override {
    if (places_.size() > 2) {
      return context.fail(invalid_argument("places: " + std::to_string(places_.size()) +
                                           " were given; must be one or two"));
    }
    auto own = place_.resolve();
    if (places_.size() == 1 && !own.ok()) return context.fail(own.status());
    const internal::CachePlace first = places_.size() == 2 ? place_at(places_[0]) : *own;
    auto lines = while_busy(context, "comparing",
                            [&] { return internal::diff_caches(first, place_at(places_.back())); });
    if (!lines.ok()) {
      const ExitCode code = context.fail(lines.status());
      return lines.status().code() == StatusCode::kDataError ? ExitCode::kWrong : code;
    }
    Table table({{"side", ""},
                 {"kind", "kind"},
                 {"key", "key"},
                 {"what", "what"},
                 {"first", "first"},
                 {"second", "second"}});
    for (const internal::DiffLine& line : *lines) {
      table.add({std::string(1, line.side), line.kind, shown_key(context, line.key), line.what,
                 line.first.empty() ? Cell() : Cell(line.first),
                 line.second.empty() ? Cell() : Cell(line.second)});
    }
    return context.print(table);
  }

  PlaceSelector place_;
  std::vector<std::string> places_;
};

}  // namespace

std::unique_ptr<Command> make_cache_pack() {
  return std::make_unique<CachePack>();
}
std::unique_ptr<Command> make_cache_keygen() {
  return std::make_unique<CacheKeygen>();
}
std::unique_ptr<Command> make_cache_merge() {
  return std::make_unique<CacheMerge>();
}
std::unique_ptr<Command> make_cache_diff() {
  return std::make_unique<CacheDiff>();
}

}  // namespace moejit::tools
