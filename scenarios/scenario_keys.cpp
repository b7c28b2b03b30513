// The keys of a scenario.
#include "scenarios/scenario.hpp"

namespace orrery {

namespace {
// More would overflow nothing, but is surely a mistake.
constexpr std::int64_t many = 1'000'000'000;
// Along one axis: three of them multiply.
constexpr std::int64_t many_parts = 1'000'000;
}  // namespace

void describe(Fields<LabelSkewSpec>& f) {
  f.field("concentration", &LabelSkewSpec::concentration)
      .required()
      .between(1e-6, 1e6)
      .doc(
          "of the Dirichlet distribution of a shard's labels: small, few labels; large, all alike");
  f.field("labels", &LabelSkewSpec::labels)
      .between(2, many_parts)
      .doc("of a text: so many equal ranges of it; absent: one per replica");
}

void describe(Fields<DataSpec>& f) {
  f.field("sequence", &DataSpec::sequence)
      .between(1, many)
      .doc("tokens per sample; an MLP knows its own");
  f.field("global_batch", &DataSpec::global_batch)
      .required()
      .between(1, many)
      .doc("samples per step");
  f.field("micro_batch", &DataSpec::micro_batch)
      .between(1, many)
      .doc("samples that one replica computes at a time");
  f.field("text", &DataSpec::text)
      .doc("a name in scenarios/texts or a path; needed for real values");
  f.field("held_out", &DataSpec::held_out)
      .between(0, 0.9)
      .doc("part of the text, its tail, kept from training; its loss is in the result");
  f.field("evaluate_every", &DataSpec::evaluate_every)
      .between(1, many)
      .doc(
          "steps after which the mean of all replicas' parameters is evaluated on what is held "
          "out; "
          "absent: not before the end");
  f.section("label_skew", &DataSpec::label_skew)
      .doc("each replica draws from a shard of its own, skewed by label; absent: from all data");
}

void describe(Fields<ParallelSpec>& f) {
  f.field("tensor", &ParallelSpec::tensor).between(1, many_parts).doc("GPUs that share one layer");
  f.field("pipeline", &ParallelSpec::pipeline).between(1, many_parts).doc("stages");
  f.field("context", &ParallelSpec::context)
      .between(1, many_parts)
      .doc("GPUs that share one sequence");
  f.field("context_algorithm", &ParallelSpec::context_algorithm)
      .one_of({{"ring", ContextAlgorithm::ring},
               {"ulysses", ContextAlgorithm::ulysses},
               {"all-gather", ContextAlgorithm::all_gather}})
      .doc("how attention reaches the tokens of the other GPUs of a context group");
  f.field("expert", &ParallelSpec::expert).between(1, many_parts).doc("groups of experts");
  f.field("schedule", &ParallelSpec::schedule)
      .one_of({"gpipe", "1f1b", "interleaved-1f1b", "pipedream", "pipedream-2bw", "chimera",
               "zb-h1", "zb-h2", "zb-v", "v-half", "v-min", "zb-auto", "dualpipe", "dualpipev",
               "petra"})
      .doc("of the pipeline");
  f.field("chunks", &ParallelSpec::chunks)
      .between(1, many)
      .doc("parts of a stage, for interleaving");
  f.field("layers", &ParallelSpec::layers)
      .between(0, many)
      .doc(
          "of each stage, in order, where they are not to divide evenly; 0 at an end: the "
          "embedding or the head alone");
  f.field("activation_limit", &ParallelSpec::activation_limit)
      .between(1, many)
      .doc("micro-batches that a device may hold under zb-auto; absent: as many as stages");
  f.field("vertical_sync", &ParallelSpec::vertical_sync)
      .doc("of pipedream: all stages use parameters of one age");
  f.field("sequence_parallel", &ParallelSpec::sequence_parallel).doc("Megatron's, with tensor");
  f.field("sequence_gather", &ParallelSpec::sequence_gather)
      .one_of({{"as-computed", SequenceGather::as_computed}, {"fp8", SequenceGather::fp8}})
      .doc(
          "of sequence_parallel. fp8: what the products of layers read is gathered in 8 bits with "
          "one scale, for products fp8-tensor");
  f.field("order", &ParallelSpec::order).doc("of the axes over neighbouring GPUs, fastest first");
}

void describe(Fields<ActivationMemorySpec>& f) {
  f.open("recompute", &ActivationMemorySpec::recompute)
      .doc(
          "in the backward pass: none; selective, the core of attention; every-second-product of "
          "each layer and what lies between, not attention; full, all layers; or a list of layers, "
          "counted from 0");
  f.field("stored_micro_batches", &ActivationMemorySpec::stored_micro_batches)
      .between(0, many)
      .doc("micro-batches under way of which everything is kept, whatever recompute says");
  f.field("attention", &ActivationMemorySpec::attention)
      .one_of({{"fused", AttentionKind::fused}, {"stored", AttentionKind::stored}})
      .doc("stored: the scores of attention are written and kept, as before flash attention");
  f.field("dropout", &ActivationMemorySpec::dropout)
      .doc("behind attention and MLP, and of stored scores: its time, and the masks it keeps");
  f.field("reserve", &ActivationMemorySpec::reserve)
      .between(Bytes(0), Bytes(1LL << 50))
      .doc("of each GPU for CUDA, kernels and NCCL; absent: 2GiB, of a CPU none");
}

void describe(Fields<ExpertSpec>& f) {
  f.field("capacity_factor", &ExpertSpec::capacity_factor)
      .between(0.01, 1000)
      .doc("places of an expert over its even share; absent: no token is dropped");
  f.field("imbalance", &ExpertSpec::imbalance)
      .between(1, 1000)
      .doc("tokens for the fullest GPU's experts over the mean of all, where none is dropped");
  f.field("balance_rate", &ExpertSpec::balance_rate)
      .between(0, 1)
      .doc("what the bias of a router by sigmoids moves by in a step; 0: it has none");
  f.check([](const ExpertSpec& e, const SectionProblems& p) {
    if (e.capacity_factor && e.imbalance != 1)
      p.add("imbalance", "a capacity says how many places there are", "drop one of the two");
  });
}

void describe(Fields<PrecisionSpec>& f) {
  for (const auto& [name, member] : {std::pair{"parameters", &PrecisionSpec::parameters},
                                     {"activations", &PrecisionSpec::activations},
                                     {"reduction", &PrecisionSpec::reduction},
                                     {"master", &PrecisionSpec::master}})
    f.field(name, member)
        .one_of({{"fp32", Dtype::fp32},
                 {"bf16", Dtype::bf16},
                 {"fp16", Dtype::fp16},
                 {"fp8", Dtype::fp8}});
  f.field("moments", &PrecisionSpec::moments)
      .one_of({{"fp32", Dtype::fp32}, {"bf16", Dtype::bf16}})
      .doc("of the optimizer, as they are stored");
  f.field("products", &PrecisionSpec::products)
      .one_of({{"as-stored", Products::as_stored},
               {"fp8-tensor", Products::fp8_tensor},
               {"fp8-block", Products::fp8_block},
               {"mxfp8", Products::mxfp8},
               {"nvfp4", Products::nvfp4}})
      .doc(
          "operands of the products of a transformer's layers: cast to fp8, with a scale per "
          "tensor, per 128 numbers or per 32, in real runs on GPUs only per tensor; or to 4 bits, "
          "with one per 16, as timing only");
}

void describe(Fields<Throttle>& f) {
  f.field("latency", &Throttle::latency)
      .between(Seconds(0), Seconds(100))
      .doc("of a message, at least");
  f.field("bandwidth", &Throttle::bandwidth)
      .at_least(BytesPerSecond(1000))
      .doc("of a rank, each way, at most");
}

void describe(Fields<PlatformChoice>& f) {
  f.field("cluster", &PlatformChoice::cluster)
      .required()
      .doc("a name in platforms/clusters or a path");
  f.field("gpus", &PlatformChoice::gpus)
      .between(1, 10'000'000)
      .doc("the first of the cluster; absent: all");
  f.field("stack", &PlatformChoice::stack).doc("a name in platforms/stacks or a path");
  f.section("throttle", &PlatformChoice::throttle)
      .doc(
          "slower links than the cluster's: no communication is faster than over these; also in a "
          "run on the CPU, which waits");
}

void describe(Fields<ValueModelSpec>& f) {
  f.field("model", &ValueModelSpec::model).required().doc("a name in scenarios/models or a path");
  f.field("sequence", &ValueModelSpec::sequence).between(1, many).doc("as in data");
  f.field("micro_batch", &ValueModelSpec::micro_batch)
      .between(1, many)
      .doc("samples that it learns from while `model` computes a micro-batch");
  f.field("text", &ValueModelSpec::text).required().doc("as in data");
  f.field("held_out", &ValueModelSpec::held_out).between(0, 0.9).doc("as in data");
  f.field("evaluate_every", &ValueModelSpec::evaluate_every).between(1, many).doc("as in data");
  f.section("label_skew", &ValueModelSpec::label_skew).doc("as in data");
}

void describe(Fields<RunSpec>& f) {
  f.field("steps", &RunSpec::steps).between(1, many).doc("optimizer updates");
  f.field("seed", &RunSpec::seed).at_least(0);
  f.field("values", &RunSpec::values)
      .one_of({{"virtual", RunValues::virtual_values}, {"real", RunValues::real}})
      .doc("real computes the numbers too");
  f.open("fidelity", &RunSpec::network)
      .doc(
          "of the network: auto, analytic, flow or messages; or such a name by group, and for "
          "others");
  f.field("folding", &RunSpec::folding)
      .one_of({{"auto", Folding::automatic}, {"off", Folding::off}, {"on", Folding::on}})
      .doc("simulate one rank for all that do the same: auto where it is exact, on or an error");
  f.field("flop_rule", &RunSpec::flop_rule)
      .one_of({{"full", FlopRule::full},
               {"megatron-causal", FlopRule::megatron_causal},
               {"palm", FlopRule::palm},
               {"6n", FlopRule::six_n}})
      .doc("how FLOPs are counted for MFU");
  f.field("host_clock", &RunSpec::host_clock).doc("the host pays for what it issues");
  f.field("replicas", &RunSpec::replicas)
      .between(1, 10'000)
      .doc(
          "clusters that differ in the seed of their conditions alone; a result has the quantiles");
  f.field("explain_bottleneck", &RunSpec::explain_bottleneck)
      .doc(
          "simulate with one resource at a time made free or doubled, and tell what each is worth");
  f.field("record", &RunSpec::record).doc("file to write decisions to");
  f.field("replay", &RunSpec::replay).doc("file of decisions to follow");
  f.check([](const RunSpec& r, const SectionProblems& p) {
    if (r.record && r.replay)
      p.add("replay", "a run either records decisions or replays them", "drop one of the two");
  });
}

void describe(Fields<Scenario>& f) {
  f.field("model", &Scenario::model)
      .required()
      .doc("a name in scenarios/models, or a path to YAML or config.json");
  f.section("data", &Scenario::data).required();
  f.section("parallel", &Scenario::parallel).doc("data parallelism is what is left of the GPUs");
  f.section("algorithm", &Scenario::algorithm);
  f.section("memory", &Scenario::memory);
  f.section("experts", &Scenario::experts).doc("of a mixture of experts");
  f.section("precision", &Scenario::precision);
  f.section("platform", &Scenario::platform).required();
  f.section("cluster_conditions", &Scenario::cluster_conditions)
      .doc("speeds, jitter and links of an imperfect cluster; absent: a perfect one");
  f.section("value_model", &Scenario::value_model)
      .doc("a small model that learns while the clock runs as for `model`; simulations only");
  f.section("run", &Scenario::run);
}

std::string scenario_schema() { return json_schema<Scenario>("Orrery scenario"); }

}  // namespace orrery
