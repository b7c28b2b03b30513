#include "algorithms/algorithm_table.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "algorithms/a2cid2.hpp"
#include "algorithms/acco.hpp"
#include "algorithms/ad_psgd.hpp"
#include "algorithms/dadao.hpp"
#include "algorithms/ddp.hpp"
#include "algorithms/delayed_gradients.hpp"
#include "algorithms/demo.hpp"
#include "algorithms/dgc.hpp"
#include "algorithms/dgl.hpp"
#include "algorithms/diloco.hpp"
#include "algorithms/dpu.hpp"
#include "algorithms/lagg_a.hpp"
#include "algorithms/local_sgd.hpp"
#include "algorithms/lopt_a.hpp"
#include "algorithms/none.hpp"
#include "algorithms/onebit_adam.hpp"
#include "algorithms/petra.hpp"
#include "algorithms/powersgd.hpp"
#include "algorithms/qsgd.hpp"
#include "algorithms/quorum.hpp"
#include "algorithms/reversible_backprop.hpp"
#include "algorithms/sgp.hpp"
#include "algorithms/slowmo.hpp"
#include "algorithms/streaming_diloco.hpp"
#include "algorithms/topk.hpp"
#include "algorithms/weight_prediction.hpp"
#include "algorithms/zero_plan.hpp"
#include "backend/core/text.hpp"

namespace orrery {

namespace {

// An algorithm that a replica and its options make, over replicas that all meet in each step.
template <class Made, class Options>
AlgorithmPlan over_replicas(const Node& node, Problems& problems) {
  const auto options = read<Options>(node, problems);
  return {to_node(options), options.optimizer, [](int n) { return DataAxes{.replicate = n}; },
          [options](Replica& replica) { return std::make_unique<Made>(replica, options); },
          Made::owns_optimizer};
}

AlgorithmPlan read_none(const Node& node, Problems& problems) {
  AlgorithmPlan plan = over_replicas<None, NoneOptions>(node, problems);
  plan.divide = [](int n) {
    if (n > 1) throw Error(Category::config, "none trains one replica");
    return DataAxes{};
  };
  plan.fresh_gradients = true;
  return plan;
}

// Workers that each run an inner algorithm.
const std::vector<std::string> trains_a_worker{"none", "ddp",   "fsdp",
                                               "zero", "petra", "reversible-backprop"};
template <class Made, class Options>
AlgorithmPlan over_islands(const Node& node, Problems& problems) {
  auto options = read<Options>(node, problems);
  if constexpr (std::is_base_of_v<LearnedOptions, Options>) load_weights(options, node, problems);
  AlgorithmSpec inner;
  if (!options.inner.is_null()) inner = read<AlgorithmSpec>(options.inner, problems);
  const std::vector<std::string>& fine = trains_a_worker;
  if (std::find(fine.begin(), fine.end(), inner.name) == fine.end() && find_algorithm(inner.name))
    problems.add("algorithm.inner.name",
                 fmt::format("{} cannot train a worker of another algorithm", inner.name),
                 "use " + join(fine, " or "));
  read_algorithm(inner, "algorithm.inner.name", problems);
  options.inner = to_node(inner);
  AlgorithmPlan plan = inner.plan;
  plan.options = to_node(options);
  plan.divide = [options, inner = inner.plan.divide](int n) {
    const int islands = options.workers == 0 ? n : static_cast<int>(options.workers);
    if (n % islands != 0)
      throw Error(Category::config,
                  fmt::format("{} workers need a multiple of {} replicas", islands, islands));
    if constexpr (std::is_base_of_v<LearnedOptions, Options>) options.check_workers(islands);
    check_membership(options, islands);
    DataAxes axes = inner(n / islands);
    axes.island = islands;
    return axes;
  };
  plan.make = [options, inner = inner.plan.make](Replica& replica) {
    return std::make_unique<Made>(replica, inner(replica), options);
  };
  if (options.quorum)
    plan.services.push_back(
        {quorum::service, [options](int replicas, std::int64_t steps) {
           const std::int64_t islands = options.workers == 0 ? replicas : options.workers;
           return quorum_program({static_cast<int>(islands), *options.quorum, options.grace,
                                  options.deadline, options.inner_steps, steps, options.members});
         }});
  return plan;
}

// Gradients that are communicated while the next ones are computed; each rank steps a shard.
template <class Made, int micro_batches>
AlgorithmPlan decoupled(const Node& node, Problems& problems) {
  AlgorithmPlan plan = over_replicas<Made, DecoupledOptions>(node, problems);
  plan.open_ended = true;
  plan.micro_batches = micro_batches;
  return plan;
}

// Workers that average with one neighbour at a time.
template <class Made, class Options>
AlgorithmPlan gossiping(const Node& node, Problems& problems) {
  const auto options = read<Options>(node, problems);
  const auto graph = std::make_shared<GraphOnce>(options.graph);
  AlgorithmPlan plan;
  plan.options = to_node(options);
  plan.optimizer = options.optimizer;
  plan.divide = [graph, members = options.members](int n) {
    check_members(members, *graph->of(n));  // what is wrong with them is known now
    return DataAxes{.island = n};
  };
  plan.make = [options, graph](Replica& replica) {
    return std::make_unique<Made>(replica, options, *graph->of(replica.rank().size(Axis::island)));
  };
  plan.open_ended = true;
  plan.owns_optimizer = Made::owns_optimizer;
  plan.services.push_back(
      {gossip::matchmaker, [options, graph](int replicas, std::int64_t steps) {
         MatchmakerOptions matchmaker{graph->of(replicas), options.pairing,
                                      Made::rate(options, *graph->of(replicas))};
         matchmaker.gradients = replicas * (steps - 1);
         matchmaker.deadline = options.deadline;
         for (const Member& m : options.members)
           if (m.joins_after)
             matchmaker.joiners.push_back({static_cast<int>(m.worker), *m.joins_after});
         return matchmaker_program(matchmaker);
       }});
  return plan;
}

// Workers that push to their neighbours.
template <class Options>
AlgorithmPlan pushing(const Node& node, Problems& problems) {
  const auto options = read<Options>(node, problems);
  AlgorithmPlan plan;
  plan.options = to_node(options);
  plan.optimizer = options.optimizer;
  plan.divide = [graph = options.graph](int n) {
    Sgp::check_graph(graph, n);
    return DataAxes{.island = n};
  };
  plan.make = [options](Replica& replica) { return std::make_unique<Sgp>(replica, options); };
  return plan;
}

// Gradients that are sent compressed.
template <class Made, class Options>
AlgorithmPlan compressed(const Node& node, Problems& problems) {
  AlgorithmPlan plan = over_replicas<Made, Options>(node, problems);
  plan.divide = [](int n) {
    if (n == 1) throw Error(Category::config, "there is nobody to send compressed gradients to");
    return DataAxes{.replicate = n};
  };
  return plan;
}

// Stages that take micro-batches on by themselves.
template <class Made, class Options>
AlgorithmPlan by_stages(const Node& node, Problems& problems) {
  AlgorithmPlan plan = over_replicas<Made, Options>(node, problems);
  plan.runs_stages = true;
  return plan;
}

AlgorithmPlan read_dgl(const Node& node, Problems& problems) {
  AlgorithmPlan plan = by_stages<Dgl, DglOptions>(node, problems);
  plan.adapt = add_local_heads;
  return plan;
}

const std::vector<std::string> stages_only{"pipeline"};
const std::vector<Refusal> no_division{
    {"tensor", "not available yet: stages that several ranks share"},
    {"context", "not available yet: stages that several ranks share"},
    {"expert", "not available yet: stages that several ranks share"},
    {"recompute", "what a stage computes again is the algorithm's own choice"}};

const std::vector<std::string> inside_and_inner{
    "tensor", "pipeline", "context", "expert", "recompute",          "none",
    "ddp",    "fsdp",     "zero",    "petra",  "reversible-backprop"};
const std::vector<std::string> alone_in_a_replica{"recompute"};
const std::vector<std::string> shared_layers{"tensor", "context", "recompute"};
const char* const pairs_alone =
    "a worker averages while it computes, as soon as a neighbour is there; ranks that share it "
    "would do so at different points of a pass, and compute with parts of different models";
const char* const in_turns =
    "it decides after every few micro-batches whether to take more, and a pipeline's micro-batches "
    "overlap";
const std::vector<Refusal> no_company{{"tensor", pairs_alone},
                                      {"context", pairs_alone},
                                      {"expert", pairs_alone},
                                      {"pipeline", in_turns}};
const Refusal no_sequence{
    "sequence",
    "it adds up micro-batches one by one, and norms' gradients would be summed each time over the "
    "ranks that divide tokens"};
const std::vector<Refusal> one_model_in_turns{
    {"expert",
     "its ranks count each other's micro-batches, and those with the same experts are fewer"},
    {"pipeline", in_turns},
    no_sequence,
    {"evaluate_every", "its replicas have the same parameters after each step"}};
const std::vector<std::string> whole_layers{"pipeline", "context", "recompute"};
const char* const compresses_parts =
    "a message is of all that a rank holds, so ranks that hold some parameters alike, and others "
    "not, would compress those differently";
const std::vector<Refusal> no_parts{{"tensor", compresses_parts}, {"expert", compresses_parts}};
// Of those that compress each parameter by itself.
const Refusal no_part_of_samples{
    "expert", "not available yet: messages of experts, which fewer ranks hold alike"};
const std::vector<Refusal> whole_batches{no_part_of_samples};
const std::vector<Refusal> whole_batches_no_mu{
    no_part_of_samples, {"mu", "not available yet: learning rates by parameter of steps by signs"}};
std::vector<Refusal> and_no(const char* what, const char* reason) {
  std::vector<Refusal> all = no_company;
  all.push_back({what, reason});
  return all;
}
const std::vector<Refusal> no_company_no_mu =
    and_no("mu", "it has one smoothness, from which all its steps follow");
const Refusal own_samples{
    "expert",
    "ranks that divide experts have samples of their own, whose gradients it would have to "
    "average"};
const std::vector<std::string> inside{"tensor", "pipeline", "context", "expert", "recompute"};
const std::vector<std::string> of_one{"tensor", "pipeline", "context", "recompute"};
const std::vector<Refusal> no_experts{own_samples};
const std::vector<Refusal> no_experts_on_the_way{
    own_samples,
    {"evaluate_every", "a part of what its workers have is under way, and belongs to no model"}};

}  // namespace

const std::vector<AlgorithmEntry>& algorithm_table() {
  static const std::vector<AlgorithmEntry> table{
      {"none", "", "algorithms/none.cpp", of_one, no_experts, read_none},
      {"ddp", "arXiv 2006.15704", "algorithms/ddp.cpp", inside, {}, over_replicas<Ddp, DdpOptions>},
      {"local-sgd",
       "arXiv 1805.09767",
       "algorithms/local_sgd.cpp",
       inside_and_inner,
       {},
       over_islands<LocalSgd, LocalSgdOptions>},
      {"slowmo",
       "arXiv 1910.06643",
       "algorithms/slowmo.cpp",
       inside_and_inner,
       {},
       over_islands<SlowMo, SlowMoOptions>},
      {"diloco",
       "arXiv 2311.08105",
       "algorithms/diloco.cpp",
       inside_and_inner,
       {},
       over_islands<Diloco, DilocoOptions>},
      {"streaming-diloco",
       "arXiv 2501.18512",
       "algorithms/streaming_diloco.cpp",
       inside_and_inner,
       {},
       over_islands<StreamingDiloco, StreamingDilocoOptions>},
      {"lopt-a",
       "arXiv 2312.02204",
       "algorithms/lopt_a.cpp",
       inside_and_inner,
       {},
       over_islands<LoptA, LoptAOptions>},
      {"lagg-a",
       "arXiv 2312.02204",
       "algorithms/lagg_a.cpp",
       inside_and_inner,
       {},
       over_islands<LaggA, LaggAOptions>},
      {"acco", "arXiv 2406.02613", "algorithms/acco.cpp", shared_layers, one_model_in_turns,
       decoupled<Acco, 2>},
      {"dpu", "arXiv 2101.06840", "algorithms/dpu.cpp", shared_layers, one_model_in_turns,
       decoupled<Dpu, 1>},
      {"weight-prediction", "arXiv 2406.02613", "algorithms/weight_prediction.cpp", shared_layers,
       one_model_in_turns, decoupled<WeightPrediction, 1>},
      {"a2cid2", "arXiv 2306.08289", "algorithms/a2cid2.cpp", alone_in_a_replica, no_company,
       gossiping<A2cid2, A2cid2Options>},
      {"ad-psgd", "arXiv 1710.06952", "algorithms/ad_psgd.cpp", alone_in_a_replica, no_company,
       gossiping<AdPsgd, AdPsgdOptions>},
      {"dadao", "arXiv 2208.00779", "algorithms/dadao.cpp", alone_in_a_replica, no_company_no_mu,
       gossiping<Dadao, DadaoOptions>},
      {"sgp", "arXiv 1811.10792", "algorithms/sgp.cpp", of_one, no_experts, pushing<SgpOptions>},
      {"overlap-sgp", "arXiv 1811.10792", "algorithms/sgp.cpp", of_one, no_experts_on_the_way,
       pushing<OverlapSgpOptions>},
      {"qsgd", "arXiv 1610.02132", "algorithms/qsgd.cpp", whole_layers, no_parts,
       compressed<Qsgd, QsgdOptions>},
      {"topk", "arXiv 1809.07599", "algorithms/topk.cpp", whole_layers, no_parts,
       compressed<TopK, TopKOptions>},
      {"dgc", "arXiv 1712.01887", "algorithms/dgc.cpp", whole_layers, no_parts,
       compressed<Dgc, DgcOptions>},
      {"powersgd", "arXiv 1905.13727", "algorithms/powersgd.cpp", of_one, whole_batches,
       compressed<PowerSgd, PowerSgdOptions>},
      {"onebit-adam", "arXiv 2102.02888", "algorithms/onebit_adam.cpp", whole_layers, no_parts,
       compressed<OnebitAdam, OnebitAdamOptions>},
      {"demo", "arXiv 2411.19870", "algorithms/demo.cpp", of_one, whole_batches_no_mu,
       compressed<Demo, DemoOptions>},
      {"petra", "arXiv 2406.02052", "algorithms/petra.cpp", stages_only, no_division,
       by_stages<Petra, PetraOptions>},
      {"reversible-backprop", "arXiv 1707.04585", "algorithms/reversible_backprop.cpp", stages_only,
       no_division, by_stages<ReversibleBackprop, ReversibleBackpropOptions>},
      {"delayed-gradients", "arXiv 2406.02052", "algorithms/delayed_gradients.cpp", stages_only,
       no_division, by_stages<DelayedGradients, DelayedGradientsOptions>},
      {"dgl", "arXiv 1901.08164", "algorithms/dgl.cpp", stages_only, no_division, read_dgl},
      {"zero", "arXiv 1910.02054", "algorithms/zero.cpp", inside, {}, read_zero},
      {"fsdp", "arXiv 2304.11277", "algorithms/fsdp.cpp", inside, {}, read_fsdp},
  };
  return table;
}

const AlgorithmEntry* find_algorithm(const std::string& name) {
  for (const AlgorithmEntry& entry : algorithm_table())
    if (entry.name == name) return &entry;
  return nullptr;
}

std::vector<std::string> algorithm_names() {
  std::vector<std::string> names;
  for (const AlgorithmEntry& entry : algorithm_table()) names.push_back(entry.name);
  return names;
}

void describe(Fields<AlgorithmSpec>& f) {
  f.field("name", &AlgorithmSpec::name)
      .doc(
          "as `orrery list algorithms` names them; none is a single replica; other keys are the "
          "algorithm's own");
  f.rest(&AlgorithmSpec::options);
}

void read_algorithm(AlgorithmSpec& algorithm, const std::string& path, Problems& problems) {
  if (const AlgorithmEntry* entry = find_algorithm(algorithm.name)) {
    algorithm.plan = entry->read(algorithm.options, problems);
    algorithm.options = algorithm.plan.options;
    return;
  }
  const std::string names = join(algorithm_names(), ", ");
  const std::string near = did_you_mean(algorithm.name, algorithm_names());
  problems.add(path, fmt::format("unknown algorithm '{}'", algorithm.name),
               near.empty() ? "there are " + names : near);
}

}  // namespace orrery
