// Published measurements: files of cases, one file per source.
//
//   const MeasuredFile file = read_measured_file("scenarios/published/vtrain-single.yaml");
//
// A file has a head (`source`, `trust`, `notes`; optionally `defaults`, `stack` and more) and a
// list `cases` of flat mappings, each with an `id` of its own and a `kind`. `defaults` and `stack`
// hold for every case of the file; the case wins. Keys of a case that are not used here are left
// alone: they document the measurement.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/core/config.hpp"

namespace orrery {

// Units: seconds, bytes, TFLOP/s of 1e12, GB/s of 1e9, fractions. Absent: not printed. Texts are
// those of the source (aliases.hpp tells what they mean).
struct MeasuredCase {
  using Count = std::optional<std::int64_t>;
  using Figure = std::optional<double>;

  std::string id, kind;
  Node model, gpu, interconnect, scale_up_domain, precision, recompute, sharding, pp_schedule;
  Node framework, stack, op, stage, tflops_def, attention;
  Node ffn_hidden, kv_heads;  // a number, or a product such as 4*hidden
  Node tokens;                // of an elementwise operation, a number; of a run, any text
  Count layers, hidden, heads, vocab, seq_len, experts;
  std::optional<bool> swiglu, sequence_parallel, compile, fp8_all_gather;
  Count gpus, gpus_per_node, gpus_per_node_used, nodes;
  Count tp, pp, dp, cp, ep, vpp;
  Count micro_batch, grad_accum, num_microbatches, global_batch, local_batch, batch_per_dp;
  Count m, n, k, batch, qk_head_dim, v_head_dim;
  Figure bytes, peak_tflops;
  Count sync_every, fragment_layers, overlap_steps, outer_bits;  // of DiLoCo and its kind
  Figure params, step_s, compute_utilization;
  Node arch;
  // Measured.
  Figure bandwidth_gbit_s, inner_phase_s, allreduce_median_s;
  Figure iter_s, iter_s_derived, tokens_s, tokens_s_gpu, samples_s_gpu, tflops_gpu, mfu;
  Figure mem_gib_reported;
  Figure time_s, efficiency, busbw_gb_s, algbw_gb_s;
  Figure bubble_rate, t_fwd_s, t_bwd_input_s, t_bwd_weight_s, t_comm_s;  // of a pipeline, a stage
  // Of the first stage; over that of tensor parallelism alone.
  Figure activation_gib, activation_memory_rel;
  Node rest;

  std::string unreadable;  // what is wrong with a value, with its place; "" when nothing is
};
void describe(Fields<MeasuredCase>& f);

struct MeasuredFile {
  std::string name;         // base name: "vtrain-single.yaml"
  std::string title, repo;  // of the source; "" when it names none
  std::vector<MeasuredCase> cases;
};

// Throws ConfigError with everything that is wrong with the form of the file: syntax, no cases, a
// case without id or kind, an id given twice. A value that cannot be read makes its case
// `unreadable`, so that one odd figure does not cost all others.
MeasuredFile read_measured_file(const std::string& path);

// The text of a scalar; "" for anything else.
std::string word(const Node& node);

// An architecture size that may be written as a product of numbers and other sizes: "4*hidden",
// "8/3*hidden" (rounded). Empty when the node is null; throws NotScored (not_scored.hpp) for
// anything else.
std::optional<std::int64_t> size_of(const Node& node, const MeasuredCase& c);

}  // namespace orrery
