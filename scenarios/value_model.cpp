#include "scenarios/value_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "algorithms/ddp.hpp"
#include "scenarios/training.hpp"

namespace orrery {

namespace {

void put(Node& map, const std::string& key, Node value) {
  value.key = key;
  if (Node* there = map.find(key))
    *there = std::move(value);
  else
    map.children.push_back(std::move(value));
}

// What a value model cannot stand for.
void check_timed(const Scenario& s, const Mark& mark, Problems& problems) {
  const ParallelSpec& p = s.parallel;
  const auto refuse = [&](const char* what, const char* advice) {
    problems.add(mark, fmt::format("not available yet: a value model {}", what), advice);
  };
  if (p.tensor * p.context * p.pipeline * p.expert > 1)
    refuse("beside one that is divided over GPUs", "use data parallelism alone");
  if (s.algorithm.plan.sharding.stage > 1)
    refuse("beside one whose gradients or parameters are divided over replicas",
           "use an algorithm that keeps them whole, such as ddp, or zero with stage 1");
  if (s.run.fidelity == Fidelity::flow || s.run.fidelity == Fidelity::messages ||
      !s.run.group_fidelity.empty())
    refuse("over contended links", "set run.fidelity to auto or analytic");
  if (s.machines.stack.interference)
    refuse("where communications slow kernels down", "use a stack without interference");
  if (s.run.folding == Folding::on)
    problems.add(mark, "ranks that compute values differ, so they cannot be folded",
                 "leave run.folding out");
}

// In the measure of the value model, whose every parameter stands for 1/share of the timed one's.
void scale_size(Node& options, const char* key, Bytes usual, double share) {
  Problems none;
  const Node* given = options.find(key);
  const Bytes size = given == nullptr || given->is_null() ? usual : read<Bytes>(*given, none);
  const auto scaled = std::llround(share * static_cast<double>(size.value));
  put(options, key, to_node(Bytes(std::max<std::int64_t>(1, scaled))));
}

void scale_buckets(Node& algorithm, double share) {
  if (Node* inner = algorithm.find("inner"); inner != nullptr && inner->is_map())
    scale_buckets(*inner, share);
  const Node* name = algorithm.find("name");
  if (name == nullptr) return;
  if (name->text == "zero") scale_size(algorithm, "bucket", Bytes(160'000'000), share);
  if (name->text != "ddp") return;
  const DdpOptions usual;
  scale_size(algorithm, "bucket", usual.bucket, share);
  scale_size(algorithm, "first_bucket", usual.first_bucket, share);
}

std::int64_t blocks_of(const Scenario& s) {
  return static_cast<std::int64_t>(make_model(s, nullptr).blocks.size());
}

// Blocks of a fragment such that the value model has as many fragments as the timed one.
void match_fragments(Node& algorithm, const Scenario& timed, const Scenario& twin,
                     const Mark& mark) {
  Node* layers = algorithm.find("fragment_layers");
  if (layers == nullptr || layers->text == "0") return;
  const auto parts = [](std::int64_t blocks, std::int64_t each) {
    return (blocks + each - 1) / each;
  };
  const std::int64_t wanted = parts(blocks_of(timed), std::stoll(layers->text));
  const std::int64_t own = blocks_of(twin);
  for (std::int64_t each = 1; each <= own; ++each)
    if (parts(own, each) == wanted) return put(algorithm, "fragment_layers", to_node(each));
  Problems problems;
  problems.add(mark,
               fmt::format("{} meets in {} fragments, into which the {} blocks of {} do not divide",
                           timed.model_spec.name, wanted, own, twin.model_spec.name),
               "use a value model of more layers, or larger fragment_layers");
  problems.throw_if_any();
}

// The messages of the value model's scenario, which nobody wrote, where it was asked for.
ConfigError at_mark(const ConfigError& error, const Mark& mark) {
  std::vector<ConfigMessage> messages;
  for (const ConfigMessage& m : error.messages)
    messages.push_back(message_at(mark, "of the value model: " + m.text, m.suggestion));
  return ConfigError(std::move(messages));
}

}  // namespace

std::shared_ptr<const Scenario> read_value_model(const Scenario& timed,
                                                 const std::string& data_root, const Mark& mark) {
  Problems problems;
  check_timed(timed, mark, problems);
  problems.throw_if_any();
  const ValueModelSpec& v = *timed.value_model;
  DataSpec data{v.sequence,    timed.data_parallel() * timed.micro_batches() * v.micro_batch,
                v.micro_batch, v.text,
                v.held_out,    v.evaluate_every,
                v.label_skew};
  Node root = to_node(timed);
  root.children.erase(std::remove_if(root.children.begin(), root.children.end(),
                                     [](const Node& n) { return n.key == "value_model"; }),
                      root.children.end());
  put(root, "model", Node::scalar(v.model, true));
  put(root, "data", to_node(data));
  put(*root.find("run"), "values", Node::scalar("real"));
  // What the timed model alone takes time and memory for.
  put(*root.find("precision"), "products", Node::scalar("as-stored"));
  put(*root.find("memory"), "attention", Node::scalar("fused"));
  put(*root.find("memory"), "dropout", Node::scalar("false"));
  put(*root.find("memory"), "recompute", Node::scalar("none"));
  put(*root.find("memory"), "stored_micro_batches", Node::scalar("null"));
  const auto read_twin = [&] {
    return std::make_shared<const Scenario>(
        read_scenario(Document::parse_text(to_yaml(root), timed.file), data_root,
                      {std::nullopt, timed.machines}));
  };
  try {
    std::shared_ptr<const Scenario> twin = read_twin();
    Node& algorithm = *root.find("algorithm");
    scale_buckets(algorithm, static_cast<double>(twin->model_spec.parameters()) /
                                 static_cast<double>(timed.model_spec.parameters()));
    match_fragments(algorithm, timed, *twin, mark);
    return read_twin();
  } catch (const ConfigError& error) {
    throw at_mark(error, mark);
  }
}

}  // namespace orrery
