// Fuzzes the configuration reader: the input is a YAML document, whose comment lines `#set
// PATH=VALUE` are also applied as settings. Whatever the input, reading gives a value or a
// ConfigError whose messages lie in the text; a value reads back from its resolved dump.
#include <algorithm>
#include <cstdlib>

#include "backend/core/text.hpp"
#include "tests/core/sample_config.hpp"
#include "tests/fuzz/invariants.hpp"
#include "tests/fuzz/yaml_mutator.hpp"

using namespace orrery;
using fuzz::require;

namespace {

// Numbers and quantities that can be read are written so that they read back.
void check_quantity(const std::string& text) {
  for (const Dimension unit : {Dimension::none, Dimension::bytes_per_second, Dimension::flops,
                               Dimension::flops_per_second, Dimension::seconds, Dimension::watts})
    if (const auto value = parse_quantity(text, unit).value)
      require(parse_quantity(quantity_text(*value, unit), unit).value == value,
              "a quantity that does not read back", text);
  if (const auto size = parse_bytes(text).value)
    require(parse_bytes(quantity_text(*size)).value == size, "a size that does not read back",
            text);
}

// The first numbers of the document; more would cost the fuzzer more runs than they are worth.
void check_quantities(const Node& node, int& left) {
  if (node.is_scalar() && left > 0 && !node.text.empty() && node.text[0] <= '9') {
    check_quantity(node.text);
    --left;
  }
  for (const Node& child : node.children) check_quantities(child, left);
}

// The planted build looks for its crash alone, at several times the speed.
#ifdef ORRERY_FUZZ_PLANTED
constexpr bool only_planted = true;
#else
constexpr bool only_planted = false;
#endif

// Needs a document that is valid throughout with a unit that no seed has at that key.
void planted([[maybe_unused]] const sample::Scenario& scenario) {
#ifdef ORRERY_FUZZ_PLANTED
  for (const sample::Link& link : scenario.links)
    if (link.latency >= Seconds(1e-3)) std::abort();
#endif
}

struct Both {
  sample::Scenario scenario;
  sample::Zero zero;
};

Both read_both(const Document& document) {
  Problems problems;
  Both both;
  both.scenario = read<sample::Scenario>(document, problems);
  both.zero = read<sample::Zero>(both.scenario.algorithm.options, problems);
  problems.throw_if_any();
  return both;
}

// Reads, dumps and reads again.
void run_scenario(Document document, const std::vector<std::string>& settings) {
  for (const std::string& setting : settings) document.set(setting);
  const Both both = read_both(document);
  planted(both.scenario);
  if (only_planted) return;
  const std::string dump = resolved_yaml(both.scenario);
  try {
    const Both again = read_both(Document::parse_text(dump, "dump"));
    require(resolved_yaml(again.scenario) == dump, "a dump that reads back differently", dump);
    require(resolved_yaml(again.zero) == resolved_yaml(both.zero), "options that differ", dump);
  } catch (const ConfigError& error) {
    require(false, "a dump that does not read back", dump + error.what());
  }
}

// Reads a file in which numbers need sources.
void run_gpu(const Document& document) {
  const auto gpu = read<sample::Gpu>(document, {.sources = Sources::required});
  require(gpu.capacity.source.has_value(), "a number without a source");
}

}  // namespace

namespace {
constexpr std::size_t longest = 640;  // short documents reach all code and run faster
}

// Short stacks for allocations, which are most of what the sanitizer costs here.
extern "C" const char* __asan_default_options() { return "malloc_context_size=2"; }

extern "C" std::size_t LLVMFuzzerCustomMutator(unsigned char* data, std::size_t size,
                                               std::size_t max, unsigned seed) {
  static const fuzz::Vocabulary vocabulary{
      {"model", "data",   "sequence",  "mode",      "none",    "selective", "full",
       "links", "kind",   "pcie",      "bandwidth", "latency", "peak",      "algorithm",
       "name",  "zero",   "stage",     "bucket",    "true",    "false",     "null",
       "value", "source", "datasheet", "measured",  "fitted",  "assumed"},
      {"", "B", "GB", "KiB", "GBps", "Gbps", "TFLOP", "TFLOPS", "s", "ms", "us", "min", "W", "kW"},
      {"mode: full", "capacity: 1GiB", "power: 1kW", "sizes: [1, 2]", "peak: {bf16: 1TFLOPS}",
       "links: [{bandwidth: 1GBps}]", "twin: {sequence: 4}", "recompute: [a, *a]",
       "recompute: &a b", "work: 1FLOP", "#set sizes[0]=3", "#set algorithm.bucket=1MB",
       "source: {kind: assumed}"}};
  return fuzz::mutate_yaml(vocabulary, data, std::min(size, longest), std::min(max, longest), seed);
}

extern "C" int LLVMFuzzerTestOneInput(const unsigned char* data, std::size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), std::min(size, longest));
  const bool marked =
      input.compare(0, 3, "\xEF\xBB\xBF") == 0;  // the reader drops a byte order mark
  const std::string text = marked ? input.substr(3) : input;
  const std::vector<std::string> settings = fuzz::settings_of(input);
  try {
    const Document document = Document::parse_text(input, "input");
    int numbers = 2;
    check_quantities(document.root(), numbers);
    if (document.root().find("name") != nullptr)
      run_gpu(document);
    else
      run_scenario(document, settings);
    fuzz::valid_inputs().keep(input);
  } catch (const ConfigError& error) {
    if (!only_planted) fuzz::check_messages(error, text, settings);
  }
  return 0;
}
