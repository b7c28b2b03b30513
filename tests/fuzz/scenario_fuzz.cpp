// Fuzzes the reader of scenarios: the input is a YAML document, whose comment lines `#set
// PATH=VALUE` are also applied as settings. Whatever the input, reading gives a ConfigError whose
// messages lie in the text, or a scenario that has a plan, a cost and a model, or says which part
// of the model is not available.
#include <algorithm>
#include <cmath>

#include "scenarios/training.hpp"
#include "tests/fuzz/invariants.hpp"
#include "tests/fuzz/yaml_mutator.hpp"

using namespace orrery;
using fuzz::require;

namespace {

// A few small files, which read faster than those that users get.
const std::string root = ORRERY_SOURCE_DIR "/tests/fuzz/data";

// The planted build looks for its crash alone, at several times the speed.
#ifdef ORRERY_FUZZ_PLANTED
constexpr bool only_planted = true;
#else
constexpr bool only_planted = false;
#endif

// Needs a valid scenario with a precision that no seed has besides what one of them has.
void planted([[maybe_unused]] const Scenario& scenario) {
#ifdef ORRERY_FUZZ_PLANTED
  if (scenario.recompute && scenario.run.flop_rule == FlopRule::palm &&
      scenario.precision.reduction == Dtype::bf16)
    std::abort();
#endif
}

void check_scenario(const Scenario& s) {
  const Grid grid = s.grid();
  require(grid.size() == s.gpus(), "a plan for another number of GPUs");
  require(s.micro_batches() >= 1, "a step without micro-batches");
  require(s.data_parallel() >= 1, "a plan without replicas");
  const double flops = s.flops_per_step().value;
  require(std::isfinite(flops) && flops > 0, "FLOPs that are no number");
  require(s.executed_flops_per_step(s.run.flop_rule).value >= flops,
          "recomputation that costs less than nothing");
  require(s.tokens_per_step() >= s.data.global_batch, "a sample without tokens");
  try {
    const Model model = make_model(s, nullptr);
    require(model.parameter_elements() == s.model_spec.parameters(),
            "another number of parameters");
  } catch (const Error& error) {
    require(error.category() == Category::config, "an error of another category", error.what());
  }
}

// Reads, dumps and reads again.
void run_scenario(Document document, const std::vector<std::string>& settings) {
  for (const std::string& setting : settings) document.set(setting);
  const Scenario scenario = read_scenario(document, root);
  planted(scenario);
  if (only_planted) return;
  check_scenario(scenario);
  const std::string dump = resolved_yaml(scenario);
  try {
    const Scenario again = read_scenario(Document::parse_text(dump, "dump"), root);
    require(resolved_yaml(again) == dump, "a dump that reads back differently", dump);
  } catch (const ConfigError& error) {
    require(false, "a dump that does not read back", dump + error.what());
  }
}

constexpr std::size_t longest = 640;

}  // namespace

extern "C" const char* __asan_default_options() { return "malloc_context_size=2"; }

extern "C" std::size_t LLVMFuzzerCustomMutator(unsigned char* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  static const fuzz::Vocabulary vocabulary{
      {"gpt2",    "gpt-bytes",      "mlp-bytes",     "resnet-50", "fno-2d", "pythia-1b",
       "ddp",     "none",           "sgd",           "momentum",  "adamw",  "gpipe",
       "1f1b",    "zb-h1",          "full",          "selective", "fp32",   "bf16",
       "fp16",    "one-dgx-a100",   "two-dgx-a100",  "generic",   "gpl-3",  "real",
       "virtual", "flow",           "true",          "false",     "null",   "palm",
       "6n",      "tp-cp-ep-dp-pp", "pp-dp-ep-cp-tp"},
      {"", "B", "MB", "KiB", "us", "GBps"},
      {"parallel: {pipeline: 2}", "parallel: {pipeline: 3, schedule: gpipe}",
       "memory: {recompute: full}", "precision: {reduction: bf16}", "run: {steps: 2}",
       "run: {values: real}", "data: {sequence: 1000000000, global_batch: 1000000000}",
       "#set data.micro_batch=1000000000", "#set data.sequence=9", "#set parallel.pipeline=2",
       "#set platform.gpus=8", "#set run.flop_rule=palm", "#set model=gpt2"}};
  return fuzz::mutate_yaml(vocabulary, data, std::min(size, longest), std::min(max, longest), seed);
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min(size, longest));
  const std::vector<std::string> settings = fuzz::settings_of(input);
  try {
    run_scenario(Document::parse_text(input, "input"), settings);
    fuzz::valid_inputs().keep(input);
  } catch (const ConfigError& error) {
    if (!only_planted) fuzz::check_messages(error, fuzz::without_mark(input), settings);
  }
  return 0;
}
