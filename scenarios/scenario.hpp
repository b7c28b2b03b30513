// A scenario: which model is trained, how, on what.
//
//   Document document = Document::parse_file("scenarios/quickstart.yaml");
//   document.set("parallel.pipeline=2");
//   // ConfigError with everything that is wrong:
//   const Scenario s = read_scenario(document, data_root);
//
// All keys of a scenario are known here. What Orrery cannot do yet is refused by "not available
// yet: …", never ignored.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "algorithms/algorithm_table.hpp"
#include "algorithms/models/transformer.hpp"
#include "algorithms/pipeline/schedule.hpp"
#include "backend/axes.hpp"
#include "backend/core/config.hpp"
#include "backend/dtype.hpp"
#include "backend/throttle.hpp"
#include "platforms/conditions.hpp"
#include "platforms/machine.hpp"
#include "platforms/platform.hpp"
#include "scenarios/flop_rule.hpp"
#include "scenarios/model_spec.hpp"

namespace orrery {

// Shards of the data that differ in their labels (label_skew.hpp).
struct LabelSkewSpec {
  double concentration = 1;
  std::optional<std::int64_t> labels;  // of a text; absent: as many as replicas
};
void describe(Fields<LabelSkewSpec>& f);

struct DataSpec {
  std::optional<std::int64_t> sequence;  // read_scenario fills it in for an MLP
  std::int64_t global_batch = 0, micro_batch = 1;
  std::optional<std::string>
      text;  // a name in scenarios/texts or a path; read_scenario makes it a path
  double held_out =
      0;  // this part of the text, its tail, is not trained on but evaluated at the end
  std::optional<std::int64_t> evaluate_every;  // steps: the mean of all replicas' parameters
  std::optional<LabelSkewSpec> label_skew;     // absent: each replica draws from all data
};
void describe(Fields<DataSpec>& f);

// The type in which the tokens that sequence parallelism divides reach the layers' matrices.
enum class SequenceGather { as_computed, fp8 };

struct ParallelSpec {
  std::int64_t tensor = 1, pipeline = 1, context = 1, expert = 1;
  std::string schedule = "1f1b";
  std::int64_t chunks = 1;
  std::vector<std::int64_t> layers;              // by stage; empty: evenly
  std::optional<std::int64_t> activation_limit;  // zb-auto: micro-batches; absent: the stages
  bool vertical_sync = false;                    // pipedream
  bool sequence_parallel = false;
  SequenceGather sequence_gather = SequenceGather::as_computed;
  ContextAlgorithm context_algorithm = ContextAlgorithm::ring;
  std::string order = "tp-cp-ep-dp-pp";  // the first varies fastest over neighbouring GPUs
};
void describe(Fields<ParallelSpec>& f);

// Whether attention writes its scores (stored_attention.hpp).
enum class AttentionKind { fused, stored };

struct ActivationMemorySpec {
  Node recompute = Node::scalar("none");  // none | selective | every-second-product | full | layers
  std::optional<std::int64_t> stored_micro_batches;
  AttentionKind attention = AttentionKind::fused;
  bool dropout = false;
  std::optional<Bytes> reserve;  // absent: assumed_reserve on GPUs, none on a CPU
};
void describe(Fields<ActivationMemorySpec>& f);

// CUDA context and loaded kernels, 0.55 GiB, and what NCCL adds with the first collective, 1.45
// GiB: stas00/ml-engineering, training/performance/README.md, "torch.distributed memory usage" (two
// GPUs; it says 1 to 2 GB, more with more GPUs).
inline constexpr Bytes assumed_reserve{2LL << 30};

// How a mixture's tokens are spread over its experts.
struct ExpertSpec {
  // Places of an expert over its even share of a rank's tokens; further tokens are dropped. Absent:
  // none is dropped, in a run without values only.
  std::optional<double> capacity_factor;
  // Without a capacity: tokens for the experts of the fullest GPU, over the mean of those that
  // divide the experts.
  double imbalance = 1;
  double balance_rate = 1e-3;  // of the bias of routers by sigmoids (expert_balance.hpp)
};
void describe(Fields<ExpertSpec>& f);

struct PrecisionSpec {
  Dtype parameters = Dtype::bf16, activations = Dtype::bf16;
  Products products = Products::as_stored;  // of a transformer's layers
  Dtype reduction = Dtype::fp32;            // of gradients, and of the collective that sums them
  Dtype master = Dtype::fp32;               // of the optimizer's copy of the parameters
  Dtype moments = Dtype::fp32;              // of the optimizer's, as they are stored
};
void describe(Fields<PrecisionSpec>& f);

void describe(Fields<Throttle>& f);

struct PlatformChoice {
  std::string cluster;
  std::optional<std::int64_t> gpus;  // all of the cluster's when absent; read_scenario fills it in
  std::string stack = "generic";
  // Links that are no faster than this, simulated and, by waiting, in a run on the CPU.
  std::optional<Throttle> throttle;
};
void describe(Fields<PlatformChoice>& f);

// A small model that is trained on values while the simulated clock runs as for `model`.
struct ValueModelSpec {
  std::string model;
  std::optional<std::int64_t> sequence;
  std::int64_t micro_batch = 1;  // samples, in the time of one micro-batch of the timed model
  std::string text;
  double held_out = 0;
  std::optional<std::int64_t> evaluate_every;
  std::optional<LabelSkewSpec> label_skew;
};
void describe(Fields<ValueModelSpec>& f);

enum class RunValues { virtual_values, real };
enum class Folding { automatic, off, on };

struct RunSpec {
  std::int64_t steps = 3;
  std::uint64_t seed = 1;
  RunValues values = RunValues::virtual_values;
  Node network = Node::scalar("auto");  // key fidelity: a name, or names by group
  Folding folding = Folding::automatic;
  FlopRule flop_rule = FlopRule::full;
  bool host_clock = true;
  std::int64_t replicas = 1;  // clusters that differ in the seed of their conditions
  bool explain_bottleneck = false;
  std::optional<std::string> record, replay;  // files of decisions

  // From `network`, filled in by read_scenario.
  Fidelity fidelity = Fidelity::automatic;
  std::vector<std::pair<std::string, Fidelity>> group_fidelity;
};
void describe(Fields<RunSpec>& f);

struct Scenario {
  Scenario();

  std::string model;
  DataSpec data;
  ParallelSpec parallel;
  AlgorithmSpec algorithm;
  ActivationMemorySpec memory;
  ExpertSpec experts;
  PrecisionSpec precision;
  PlatformChoice platform;
  ConditionsSpec cluster_conditions;
  std::optional<ValueModelSpec> value_model;
  RunSpec run;

  // Filled in by read_scenario, not keys:
  std::string file;
  ModelSpec model_spec;
  Platform machines;
  bool recompute = false;               // layers run again: all, or
  std::vector<int> recompute_layers;    // these
  bool recompute_attention = false;     // the core of attention runs again
  bool recompute_every_second = false;  // of the layers that run again, every second product alone
  std::vector<std::string> warnings;
  // The same training of the value model; null without one.
  std::shared_ptr<const Scenario> twin;

  int gpus() const { return static_cast<int>(*platform.gpus); }
  int data_parallel() const;  // replicas of the model
  int micro_batches() const;  // per replica and step
  // The type of most products: its peak is what MFU is a share of.
  Dtype product_dtype() const { return dtype_of(precision.products, precision.activations); }
  Bytes reserve() const;  // of each device's memory, for all but the program's tensors
  PipelineShape pipeline_shape() const;
  Flops flops_per_step() const;
  // With recomputation, of all layers and micro-batches.
  Flops executed_flops_per_step(FlopRule rule) const;
  std::int64_t tokens_per_step() const;
  // Of the conditions of the cluster.
  std::uint64_t conditions_seed() const { return cluster_conditions.seed.value_or(run.seed); }
  // Sizes and order of the axes; data parallelism is Axis::expert and Axis::replicate.
  Grid grid() const;
};
void describe(Fields<Scenario>& f);

// What a caller holds already: it stands for the file that the document's name means.
struct GivenParts {
  std::optional<ModelSpec> model;
  std::optional<Platform> machines;
};

// Reads, checks, and resolves names below the data root (the folder that holds scenarios/ and
// platforms/); paths are tried from the current folder and the scenario's own first. Throws
// ConfigError with all messages.
Scenario read_scenario(const Document& document, const std::string& data_root,
                       const GivenParts& given = {});

// JSON Schema of scenarios.
std::string scenario_schema();

}  // namespace orrery
