// Reading a scenario: keys, relations between them, and the files that it names.
#include "scenarios/scenario.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <fstream>
#include <tuple>

#include "backend/core/text.hpp"
#include "scenarios/check_memory.hpp"
#include "scenarios/check_pipeline.hpp"
#include "scenarios/label_skew.hpp"
#include "scenarios/replica_checks.hpp"
#include "scenarios/value_model.hpp"

namespace orrery {

namespace fs = std::filesystem;

namespace {

std::string data_group(const Scenario& s) {
  return fmt::format("{} GPUs / (tensor {} x context {} x pipeline {})", s.gpus(),
                     s.parallel.tensor, s.parallel.context, s.parallel.pipeline);
}

// The multiples of `unit` nearest to n, of which n is none.
std::string nearest_multiples(std::int64_t n, std::int64_t unit) {
  const std::int64_t below = n / unit * unit;
  return below == 0 ? fmt::format("use {}", unit)
                    : fmt::format("use {} or {}", below, below + unit);
}

// "tp-cp-ep-dp-pp" as axes; empty when it is not a permutation of these five.
std::vector<Axis> axes_of(const std::string& order) {
  std::vector<Axis> out;
  for (const std::string& piece : split(order, '-')) {
    if (piece == "tp")
      out.push_back(Axis::tensor);
    else if (piece == "cp")
      out.push_back(Axis::context);
    else if (piece == "ep")
      out.push_back(Axis::expert);
    else if (piece == "dp")
      out.insert(out.end(), {Axis::shard, Axis::replicate});
    else if (piece == "pp")
      out.push_back(Axis::pipeline);
    else
      return {};
  }
  out.push_back(Axis::island);
  std::vector<Axis> sorted = out;
  std::sort(sorted.begin(), sorted.end());
  const bool repeats = std::adjacent_find(sorted.begin(), sorted.end()) != sorted.end();
  return repeats || sorted.size() != axis_count ? std::vector<Axis>{} : out;
}

void check_parallel(const Scenario& s, Problems& problems) {
  const ParallelSpec& p = s.parallel;
  const bool own = s.algorithm.plan.runs_stages;
  if (p.schedule == "petra" && !own)
    problems.add("parallel.schedule",
                 fmt::format("schedule petra is an order for petra and its relatives, not for {}",
                             s.algorithm.name),
                 "use algorithm petra, or schedule pipedream or pipedream-2bw");
  const auto& composes = find_algorithm(s.algorithm.name)->composes_with;
  const bool holds = std::find(composes.begin(), composes.end(), "tensor") != composes.end();
  if (own && holds &&
      (p.tensor > 1 || p.context > 1 || p.expert > 1))  // else check_composition tells
    refuse(problems, "algorithm.inner", "stages that several ranks share", "use none or ddp");
  if (own && holds && s.recompute)
    problems.add("memory.recompute",
                 "what a stage computes again is the inner algorithm's own choice", "leave it out");
  if (own && p.schedule != "petra" && p.schedule != "1f1b")
    problems.add("parallel.schedule", fmt::format("{} has no schedule but petra", s.algorithm.name),
                 "leave it out: its stages go on as messages arrive");
  if (axes_of(p.order).empty())
    problems.add("parallel.order",
                 fmt::format("'{}' is no order of tp, cp, ep, dp and pp", p.order),
                 "write tp-cp-ep-dp-pp, in any order");
}

// What divides a replica, against what the algorithm can live with.
void check_composition(const Scenario& s, Problems& problems) {
  const AlgorithmEntry& entry = *find_algorithm(s.algorithm.name);
  const ParallelSpec& p = s.parallel;
  for (const auto& [path, what, used] : {std::tuple{"parallel.tensor", "tensor", p.tensor > 1},
                                         {"parallel.context", "context", p.context > 1},
                                         {"parallel.expert", "expert", p.expert > 1},
                                         {"parallel.pipeline", "pipeline", p.pipeline > 1},
                                         {"memory.recompute", "recompute", s.recompute}}) {
    const std::vector<std::string>& fine = entry.composes_with;
    if (!used || std::find(fine.begin(), fine.end(), what) != fine.end()) continue;
    const std::string text = fmt::format("{} does not compose with {}", entry.name, what);
    const auto why = std::find_if(entry.refuses.begin(), entry.refuses.end(),
                                  [what = what](const Refusal& r) { return r.what == what; });
    problems.add(path, why == entry.refuses.end() ? text : text + ": " + why->reason,
                 fine.empty() ? "" : "it composes with " + join(fine, ", "));
  }
  const bool mu = s.model_spec.mlp.parametrisation == Parametrisation::mu ||
                  s.model_spec.transformer.parametrisation == Parametrisation::mu;
  for (const Refusal& refusal : entry.refuses) {
    if (p.sequence_parallel && p.tensor > 1 && refusal.what == "sequence")
      problems.add("parallel.sequence_parallel",
                   fmt::format("{} does not compose with sequence parallelism: {}", entry.name,
                               refusal.reason),
                   "use tensor parallelism without it");
    if (mu && refusal.what == "mu")
      problems.add("algorithm.name",
                   fmt::format("{} does not compose with parametrisation mu: {}", entry.name,
                               refusal.reason),
                   "use another algorithm, or the standard parametrisation");
  }
}

// A name of fidelity at `path`; `automatic`, with a problem, where it is none.
Fidelity fidelity_of(const Node& node, const std::string& path, Problems& problems) {
  static constexpr std::pair<const char*, Fidelity> known[]{{"auto", Fidelity::automatic},
                                                            {"analytic", Fidelity::analytic},
                                                            {"flow", Fidelity::flow},
                                                            {"messages", Fidelity::messages}};
  std::vector<std::string> names;
  for (const auto& [text, fidelity] : known) {
    if (node.is_scalar() && node.text == text) return fidelity;
    names.push_back(text);
  }
  problems.add(path,
               fmt::format("{}: {} is not one of {}", path, kind_text(node), join(names, ", ")),
               node.is_scalar() ? did_you_mean(node.text, names) : "");
  return Fidelity::automatic;
}

// Whether some group can be called that: axes, or an axis and how far an edge goes along it.
bool names_group(const std::string& group) {
  for (const std::string& part : split(group, '+')) {
    std::string axis = part.substr(0, part.find('-'));
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    bool known = number;
    for (int a = 0; a < axis_count; ++a) known = known || axis == name(static_cast<Axis>(a));
    if (!known) return false;
  }
  return true;
}

void check_fidelity(RunSpec& run, Problems& problems) {
  if (!run.network.is_map()) {
    run.fidelity = fidelity_of(run.network, "run.fidelity", problems);
    return;
  }
  for (const Node& group : run.network.children) {
    const std::string path = "run.fidelity." + group.key;
    const Fidelity fidelity = fidelity_of(group, path, problems);
    if (group.key == "others")
      run.fidelity = fidelity;
    else if (names_group(group.key))
      run.group_fidelity.emplace_back(group.key, fidelity);
    else
      problems.add(path, fmt::format("no group can be called '{}'", group.key),
                   "such as replicate, shard+replicate, tensor, pipeline+1, or others");
  }
}

void check_run(Scenario& s, Problems& problems) {
  check_fidelity(s.run, problems);
  const auto moves = [](Fidelity f) { return f == Fidelity::flow || f == Fidelity::messages; };
  bool flows = moves(s.run.fidelity);
  for (const auto& [group, fidelity] : s.run.group_fidelity) flows = flows || moves(fidelity);
  if (s.platform.throttle && flows)
    problems.add("platform.throttle", "throttled links are timed by a formula, not by flows",
                 "set run.fidelity to auto or analytic, or leave platform.throttle out");
  if (s.run.replicas > 1 && s.cluster_conditions.perfect())
    problems.add("run.replicas", "all replicas of a perfect cluster are equal",
                 "give cluster_conditions, or leave it out");
}

// What learning from pictures asks for.
void check_pictures(const Scenario& s, Problems& problems) {
  if (!s.data.text)
    return problems.add("run.values", "real values need pictures to learn from",
                        "set data.text to a file of records: a label, then 3 x height x width");
  const std::int64_t record =
      3 * std::int64_t{s.model_spec.resnet.image} * s.model_spec.resnet.image + 1;
  std::error_code none;
  const auto bytes = static_cast<std::int64_t>(fs::file_size(*s.data.text, none));
  if (!none && (bytes == 0 || bytes % record != 0))
    return problems.add("data.text",
                        fmt::format("{} bytes are no whole records of {}", bytes, record),
                        "give pictures of the model's size");
  std::ifstream file(*s.data.text, std::ios::binary);
  for (std::int64_t i = 0; i * record < bytes; ++i)
    if (const int label = file.seekg(i * record).get(); label >= s.model_spec.resnet.classes) {
      problems.add("data.text",
                   fmt::format("the label of record {} is {}, of {} classes", i + 1, label,
                               s.model_spec.resnet.classes),
                   "give the model as many classes as the pictures have");
      break;
    }
  if (s.data.held_out > 0)
    refuse(problems, "data.held_out", "the loss on held-out pictures", "leave it out");
}

// What learning from a text asks for.
void check_values(const Scenario& s, Problems& problems) {
  const ModelSpec& m = s.model_spec;
  if (s.value_model)
    return problems.add("run.values", "beside value_model, which has them under a simulated clock",
                        "use virtual, or leave value_model out");
  if (m.timing_only())
    return refuse(problems, "run.values", fmt::format("real values of {}", m.name), "use virtual");
  if (s.memory.attention == AttentionKind::stored)
    refuse(problems, "memory.attention", "real values of attention that stores its scores",
           "use fused, whose values are the same");
  if (s.memory.dropout) refuse(problems, "memory.dropout", "real values of dropout", "use false");
  if (s.precision.products != Products::as_stored && s.recompute_every_second)
    refuse(problems, "memory.recompute",
           "real values of fp8 products of which every second runs again", "use none or full");
  if (s.precision.products == Products::nvfp4)
    refuse(problems, "precision.products", "real values of products in NVFP4", "use mxfp8");
  if (m.kind == ModelKind::resnet) return check_pictures(s, problems);
  const std::int64_t vocabulary =
      m.kind == ModelKind::mlp ? m.mlp.vocabulary : m.transformer.vocabulary;
  if (!s.data.text)
    problems.add("run.values", "real values need a text to learn from",
                 "set data.text, for instance to gpl-3");
  if (vocabulary < 256)
    problems.add("run.values",
                 fmt::format("a text has 256 different bytes, but model {} has a "
                             "vocabulary of {}",
                             m.name, vocabulary),
                 "use virtual, or another model");
  if (s.data.held_out > 0 && s.parallel.pipeline > 1)
    refuse(problems, "data.held_out", "the loss on held-out text of a model in several stages",
           "leave it out, or use 1 stage");
  if (s.data.held_out > 0 && s.parallel.context > 1)
    refuse(problems, "data.held_out", "the loss on held-out text of divided sequences",
           "leave it out, or use parallel.context 1");
}

// What concerns the model: sequence, text, stages.
void check_model(Scenario& s, Problems& problems) {
  const ModelSpec& m = s.model_spec;
  if (m.kind == ModelKind::mlp) {
    if (s.data.sequence && *s.data.sequence != m.mlp.context)
      problems.add("data.sequence",
                   fmt::format("{} tokens per sample, but model {} looks at {}", *s.data.sequence,
                               m.name, m.mlp.context),
                   "leave it out");
    s.data.sequence = m.mlp.context;
  } else if (m.by_blocks()) {
    if (s.data.sequence && *s.data.sequence != 1)
      problems.add("data.sequence", fmt::format("samples of {} are no sequences", m.name),
                   "leave it out");
    s.data.sequence = 1;
  } else if (!s.data.sequence) {
    problems.add("data", "missing key 'sequence' in data",
                 "a transformer needs the tokens per sample");
  } else if (m.transformer.max_positions > 0 && *s.data.sequence > m.transformer.max_positions) {
    const std::string text = fmt::format("{} tokens per sample, but model {} has {} positions",
                                         *s.data.sequence, m.name, m.transformer.max_positions);
    if (m.transformer.learned_positions)
      problems.add("data.sequence", text, "use a shorter sequence");
    else
      s.warnings.push_back("data.sequence: " + text);
  }
  const double tokens =
      static_cast<double>(s.data.micro_batch) *
      static_cast<double>(m.kind == ModelKind::transformer ? s.data.sequence.value_or(1)
                                                           : std::int64_t{1});
  if (tokens * m.widest_activations() > 1e15)  // counts could overflow
    problems.add("data.micro_batch",
                 fmt::format("a micro-batch of {:.0e} {} is more than any GPU computes at a time",
                             tokens, m.kind == ModelKind::transformer ? "tokens" : "samples"),
                 "use fewer samples, or shorter ones");
  if (s.run.values == RunValues::real) check_values(s, problems);
  if (m.kind == ModelKind::transformer && m.transformer.tied && s.parallel.pipeline > 1 &&
      s.algorithm.plan.sharding.gradients())
    refuse(problems, "algorithm",
           "divided gradients of an embedding that is tied over pipeline stages",
           "use zero with stage 1, or 1 stage");
  check_layers(s, problems);
}

// What divides into what.
void check_sizes(Scenario& s, Problems& problems) {
  const std::int64_t available = s.machines.gpus();
  if (!s.platform.gpus) s.platform.gpus = available;
  if (*s.platform.gpus > available) {
    problems.add("platform.gpus",
                 fmt::format("{} GPUs asked for, but cluster {} has {}", *s.platform.gpus,
                             s.machines.cluster.name, available),
                 fmt::format("use at most {}", available));
    return check_schedule(s, problems, false);
  }
  for (const Platform::Part& part : s.machines.parts)
    if (s.precision.products != Products::as_stored &&
        !part.gpu.compute.peak.has(s.product_dtype()))
      problems.add("precision.products",
                   fmt::format("{} has no products in {}", part.gpu.name, name(s.product_dtype())),
                   "use as-stored, or another cluster");
  const ParallelSpec& p = s.parallel;
  const std::int64_t one_model = p.tensor * p.context * p.pipeline;
  if (one_model > s.gpus() || s.gpus() % one_model != 0) {
    problems.add(p.pipeline > 1 ? "parallel.pipeline" : "platform.gpus",
                 fmt::format("{} GPUs do not divide by tensor x context x pipeline = {}", s.gpus(),
                             one_model),
                 one_model > available ? "use fewer stages"
                                       : nearest_multiples(s.gpus(), one_model) + " GPUs");
    return check_schedule(s, problems, false);
  }
  const std::int64_t replicas = s.gpus() / one_model;
  DataAxes axes;
  try {
    axes = s.algorithm.plan.divide(static_cast<int>(replicas));
  } catch (const Error& e) {
    problems.add("algorithm.name",
                 fmt::format("{}, but {} makes {}", e.message(), data_group(s), replicas),
                 s.algorithm.name == "none" ? "use ddp, or fewer GPUs" : "use more or fewer GPUs");
    return check_schedule(s, problems, false);
  }
  if (const int around = axes.around_experts(); around % p.expert != 0)
    problems.add("parallel.expert",
                 fmt::format("{} {} do not divide into groups of {}", around,
                             around == replicas ? "data-parallel GPUs"
                             : axes.sharded     ? "GPUs that divide a model copy"
                                                : "GPUs of a worker",
                             p.expert),
                 nearest_divisors(around, p.expert));
  const int multiple = s.algorithm.plan.micro_batches;
  const std::int64_t unit = replicas * s.data.micro_batch * multiple;
  if (s.data.global_batch % unit != 0)
    problems.add(
        "data.global_batch",
        fmt::format("{} samples do not divide by data parallel {} x micro_batch {}{} = {}",
                    s.data.global_batch, replicas, s.data.micro_batch,
                    multiple == 1 ? "" : fmt::format(" x {} of {}", multiple, s.algorithm.name),
                    unit),
        nearest_multiples(s.data.global_batch, unit));
  check_schedule(s, problems, s.data.global_batch % unit == 0);
}

void resolve_text(Scenario& s, const std::string& beside, const std::string& root,
                  Problems& problems) {
  if (!s.data.text) return;
  std::string file = find_file(*s.data.text, beside, root);
  if (file.empty()) file = find_file("scenarios/texts/" + *s.data.text + ".txt", "", root);
  if (!file.empty()) {
    s.data.text = file;
    return;
  }
  std::vector<std::string> known;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(fs::path(root) / "scenarios" / "texts", none))
    if (entry.path().extension() == ".txt") known.push_back(entry.path().stem().string());
  std::sort(known.begin(), known.end());
  const std::string near = did_you_mean(*s.data.text, known);
  problems.add(
      "data.text", fmt::format("no text '{}'", *s.data.text),
      near.empty() ? fmt::format("known are {}; or give a path", join(known, ", ")) : near);
}

// Runs what may throw ConfigError and keeps its messages. False when it threw.
template <class Action>
bool collect(std::vector<ConfigMessage>& messages, Action action) {
  try {
    action();
    return true;
  } catch (const ConfigError& e) {
    messages.insert(messages.end(), e.messages.begin(), e.messages.end());
    return false;
  }
}

}  // namespace

Scenario::Scenario() = default;

int Scenario::data_parallel() const {
  return static_cast<int>(gpus() / (parallel.tensor * parallel.context * parallel.pipeline));
}
int Scenario::micro_batches() const {
  return static_cast<int>(data.global_batch / (data_parallel() * data.micro_batch));
}
Bytes Scenario::reserve() const {
  const bool cpu = machines.parts.front().gpu.compute.sm.value <= 1;  // one core
  return memory.reserve.value_or(cpu ? Bytes(0) : assumed_reserve);
}
PipelineShape Scenario::pipeline_shape() const {
  PipelineShape shape{static_cast<int>(parallel.pipeline),
                      data_parallel() > 0 ? micro_batches() : 0};
  shape.chunks = static_cast<int>(parallel.chunks);
  shape.activation_limit = static_cast<int>(parallel.activation_limit.value_or(0));
  shape.vertical_sync = parallel.vertical_sync;
  return shape;
}
Flops Scenario::flops_per_step() const {
  return orrery::flops_per_step(model_spec, *data.sequence, data.global_batch, run.flop_rule);
}
Flops Scenario::executed_flops_per_step(FlopRule rule) const {
  const Recomputed again = recompute_attention      ? Recomputed::attention
                           : recompute_every_second ? Recomputed::every_second_product
                           : recompute              ? Recomputed::layers
                                                    : Recomputed::nothing;
  return orrery::executed_flops_per_step(model_spec, *data.sequence, data.global_batch, rule,
                                         again);
}
std::int64_t Scenario::tokens_per_step() const {
  return orrery::tokens_per_step(model_spec, *data.sequence, data.global_batch);
}

Grid Scenario::grid() const {
  Grid g;
  g.set_order(axes_of(parallel.order));
  g.set(Axis::tensor, static_cast<int>(parallel.tensor));
  g.set(Axis::context, static_cast<int>(parallel.context));
  g.set(Axis::pipeline, static_cast<int>(parallel.pipeline));
  const DataAxes data_axes =
      algorithm.plan.divide(data_parallel()).with_experts(static_cast<int>(parallel.expert));
  g.set(Axis::shard, data_axes.shard);
  g.set(Axis::expert, data_axes.expert);
  g.set(Axis::replicate, data_axes.replicate);
  g.set(Axis::island, data_axes.island);
  return g;
}

namespace {

// In the order of a ConfigError: files as first met, then by position.
std::vector<ConfigMessage> in_order(std::vector<ConfigMessage> messages) {
  std::vector<std::string> files;
  for (const ConfigMessage& m : messages)
    if (std::find(files.begin(), files.end(), m.file) == files.end()) files.push_back(m.file);
  const auto place = [&files](const ConfigMessage& m) {
    return std::tuple(std::find(files.begin(), files.end(), m.file), m.line, m.column);
  };
  std::stable_sort(
      messages.begin(), messages.end(),
      [&](const ConfigMessage& a, const ConfigMessage& b) { return place(a) < place(b); });
  return messages;
}

}  // namespace

Scenario read_scenario(const Document& document, const std::string& data_root,
                       const GivenParts& given) {
  Problems problems(document);
  auto s = read<Scenario>(document, problems);
  read_algorithm(s.algorithm, "algorithm.name", problems);
  const bool readable = problems.empty();  // relations between keys mean nothing otherwise
  const Node& root = document.root();
  if (root.mark.source) s.file = root.mark.source->name;
  const std::string beside = fs::path(s.file).parent_path().string();
  const auto mark = [&root](const char* path) { return find_nearest(root, path)->mark; };

  std::vector<ConfigMessage> found;  // about the files that the scenario names
  const bool model = !s.model.empty() && collect(found, [&] {
    s.model_spec =
        given.model ? *given.model : read_model(s.model, data_root, beside, mark("model"));
  });
  const bool machines = !s.platform.cluster.empty() && collect(found, [&] {
    if (given.machines) {
      s.machines = *given.machines;
      return;
    }
    const Node* choice = root.find("platform");
    const bool named = choice != nullptr && choice->find("stack") != nullptr;
    s.machines =
        read_platform(PlatformFolder(data_root), s.platform.cluster, named ? s.platform.stack : "",
                      mark("platform.cluster"), mark("platform.stack"));
    if (!named) s.platform.stack = s.machines.stack.name;
  });
  if (readable) {
    check_memory(s, problems);
    check_parallel(s, problems);
    check_composition(s, problems);
    check_precision(s, problems);
    check_run(s, problems);
    resolve_text(s, beside, data_root, problems);
    s.warnings = s.model_spec.warnings;
    if (model) check_model(s, problems);
    if (model) check_inside_replica(s, problems);
    if (model) check_evaluation(s, problems);
    if (model) check_inside_layers(s, problems);
    if (machines) check_sizes(s, problems);
    if (model && machines && problems.empty()) check_label_skew(s, problems);
    if (s.value_model && model && machines && problems.empty())
      collect(found, [&] { s.twin = read_value_model(s, data_root, mark("value_model")); });
  }
  std::vector<ConfigMessage> all = problems.sorted();
  all.insert(all.end(), found.begin(), found.end());
  if (!all.empty()) throw ConfigError(in_order(std::move(all)));
  return s;
}

}  // namespace orrery
