#include "moejit/config.h"
#include "tools/command.h"

namespace moejit::tools {
namespace {

class Models : public Command {
  void declare(OptionSet& options) override {
    options.positional("name", &names_, "Only these", false);
  }

  ExitCode run(Context& context) override {
    std::vector<ModelPreset> presets;
    for (const std::string& name : names_) {
      auto preset = find_model_preset(name);
      if (!preset.ok()) return context.fail(preset.status());
      presets.push_back(*preset);
    }
    if (names_.empty()) presets = model_presets();

    Table table({{"name", "name"},
                 {"num_experts", "E"},
                 {"top_k", "K"},
                 {"hidden_size", "H"},
                 {"intermediate_size", "I"},
                 {"num_shared_experts", "shared", Unit::kNone, /*wide=*/true},
                 {"dtype", "dtype", Unit::kNone, /*wide=*/true},
                 {"activation", "activation"},
                 {"scoring", "scoring", Unit::kNone, /*wide=*/true},
                 {"moe_layers", "layers"},
                 {"weight_bytes", "one layer", Unit::kBytes},
                 {"source", "source"},
                 {"note", "note", Unit::kNone, /*wide=*/true},
                 {"config", "config", Unit::kNone, /*wide=*/true}});
    for (const ModelPreset& preset : presets) {
      const MoeConfig& c = preset.config;
      const int64_t weights = int64_t{c.total_experts()} * (c.w13_rows() + c.intermediate_size) *
                              c.hidden_size * size_of(c.dtype);
      table.add({preset.name, int64_t{c.num_experts}, int64_t{c.top_k}, int64_t{c.hidden_size},
                 int64_t{c.intermediate_size}, int64_t{c.num_shared_experts},
                 std::string(to_string(c.dtype)), std::string(to_string(c.activation)),
                 std::string(to_string(c.router.scoring)),
                 preset.moe_layers > 0 ? Cell(int64_t{preset.moe_layers}) : Cell(), weights,
                 preset.source, preset.note, internal::JsonText{c.to_json(), ""}});
    }
    return context.print(table);
  }

  std::vector<std::string> names_;
};

}  // namespace

std::unique_ptr<Command> make_models() {
  return std::make_unique<Models>();
}

}  // namespace moejit::tools
