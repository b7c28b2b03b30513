// Fuzzes the readers of models: the input is our YAML, or a Hugging Face config.json when it opens
// a brace. Whatever the input, reading gives a ConfigError whose messages lie in the text, or a
// model whose size and cost are finite, positive and those of each other.
#include <algorithm>
#include <cmath>

#include "scenarios/flop_rule.hpp"
#include "scenarios/model_spec.hpp"
#include "tests/fuzz/invariants.hpp"
#include "tests/fuzz/yaml_mutator.hpp"

using namespace orrery;
using fuzz::require;

namespace {

// Needs a valid model with far more layers, or a far wider one, than any valid seed.
void planted([[maybe_unused]] const ModelSpec& model) {
#ifdef ORRERY_FUZZ_PLANTED
  if (model.layers() >= 1000 || model.transformer.hidden >= 100'000) std::abort();
#endif
}

// The planted build looks for its crash alone, at several times the speed.
#ifdef ORRERY_FUZZ_PLANTED
constexpr bool only_planted = true;
#else
constexpr bool only_planted = false;
#endif

void check_model(const ModelSpec& model) {
  const std::int64_t parameters = model.parameters();
  require(parameters > 0, "a model without parameters");
  require(model.layers() > 0, "a model without layers");
  for (const std::int64_t sequence : {1, 4096})
    for (const FlopRule rule :
         {FlopRule::full, FlopRule::megatron_causal, FlopRule::palm, FlopRule::six_n}) {
      const double flops = flops_per_step(model, sequence, 2, rule).value;
      require(std::isfinite(flops) && flops > 0, "FLOPs that are no number");
      require(executed_flops_per_step(model, sequence, 2, rule, Recomputed::layers).value >= flops,
              "recomputation that costs less than nothing");
    }
}

constexpr std::size_t longest = 800;

}  // namespace

// Short stacks for allocations, which are most of what the sanitizer costs here.
extern "C" const char* __asan_default_options() { return "malloc_context_size=2"; }

extern "C" std::size_t LLVMFuzzerCustomMutator(unsigned char* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  static const fuzz::Vocabulary vocabulary{
      {"transformer",
       "mlp",
       "resnet",
       "fno",
       "layer",
       "rms",
       "gelu",
       "relu",
       "silu",
       "true",
       "false",
       "null",
       "llama",
       "mistral",
       "qwen2",
       "qwen3",
       "gpt2",
       "gpt_neo",
       "gpt_neox",
       "hidden_size",
       "head_dim",
       "num_key_value_heads",
       "intermediate_size",
       "sliding_window"},
      {"", "e3", "e6", ".5"},
      {"kind: mlp",
       "kind: fno",
       "kind: resnet",
       "depth: 50",
       "image: 32",
       "parametrisation: mu",
       "base_width: 32",
       "window: 4096",
       "kv_heads: 2",
       "head_size: 100000",
       "ffn: 10000000",
       "hidden: 1000000",
       "layers: 100000",
       "grid: [64, 64, 64]",
       "modes: [8, 8, 8]",
       "qk_norm: true",
       "\"n_embd\": 1000000,",
       "\"head_dim\": 100000,",
       "\"sliding_window\": 9,",
       "\"use_sliding_window\": true,",
       "\"model_type\": \"qwen3\",",
       "\"num_experts\": 1,"},
  };
  return fuzz::mutate_yaml(vocabulary, data, std::min(size, longest), std::min(max, longest), seed);
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min(size, longest));
  try {
    const Document document = Document::parse_text(input, "input");
    const ModelSpec model = input.find_first_of("{") == 0 ? model_from_hugging_face(document)
                                                          : model_from_yaml(document);
    planted(model);
    if (!only_planted) check_model(model);
    fuzz::valid_inputs().keep(input);
  } catch (const ConfigError& error) {
    if (!only_planted) fuzz::check_messages(error, fuzz::without_mark(input), {});
  }
  return 0;
}
