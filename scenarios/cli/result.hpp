// The result of a simulation or a run: the figures, their definitions, and their JSON form (schema
// orrery.result/1).
//
// step_time_s: mean over steps 2..n of the slowest rank's step end to end (of the only step when n
// = 1). The slowest rank is the one whose steps took longest in all, the lowest number among
// equals; `time` is that rank's compute stream and its parts sum to step_time_s. `communication` is
// per step of that rank. `memory` is of the rank with the largest peak. Figures that are not known
// are empty (null in JSON), never 0. Everything outside `host` is the same, byte for byte, for the
// same scenario, seed and version; `fingerprint` is the SHA-256 of it without itself.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/units.hpp"
#include "backend/ledger.hpp"
#include "backend/world.hpp"
#include "scenarios/cli/work.hpp"

namespace orrery::cli {

// What a result is of.
struct Subject {
  std::string scenario, model, algorithm;
  std::int64_t parameters = 0;  // of the model, shared ones once
  std::string cluster,
      gpus;          // "16 x a100-sxm-80gb"; both empty in a run on this machine
  std::string plan;  // "data 16, 4 micro-batches of 4 x 4,096 tokens"
  std::int64_t steps = 1;
  std::uint64_t seed = 1;
};

// How busy the links of a tier were over the whole run: bytes carried over bytes that they could.
struct LinkRow {
  std::string tier, busiest;
  int links = 0;
  double busiest_share = 0, mean_share = 0;
};

// What a link carried over the whole run.
struct LinkUse {
  std::string name, tier;
  double bandwidth = 0, bytes = 0, share = 0;  // share: bytes over those that it could carry
};

// A step with one resource free or doubled. MFU is that of the same GPUs.
struct BottleneckRow {
  std::string resource, change;
  double step_time_s = 0, mfu_points = 0;  // a hundredth of the peak each
};

// Share of the gradients that were applied to parameters so many updates beyond those that they
// were computed with; `predicted`: which were foretold to be these.
struct StalenessRow {
  std::int64_t updates = 0;
  bool predicted = false;
  double share = 0;
};

// The loss on data.held_out of the mean of all replicas' parameters, after so many steps of each.
struct ConsensusRow {
  std::int64_t step = 0;
  double loss = 0;
  double seconds = 0;  // when the last of them had ended
};

// What is known before the run.
struct ResultInput {
  Subject subject;
  std::string world, flop_rule;
  int ranks = 1, simulated_ranks = 1;
  std::int64_t tokens_per_step = 0;
  Flops flops_per_step{0};       // model FLOPs by flop_rule, over all ranks
  Flops full_flops_per_step{0};  // by the rule "full"
  Flops evaluation_flops{0};     // after the last step, over all ranks
  // What a step would execute by plan, where it has as many samples as the algorithm likes: then
  // tokens and FLOPs per step above are by plan too, and a result has those that were.
  std::optional<Flops> planned_flops_per_step;
  std::optional<FlopsPerSecond> peak;  // summed over all devices, at the GEMM type
  std::optional<double> step_time_low_s, step_time_high_s;  // the band; see band.hpp
  Bytes capacity;                                           // 0: not limited
  struct Assumption {
    std::string path, value, reason;
  };
  std::vector<Assumption> assumptions;
  std::vector<std::string> warnings;
  // Samples that each rank took in each of its steps; empty where workers are not told of one by
  // one: then all take `samples_per_step` together.
  std::vector<std::vector<std::int64_t>> samples;
  std::int64_t samples_per_step = 0;
  bool takes_turns = false;  // workers take steps as they come to them, `subject.steps` on average
  std::vector<double> sent;  // bytes of a rank until each step, by plan; empty: as counted
  std::vector<StalenessRow> staleness;
  std::vector<ConsensusRow> loss_consensus;  // every data.evaluate_every steps
  bool unequal = false;                      // GPUs differ, in kind or condition
  std::vector<LinkRow> links;                // where they were counted
  std::vector<LinkUse> link_use;             // there too
  std::int64_t steps_before = 0;             // of a resumed run; subject.steps are this process's
  double wall_s = 0, cpu_s = 0;
};

// A rank's part in the training, where each rank is a worker.
struct WorkerRow {
  double sample_share = 0;  // of all samples
  double idle_share = 0;    // of the counted steps in which it does not compute
};

struct CommunicationRow {
  std::string group, operation, lane;
  double calls = 0, bytes_per_rank = 0, time_s = 0, exposed_s = 0;
};

// By step with a loss, what it took until then: time, samples of all workers, bytes that a rank
// sent. A step is that of all workers; where they take steps as they come to them, it is as many of
// their steps as there are workers, in the order in which these ended.
struct Curve {
  std::vector<double> loss;  // mean of the step
  std::vector<double> seconds;
  std::vector<std::int64_t> samples;
  std::vector<double> bytes_per_rank;
};

struct Result {
  // Step times of the other replicas, beside that of this result.
  void add_replicas(std::vector<double> others);
  // In the order of what they are worth; with the pipeline's bubble, free.
  void add_limits(std::vector<BottleneckRow> rows);

  ResultInput input;
  double step_time_s = 0;
  double compute_s = 0, exposed_communication_s = 0, bubble_s = 0, overhead_s = 0, idle_s = 0;
  std::optional<double> mfu, hfu, peak_tflops, tflops_per_gpu;
  double tokens_per_s = 0, tokens_per_s_per_gpu = 0;
  std::vector<double> replica_steps_s;  // ascending, this one's among them; empty: one replica
  std::vector<BottleneckRow> limits;
  // Share of the counted steps in which a rank computes: the least, the middle and the most of all.
  double busy_least = 0, busy_median = 0, busy_most = 0;
  std::vector<WorkerRow> workers;  // by rank, where input.samples are known
  std::vector<CommunicationRow> communication;
  std::vector<WorkLine> work;      // empty: not kept
  std::vector<NativeLine> native;  // empty: nothing measured it
  std::optional<PoolUse> pool;     // where memory comes from CUDA's pools
  int memory_rank = 0;
  Bytes peak_bytes;
  BytesByLabel by_label{};
  std::vector<double> loss;  // mean over replicas, per step
  Curve curve;
  std::optional<double> loss_held_out;  // of the model at the end, on data.held_out
  std::uint64_t activities = 0, flows = 0;
  std::uint64_t peak_rss_bytes = 0;
  std::string version, build;
};

// Between the two nearest of sorted numbers.
double quantile(const std::vector<double>& ascending, double q);

Result make_result(ResultInput input, const RunReport& report);
std::string to_json(const Result& result);  // one object, with a final newline
std::string to_table(const Result& result, bool color);
// What a table says first: who is trained, how, where.
std::string heading(const Subject& subject, bool color);
// Advice that the figures suggest, each a sentence; added to the warnings of the input.
std::vector<std::string> advice(const Result& result);
// One line per step: its number, when it ended, its loss.
std::string metrics_csv(const RunReport& report, const Result& result);
// The JSON that stands in place of a result when there is none.
std::string error_json(const std::exception& error);

}  // namespace orrery::cli
