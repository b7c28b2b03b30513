#include "scenarios/published/prediction.hpp"

#include <fmt/format.h>

#include <array>
#include <map>

#include "scenarios/published/not_scored.hpp"

namespace orrery {

namespace {

// The algorithm that a kind of sharding is.
Node algorithm_of(const std::string& sharding) {
  Node out = Node::map();
  const bool staged = sharding == "zero1" || sharding == "zero2";
  out.add("name", Node::scalar(sharding == "zero3" ? "fsdp" : staged ? "zero" : sharding));
  if (staged) out.add("stage", Node::scalar(sharding.substr(4)));
  return out;
}

Node section(std::initializer_list<std::pair<const char*, Node>> entries) {
  Node out = Node::map();
  for (const auto& [key, value] : entries) out.add(key, value);
  return out;
}

// Types that are timed as another one.
std::string timed_as(const std::string& precision, std::vector<Assumption>& notes) {
  if (precision != "fp16") return precision;
  note(notes, "precision", "bf16", "fp16 takes the same time: equal sizes and peaks");
  return "bf16";
}

bool is_torchtitan(const MeasuredFile& file) { return file.repo == "pytorch/torchtitan"; }

// memory.recompute. Selective is the core of attention, as Megatron-LM has it, but for two sources:
// fms-fsdp recomputes one layer in N; the policy of torchtitan keeps every second product of a
// layer.
Node recompute_of(const MeasuredFile& file, const std::string& means,
                  std::vector<Assumption>& notes) {
  if (means == "selective" && file.repo == "foundation-model-stack/fms-fsdp")
    throw NotScored("how many layers are recomputed is not stated");
  if (means != "selective" || !is_torchtitan(file)) return Node::scalar(means);
  note(notes, "recompute", "every-second-product",
       "the option `op` of the source's configurations (train_configs/llama3_8b.toml)");
  return Node::scalar("every-second-product");
}

// Types of a step. Products in 8 bits are cast from 16: with a scale for each tensor, but for the
// MX formats; those in 4 bits are NVFP4. The sharded parameters of torchtitan are fp32, and cast as
// they are gathered (MixedPrecisionPolicy(param_dtype),
// torchtitan/parallelisms/parallelize_llama.py).
Node precision_of(const MeasuredFile& file, const MeasuredCase& c, const std::string& means,
                  bool gathers, std::vector<Assumption>& notes) {
  const bool narrow = means == "fp8" || means == "fp4";
  const std::string stored = narrow ? "bf16" : means;
  const std::string shards = gathers && is_torchtitan(file) ? "fp32" : stored;
  Node out = section({{"parameters", Node::scalar(shards)}, {"activations", Node::scalar(stored)}});
  if (!narrow) return out;
  const bool scaled = word(c.precision).find("MX") != std::string::npos;
  const char* products = means == "fp4" ? "nvfp4" : scaled ? "mxfp8" : "fp8-tensor";
  if (means == "fp4")
    note(notes, "precision.products", products, "all products of all layers are in 4 bits");
  else if (!scaled)
    note(notes, "precision.products", products, "how products are scaled is not told");
  out.add("products", Node::scalar(products));
  return out;
}

std::string schedule_of(const MeasuredCase& c, const CasePlan& plan, const AliasTable& aliases,
                        std::vector<Assumption>& notes) {
  if (plan.pipeline == 1) return "1f1b";
  if (!word(c.pp_schedule).empty())
    return meaning(aliases.pp_schedule, "pp_schedule", word(c.pp_schedule), notes);
  const std::string usual = plan.chunks > 1 ? "interleaved-1f1b" : "1f1b";
  note(notes, "pp_schedule", usual, "the source does not print it");
  return usual;
}

// Keys of `parallel` that not every plan has.
void add_pipeline_details(const MeasuredCase& c, const CasePlan& plan, const ModelSpec& model,
                          const std::string& schedule, Node& parallel,
                          std::vector<Assumption>& notes) {
  if (plan.pipeline == 1) return;
  if (word(c.pp_schedule).starts_with("ZB-2p"))
    parallel.add("activation_limit", Node::number(2 * plan.pipeline));
  const std::int64_t stages = plan.pipeline * stages_per_device(schedule, plan.chunks);
  const std::int64_t layers = model.layers();
  if (layers % stages == 0 || (layers + 2) % stages != 0) return;
  note(notes, "parallel.layers", "one less in the first and the last stage",
       "usual where the layers are two fewer than a multiple of the stages");
  std::vector<Node> all;
  for (std::int64_t i = 0; i < stages; ++i)
    all.push_back(Node::number((layers + 2) / stages - (i == 0 || i + 1 == stages ? 1 : 0)));
  parallel.add("layers", Node::list(std::move(all)));
}

// Kinds whose cases need no simulation.
using KindPredictor = void (*)(const MeasuredFile&, const MeasuredCase&, const AliasTable&,
                               const Machines&, Prediction&);
const std::map<std::string, KindPredictor>& predicted_at_once() {
  static const std::map<std::string, KindPredictor> kinds{{"gemm", predict_gemm},
                                                          {"attention", predict_attention},
                                                          {"elementwise", predict_elementwise},
                                                          {"collective", predict_collective},
                                                          {"bubble", predict_bubble},
                                                          {"memory", predict_memory},
                                                          {"algo_bandwidth", predict_bandwidth},
                                                          {"algo_wallclock", predict_utilization}};
  return kinds;
}

// Room enough that no device is full: what was measured did fit.
Platform without_limit(Platform platform) {
  for (Platform::Part& part : platform.parts) part.gpu.memory.capacity.value = Bytes(1LL << 60);
  return platform;
}

}  // namespace

std::string meaning(const std::vector<Alias>& rows, const char* key, const std::string& text,
                    std::vector<Assumption>& notes) {
  const Alias* row = find_alias(rows, text);
  if (row == nullptr)
    throw NotScored(text.empty() ? fmt::format("{} is not stated", key)
                                 : fmt::format("{} '{}' has no alias", key, text));
  if (!row->assumption.empty()) note(notes, key, row->means, row->assumption);
  return row->means;
}

Predictor::Predictor(const std::string& data_root)
    : root_(data_root),
      aliases_(read_aliases(data_root + "/scenarios/published/aliases.yaml")),
      machines_(data_root, aliases_) {}

void Predictor::step(const MeasuredFile& file, const MeasuredCase& c, Prediction& out) const {
  std::vector<Assumption>& notes = out.assumptions;
  const CasePlan plan = case_plan(file, c, notes);
  const ModelSpec model = case_model(file, c, aliases_, notes);
  const std::string recompute = meaning(aliases_.recompute, "recompute", word(c.recompute), notes);
  out.unit = "s";
  out.measured = measured_seconds(file, c, plan, model, recompute, aliases_, notes);
  const std::string precision =
      timed_as(meaning(aliases_.precision, "precision", word(c.precision), notes), notes);
  const std::string sharding =  // one replica has nothing to shard
      plan.data * plan.context == 1
          ? "ddp"
          : meaning(aliases_.sharding, "sharding", word(c.sharding), notes);
  const auto platform = machines_.platform(file, c, false, notes);

  Node root = section({{"model", Node::scalar(model.name, true)},
                       {"data", section({{"sequence", Node::number(plan.sequence)},
                                         {"global_batch", Node::number(plan.global_batch)},
                                         {"micro_batch", Node::number(plan.micro_batch)}})}});
  const bool sequence_parallel = plan.tensor > 1 && c.sequence_parallel.value_or(false);
  const std::string schedule = schedule_of(c, plan, aliases_, notes);
  Node parallel =
      section({{"tensor", Node::number(plan.tensor)},
               {"pipeline", Node::number(plan.pipeline)},
               {"context", Node::number(plan.context)},
               {"expert", Node::number(plan.expert)},
               {"schedule", Node::scalar(schedule)},
               {"chunks", Node::number(plan.pipeline == 1 ? 1 : plan.chunks)},
               {"sequence_parallel", Node::scalar(sequence_parallel ? "true" : "false")}});
  add_pipeline_details(c, plan, model, schedule, parallel, notes);
  root.add("parallel", std::move(parallel));
  Node algorithm = algorithm_of(sharding);
  if (sharding == "zero3" && is_torchtitan(file)) {
    algorithm.add("per_parameter", Node::scalar("true"));
    if (c.fp8_all_gather.value_or(false)) algorithm.add("gather", Node::scalar("fp8"));
  }
  root.add("algorithm", std::move(algorithm));
  root.add("memory", section({{"recompute", recompute_of(file, recompute, notes)}}));
  root.add("precision", precision_of(file, c, precision, sharding == "zero3", notes));
  root.add("platform", section({{"cluster", Node::scalar(platform->cluster.name, true)},
                                {"gpus", Node::number(plan.gpus)},
                                {"stack", Node::scalar(platform->stack.name, true)}}));
  root.add("run", section({{"steps", Node::number(2)}}));  // the second is the rhythm
  const std::string text = to_yaml(root);
  out.scenario = std::make_shared<const Scenario>(
      read_scenario(Document::parse_text(text, file.name + " " + c.id), root_,
                    {model, without_limit(*platform)}));
  out.capacity = platform->parts.front().gpu.memory.capacity.value;
  out.same = fmt::format("{}{}{} nodes", text, resolved_yaml(model.transformer),
                         platform->parts.front().count);
}

Prediction Predictor::predict(const MeasuredFile& file, const MeasuredCase& c) const {
  Prediction out;
  try {
    const auto at_once = predicted_at_once().find(c.kind);
    if (c.kind != "train_step" && at_once == predicted_at_once().end())
      throw NotScored(fmt::format("kind {} is not predicted", c.kind));
    if (!c.unreadable.empty()) throw NotScored("cannot be read: " + c.unreadable);
    if (c.kind == "train_step")
      step(file, c, out);
    else
      at_once->second(file, c, aliases_, machines_, out);
  } catch (const NotScored& why) {
    out.skipped = why.reason;
  } catch (const Error& error) {
    if (error.category() != Category::config) throw;
    out.skipped = one_sentence(error);
  }
  if (!out.skipped.empty()) {
    out.predicted.reset();
    out.scenario.reset();
    out.assumptions.clear();
  }
  return out;
}

}  // namespace orrery
