#include "arguments.h"

#include <CLI/CLI.hpp>

namespace moejit::gpu_bench {

std::optional<Arguments> parse_arguments(int argc, char** argv, int* exit_status) {
  Arguments args;
  CLI::App app("Correctness and speed of the GPU families at their real sizes, without the cache.");
  app.require_subcommand(1);
  const auto verb = [&](const char* name, const char* help) {
    CLI::App* sub = app.add_subcommand(name, help);
    sub->callback([&args, name] { args.verb = name; });
    return sub;
  };
  CLI::App* check = verb("check", "Every family on layers that use every config field.");
  CLI::App* compile = verb("compile", "Compiles what check would run, on a machine without a GPU.");
  CLI::App* limits = verb("limits", "Read bandwidth, tensor rate, cuBLAS.");
  CLI::App* perf = verb("perf", "Times schedules of a layer, in rounds.");
  CLI::App* model = verb("model", "The model's error on what perf measured; needs no GPU.");
  CLI::App* shares = verb("shares", "Shares of two limits, and their means; needs no GPU.");

  for (CLI::App* sub : {check, compile, limits, perf})
    sub->add_option("--device", args.device, "cuda:0, or cuda:sm_90a to compile only");
  std::string arch = "sm_90a";
  model->add_option("--device", arch, "architecture that was measured")->capture_default_str();
  for (CLI::App* sub : {check, compile, perf}) {
    sub->add_option("--layer", args.layer, sub == perf ? "such as qwen3-30b-a3b" : "only this one")
        ->required(sub == perf);
    sub->add_option("--family", args.family, "only schedules of this family");
    sub->add_option("--samples", args.samples, "schedules of each family, or of the model's list")
        ->check(CLI::PositiveNumber);
    sub->add_option("--schedule", args.schedule, "these, as JSON, separated by ';'");
  }
  for (CLI::App* sub : {limits, perf})
    sub->add_option("--json", args.json, "appends rows here, behind the limits of the run");
  for (CLI::App* sub : {model, shares})
    sub->add_option("--json", args.json, "file that perf wrote")->required();

  perf->add_option("--tokens", args.tokens, "T, or several: 1,8,64")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->required();
  perf->add_option("--routing", args.routing, "uniform, zipf:S or trace:FILE")
      ->capture_default_str();
  perf->add_option("--rounds", args.rounds, "over all schedules")->check(CLI::PositiveNumber);
  perf->add_option("--repeats", args.repeats, "launches of a schedule in a round")
      ->check(CLI::PositiveNumber);
  perf->add_option("--check-operations", args.check_operations,
                   "of the float64 reference of each schedule; 0: none");
  perf->add_option("--routed", args.routed, "1: with the router");
  perf->add_option("--best", args.best, "1: prints the fastest alone");
  perf->add_option("--entries", args.entries, "1: each entry behind those before it, too");
  perf->add_option("--beside", args.beside,
                   "1: a large product of cuBLAS after every launch, so that both meet the same "
                   "clocks");
  shares->add_option("--read", args.read, "bytes/s, such as 4.66e12")
      ->check(CLI::PositiveNumber)
      ->required();
  shares
      ->add_option("--dot", args.dot,
                   "FLOP/s, such as 7.5e14; rows of perf --beside use the product's own")
      ->check(CLI::PositiveNumber)
      ->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    *exit_status = app.exit(e) == 0 ? 0 : 2;
    return std::nullopt;
  }
  if (args.verb == "model") args.device = arch;
  return args;
}

}  // namespace moejit::gpu_bench
