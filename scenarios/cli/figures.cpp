#include "scenarios/cli/figures.hpp"

namespace orrery::cli {

namespace {

const std::vector<Figure> figure_table{
    {"schema", "", "Name and version of the format."},
    {"scenario", "", "The scenario's file name without its ending."},
    {"world", "", "Where the program ran: sim (a simulated cluster) or cpu (this machine)."},
    {"model", "", "The model's name."},
    {"parameters", "count", "Parameters of the model; shared ones count once."},
    {"algorithm", "", "The training algorithm; `orrery explain` knows each."},
    {"cluster", "", "The simulated cluster; null in a run on this machine."},
    {"gpus", "", "The GPUs in use, by model."},
    {"ranks", "count", "Ranks of the program: one per GPU."},
    {"simulated_ranks", "count", "Ranks that were simulated one by one; fewer when folded."},
    {"steps", "count", "Optimizer updates of this run, without those before a resumption."},
    {"steps_before", "count",
     "Steps that the checkpoint held which this run continued; absent where none did. All figures "
     "are of the steps after them."},
    {"seed", "", "Seed of every random number (run.seed)."},
    {"step_time_s", "seconds",
     "Mean over steps 2 to n of the slowest rank's step, end to end (n = 1: that step). A step "
     "is one optimizer update. The slowest rank is the one whose steps took longest in all."},
    {"step_time_low_s", "seconds",
     "Lower end of the forecast's band: step_time_s with the times of every measured table moved "
     "down by the root of p90^2 + spread^2; p90 is the error that nine tenths of the points held "
     "back from the table do not exceed, spread how far repetitions lie from their median. Null "
     "where no table of the platform knows its error: the band is the calibration's, and says "
     "nothing of what was not measured."},
    {"step_time_high_s", "seconds", "Upper end of that band: the same, moved up."},
    {"tokens_per_s", "tokens per second",
     "global_batch x sequence / step_time_s (samples for a model without a sequence)."},
    {"tokens_per_s_per_gpu", "tokens per second", "tokens_per_s / ranks."},
    {"flops_per_step", "FLOP",
     "Model FLOPs of a step over all ranks by run.flop_rule. full: every GEMM of forward and "
     "backward, the logits included, and attention with the whole s^2 term; no embedding "
     "look-up, no recomputation."},
    {"flop_rule", "", "The rule of flops_per_step: full, megatron-causal, palm or 6n."},
    {"peak_tflops", "TFLOP/s per GPU",
     "Dense peak at the type of the GEMMs, mean over the GPUs. Never the sparse figure."},
    {"tflops_per_gpu", "TFLOP/s per GPU", "flops_per_step / (step_time_s x ranks)."},
    {"mfu", "fraction",
     "Model FLOP utilisation: flops_per_step / (sum of the dense peaks x step_time_s). "
     "Recomputation does not count: MFU asks how fast the model is trained, not how busy the "
     "GPUs are (Chowdhery et al. 2022, arXiv 2204.02311, appendix B)."},
    {"hfu", "fraction",
     "Hardware FLOP utilisation: as mfu, with the FLOPs that recomputation executes added. hfu "
     ">= mfu, equal without recomputation."},
    {"time", "seconds",
     "Where the step of the slowest rank goes; the parts sum to step_time_s within 1e-9."},
    {"compute_s", "seconds", "The compute stream runs a kernel."},
    {"exposed_communication_s", "seconds",
     "The compute stream waits for a collective. Communication beside computation is not exposed "
     "and costs no step time, but for the SMs and the bandwidth it takes."},
    {"bubble_s", "seconds",
     "The compute stream waits for a neighbouring pipeline stage, on an edge channel."},
    {"overhead_s", "seconds",
     "The compute stream waits for the host, which issues kernels more slowly than they run."},
    {"idle_s", "seconds", "The compute stream waits for anything else."},
    {"work", "seconds",
     "Where the slowest rank's compute stream spends compute_s, per step; null where it was not "
     "kept (simulations of more than 64 GPUs, or with a value model). `kernels` has a row for "
     "each kernel of each operation: its class and phase, calls and time. A sequence of kernels "
     "that a GPU was timed on as a whole is one row without a kernel, of the class `undivided`. "
     "`native`, of a run with --profile where CUPTI was there: the functions that the GPU ran for "
     "each kernel and its own time for them, without what lies between two."},
    {"phases_s", "seconds",
     "Computing per step by the names of operations: forward (with passes that are run again to "
     "save memory), backward, optimizer (its kernels, the norm of the gradients and their "
     "clipping), other (zeroed gradients, batches, an algorithm's own kernels)."},
    {"classes_s", "seconds",
     "Computing per step by kind of kernel: gemm (convolutions too), attention, norm, "
     "elementwise, cross_entropy, embedding, optimizer, copy, other, undivided; those that take "
     "no time are left out."},
    {"communication", "",
     "Per step of the slowest rank: calls, bytes it sends (ring or pairwise algorithm), time of "
     "the transfers, and how much of it was exposed; by group, lane and operation."},
    {"staleness", "fraction",
     "Share of the micro-batches whose gradients were applied to parameters that are so many "
     "`updates` beyond those that they were computed with; counted in the run, over all ranks. "
     "`predicted`: computed with an estimate of these (ACCO, weight prediction). Under gossip an "
     "averaging is an update too; under PETRA and pipelines that never drain a stage counts its "
     "own. Inner gradients of DiLoCo and its kind are 0 late; their outer ones are not counted."},
    {"workers", "fraction",
     "By rank, where each is a worker and losses are there: its share of all samples, and the "
     "share of the counted steps in which it does not compute."},
    {"memory", "bytes",
     "The rank with the largest peak: its peak, the device's capacity, and what was held by "
     "label at that moment. Charged when allocated, refunded in order of issue; the same in "
     "every world. Fragmentation and what a framework itself holds are not in it. `pool`, of a run "
     "on GPUs: the most that CUDA's own pools had in use from the second step on (in the first, "
     "products "
     "are tried out on memory of their own) and reserved at any time, over all GPUs."},
    {"loss", "nats", "Mean over replicas, per step; empty when values are virtual."},
    {"loss_at", "",
     "By step its loss and what it took until then: simulated or measured seconds, samples of all "
     "workers, bytes that a rank sent (by the algorithm's cost block, else by the counters, "
     "on average over ranks and steps). Under gossip a step is as many gradients as there are "
     "workers, in the order in which they ended; `loss` goes by each worker's own steps."},
    {"loss_held_out", "nats",
     "Mean loss of the model at the end on data.held_out; absent where nothing is held out."},
    {"loss_consensus", "nats",
     "Mean loss on data.held_out of the mean of all replicas' parameters, after every "
     "data.evaluate_every steps of each; absent where that is not asked for."},
    {"activities", "count", "Operations that streams completed, over all ranks."},
    {"flows", "count", "Transfers that shared links; 0 when communication is analytic."},
    {"assumptions", "",
     "Numbers behind the result that were neither measured, fitted nor published: where they "
     "stand, their value, and why they were chosen."},
    {"warnings", "", "Sentences of advice; on a terminal they go to stderr."},
    {"fingerprint", "",
     "SHA-256 of everything in the result but itself and `host`. The same scenario, seed and "
     "version give the same."},
    {"host", "",
     "What the program itself took: wall and CPU seconds, peak memory, version and build. Not "
     "part of the result proper."}};

}  // namespace

const std::vector<Figure>& figures() { return figure_table; }

}  // namespace orrery::cli
