// The table of algorithms: what a scenario can name, what it reads, and how a rank makes it.
//
// A new algorithm is a class, its options with their keys (`describe`), and one row of
// algorithm_table.cpp.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "algorithms/replica.hpp"
#include "backend/core/config.hpp"
#include "backend/world.hpp"

namespace orrery {

// How the ranks that hold the same part of the model divide into axes: parameters are sharded over
// `shard`, gradients averaged over shard and replicate, and islands meet less often. Groups that
// divide experts lie inside the shards, or where nothing is sharded among the replicas.
struct DataAxes {
  int shard = 1, replicate = 1, island = 1;
  bool sharded = false;  // a model copy over `shard`, be that one rank
  int expert = 1;
  int around_experts() const { return sharded ? shard : replicate; }  // what groups divide
  DataAxes with_experts(int groups_of) const {
    DataAxes axes = *this;
    (sharded ? axes.shard : axes.replicate) /= groups_of;
    axes.expert = groups_of;
    return axes;
  }
};

// An algorithm with its options.
struct AlgorithmPlan {
  Node options;             // as it reads them, defaults included
  OptimizerSpec optimizer;  // of a replica's parameters
  // Error{config} for a number of replicas that it cannot train.
  std::function<DataAxes(int data_parallel)> divide;
  std::function<std::unique_ptr<Algorithm>(Replica&)> make;  // on every rank, in set-up
  bool owns_optimizer = false;                               // as the class says
  bool open_ended = false;  // decides how many samples a step has as it goes
  int micro_batches = 1;    // a replica's, per step: a multiple of this
  Sharding sharding{};      // of the replica it is given
  // Programs beside the ranks that it needs: the name that ranks know one by, and its program for
  // so many replicas and steps.
  struct Beside {
    std::string name;
    std::function<World::ServiceProgram(int replicas, std::int64_t steps)> program;
  };
  std::vector<Beside> services{};
  // Gradients hold nothing but what one step's micro-batches add, so that where a step has one, its
  // backward may write them.
  bool fresh_gradients = false;
  bool runs_stages = false;  // takes micro-batches through pipeline stages itself
  // What it changes of the model before the replica is made, for so many stages; may be null.
  std::function<void(Model&, ReplicaOptions&, int stages)> adapt{};
};

// What an algorithm does not combine with, and why.
struct Refusal {
  std::string what;  // as in AlgorithmEntry::composes_with
  std::string reason;
};

struct AlgorithmEntry {
  std::string name;    // as scenarios write it
  std::string paper;   // "arXiv 2006.15704"; empty: none
  std::string source;  // the file whose opening comment explains it: paper, pseudo-code, cost
  // Ways to divide a replica (tensor, pipeline, context, expert), `recompute`, and names of
  // algorithms that it can hold.
  std::vector<std::string> composes_with;
  std::vector<Refusal> refuses;  // where there is more to say than that it is not in composes_with
  AlgorithmPlan (*read)(const Node& options, Problems& problems);
};

const std::vector<AlgorithmEntry>& algorithm_table();
const AlgorithmEntry* find_algorithm(const std::string& name);  // null: unknown
std::vector<std::string> algorithm_names();

// The keys of `algorithm`.
struct AlgorithmSpec {
  std::string name = "ddp";
  Node options;        // as the algorithm reads them, defaults included
  AlgorithmPlan plan;  // filled in by read_algorithm
};
void describe(Fields<AlgorithmSpec>& f);

// Looks the algorithm up and reads its options; `path` is where `name` stands, for messages.
void read_algorithm(AlgorithmSpec& algorithm, const std::string& path, Problems& problems);

}  // namespace orrery
