#include "algorithms/learned/learned_weights.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "algorithms/learned/features.hpp"

namespace orrery {

void describe(Fields<LearnedLayer>& f) {
  f.list("weights", &LearnedLayer::weights).required().doc("a row for each input");
  f.list("biases", &LearnedLayer::biases).required();
}

namespace {

// Adds what does not fit together in layer `i`, of so many inputs.
void check_layer(const LearnedWeights& w, std::size_t i, std::size_t inputs,
                 const SectionProblems& p) {
  const LearnedLayer& layer = w.layers[i];
  const std::string name = fmt::format("layer {}", i + 1);
  if (layer.weights.size() != inputs)
    p.add("layers",
          fmt::format("{} has weights for {} inputs, not {}", name, layer.weights.size(), inputs),
          i > 0            ? "as many as the layer before has outputs"
          : w.workers == 1 ? "lopt-a has 39 features"
                           : "lagg-a has 38 features and one for each worker");
  for (const std::vector<double>& row : layer.weights)
    if (row.size() != layer.biases.size())
      return p.add("layers", fmt::format("{} has a row of {} weights, but {} biases", name,
                                         row.size(), layer.biases.size()));
}

void check_weights(const LearnedWeights& w, const SectionProblems& p) {
  std::size_t inputs = static_cast<std::size_t>(w.workers) + fixed_features + time_features;
  for (std::size_t i = 0; i < w.layers.size(); ++i) {
    check_layer(w, i, inputs, p);
    inputs = w.layers[i].biases.size();
  }
  if (!w.layers.empty() && inputs != 2)
    p.add("layers", fmt::format("the last layer has {} outputs", inputs), "it has 2: d and s");
  for (const auto& [key, decays] :
       {std::pair{"momentum_decays", &w.momentum_decays}, {"factored_decays", &w.factored_decays}})
    if (decays->size() != decay_count)
      p.add(key, fmt::format("{} decays", decays->size()), "there are 3");
}

}  // namespace

void describe(Fields<LearnedWeights>& f) {
  f.field("note", &LearnedWeights::note).doc("what it is and where it comes from");
  f.field("workers", &LearnedWeights::workers)
      .between(1, 4096)
      .doc("of lagg-a: those whose Deltas are features one by one; 1: lopt-a");
  f.list("layers", &LearnedWeights::layers).required().at_least_items(1);
  f.field("step", &LearnedWeights::step).positive().doc("theta <- theta - step d exp(exponent s)");
  f.field("exponent", &LearnedWeights::exponent).at_least(0);
  f.list("momentum_decays", &LearnedWeights::momentum_decays).between(0, 1);
  f.field("second_moment_decay", &LearnedWeights::second_moment_decay).between(0, 1);
  f.list("factored_decays", &LearnedWeights::factored_decays).between(0, 1);
  f.check([](const LearnedWeights& w, const SectionProblems& p) { check_weights(w, p); });
}

void load_weights(LearnedOptions& options, const Node& said, Problems& problems) {
  namespace fs = std::filesystem;
  const Node* node = said.find("weights");
  if (node == nullptr || options.weights.empty()) return;  // it was missed already
  const std::string from = node->mark.source ? node->mark.source->name : "";
  std::error_code none;
  std::string file;
  for (const fs::path& at :
       {fs::path(options.weights), fs::path(from).parent_path() / options.weights})
    if (file.empty() && fs::is_regular_file(at, none)) file = at.string();
  if (file.empty())
    return problems.add(node->mark, fmt::format("no file '{}'", options.weights),
                        "give the path of the weights of a learned optimizer");
  const Document document = Document::parse_file(file);
  Problems found(document);
  auto weights = read<LearnedWeights>(document, found);
  problems.merge(found);
  if (!found.empty()) return;
  options.weights = file;
  options.loaded = std::make_shared<const LearnedWeights>(std::move(weights));
}

}  // namespace orrery
