// Pipeline schedules as data.
//
// A schedule says which part of the model each device holds and in which order it computes: a list
// of tasks per device, nothing else. One function per schedule makes it from a PipelineShape; one
// executor (executor.hpp) runs it, a list simulator (timeline.hpp) lays it out in time.
//
// A stage is one of the parts that the layers are divided into; a device holds one stage or, as
// chunks, several; a pipe is one way through all stages. Most schedules have one pipe.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace orrery {

// backward = backward_input, the gradient of a stage's input, and backward_weight, those of its
// parameters. Only the former is what the stage before waits for.
enum class Work : unsigned char { forward, backward, backward_input, backward_weight };

struct PipelineTask {
  Work work = Work::forward;
  int chunk = 0;  // of this device
  int micro_batch = 0;
  // Starts together with the task behind it, when the inputs of both are there, and hands on its
  // output when that one ends: a forward overlapped with a backward.
  bool paired = false;
  bool operator==(const PipelineTask&) const = default;
};
using TaskList = std::vector<PipelineTask>;

// What a device's chunk is.
struct Chunk {
  int stage = 0, pipe = 0;
  bool operator==(const Chunk&) const = default;
};

// Of one stage; communication is a transfer between neighbours. A whole backward takes both parts.
struct TaskTimes {
  double forward = 1, backward_input = 1, backward_weight = 1, communication = 0;
  bool operator==(const TaskTimes&) const = default;
};

// What a schedule is made for.
struct PipelineShape {
  int devices = 1, micro_batches = 1;
  int chunks = 1;              // per device, where a schedule leaves the choice
  bool vertical_sync = false;  // pipedream
  // zb-auto: the micro-batches that a device may hold (0: as many as there are devices), the times
  // that it plans with, and the part of a micro-batch's activations that stays from backward_input
  // to the weight gradients.
  int activation_limit = 0;
  TaskTimes times{};
  double for_weights = 1;
  bool operator==(const PipelineShape&) const = default;
};

// Who holds a stage of a pipe: a chunk of a device. Nobody: device -1.
struct Holder {
  int device = -1, chunk = 0;
  explicit operator bool() const { return device >= 0; }
  bool operator==(const Holder&) const = default;
};

struct PipelineSchedule {
  // Without tasks yet. `chunks` by device.
  PipelineSchedule(std::string name, const PipelineShape& shape,
                   std::vector<std::vector<Chunk>> chunks);

  std::string name;
  int devices, micro_batches, stages = 1, pipes = 1;
  std::vector<std::vector<Chunk>> chunks;  // by device: the map of chunks to devices
  std::vector<TaskList> tasks;             // by device, of one step, in order
  // Of a schedule that never drains: what each device does before its first step, and by how many
  // updates the parameters lag behind that a device's micro-batches use. A step's tasks have
  // micro-batch numbers of steps to come, then. Empty when each step starts and ends with no
  // micro-batch in flight.
  std::vector<TaskList> warm_up;
  std::vector<int> delays;

  bool drains() const { return delays.empty(); }
  // Which micro-batches of a step go through a pipe: [first, last).
  std::pair<int, int> micro_batches_of(int pipe) const {
    return {micro_batches / pipes * pipe, micro_batches / pipes * (pipe + 1)};
  }
  Holder holder(int stage, int pipe) const;  // nobody beyond the ends
  // Whose output a task takes, and who takes its own: the stage before or behind in the pipe;
  // nobody at its ends, and for weight gradients.
  Holder source(int device, const PipelineTask& task) const { return neighbour(device, task, -1); }
  Holder target(int device, const PipelineTask& task) const { return neighbour(device, task, +1); }

 private:
  Holder neighbour(int device, const PipelineTask& task, int direction) const;
  std::vector<Holder> holders_;  // by pipe and stage
};

// GPipe (Huang et al. 2019, arXiv 1811.06965): all forwards, then all backwards. Bubble (p - 1)(F +
// B); peak: m micro-batches on every device.
PipelineSchedule gpipe(const PipelineShape& shape);

// 1F1B with flush (PipeDream-flush, Narayanan et al. 2021, arXiv 2006.09503; Megatron-LM's
// default): min(p - 1 - s, m) forwards, then forward and backward in turn, then the backwards left.
// Bubble (p - 1)(F + B); peak: min(p - s, m) micro-batches on device s.
PipelineSchedule one_forward_one_backward(const PipelineShape& shape);

// interleaved-1f1b (Narayanan et al. 2021, arXiv 2104.04473, section 2.2.2; NVIDIA/Megatron-LM,
// megatron/core/pipeline_parallel/schedules.py): device r holds stages r, r + p, …, r + (v - 1) p.
// Bubble (p - 1)(F + B) / v, v times the messages; peak (v p + p - 1) / v micro-batches on the
// first device. m must be a multiple of p.
PipelineSchedule interleaved(const PipelineShape& shape);

// pipedream (Harlap et al. 2018, arXiv 1806.03377): 1F1B that never drains; each
// micro-batch's backward is followed by an update. Its forward and backward use the same version
// of the parameters, which device s updates p - 1 - s times in between: it keeps p - s versions.
// With vertical sync all stages use versions of the same age, p - 1, and keep p. No bubble.
PipelineSchedule pipedream(const PipelineShape& shape);

// pipedream-2bw (Narayanan et al. 2021, arXiv 2006.09503, section 3.1): 1F1B that never drains,
// with an update every m >= p micro-batches, by a gradient at the parameters before the last
// update: w(t+1) = w(t) - lr g(w(t-1)). Two versions on every device, no bubble.
PipelineSchedule pipedream_2bw(const PipelineShape& shape);

// petra (Rivaud et al. 2024, arXiv 2406.02052, table 1): 1F1B that never drains, device s being
// 2 (p - 1 - s) forwards ahead of its backwards, as where each device does one of each at a time
// and hands both on. With an update every k micro-batches the parameters of a forward are at most
// ceil(2 (p - 1 - s) / k) updates older than those of its backward. The order of algorithms that
// run stages themselves (algorithms/petra.cpp).
PipelineSchedule petra(const PipelineShape& shape);

// chimera (Li and Hoefler 2021, SC, arXiv 2107.06925): two pipes in opposite directions through p
// (even) devices, each for half of the micro-batches. With F = B the bubble is p - 2 of 2 m + p - 2
// slots. Each device holds two stages, each stage is on two devices, which add their gradients at
// the end of a step; peak between p / 2 + 1 and p micro-batches. m must be a multiple of p.
PipelineSchedule chimera(const PipelineShape& shape);

// zb-h1 (Qi et al. 2024, ICLR, arXiv 2401.10241, section 2.2): 1F1B whose weight gradients wait:
// device s is s behind with them. Bubble (p - 1)(F + Bi - W); peak as 1F1B's on the first device.
PipelineSchedule zero_bubble_h1(const PipelineShape& shape);

// zb-h2 (Qi et al. 2024, ICLR, arXiv 2401.10241, section 2.3): 2 (p - 1 - s) forwards first and
// 2 s weight gradients behind. No device idles from its first task to its last if F = Bi = W, else
// bubble (p - 1)(F + Bi - 2 W); peak 2 p - 1 micro-batches. m must be at least 2 p - 1.
PipelineSchedule zero_bubble_h2(const PipelineShape& shape);

// zb-v (Qi et al. 2024, arXiv 2401.10241, section 6; pytorch/pytorch,
// torch/distributed/pipelining/schedules.py): device r holds stages r and 2 p - 1 - r, so that the
// last stage's gradient is at once on the first device. No bubble if F = Bi = W; peak as 1F1B's.
PipelineSchedule zero_bubble_v(const PipelineShape& shape);

// v-half (Qi et al. 2024, NeurIPS, arXiv 2405.15362, section 3): the V of zb-v with other offsets
// in its building block: half of 1F1B's peak, half of its bubble.
PipelineSchedule v_half(const PipelineShape& shape);

// v-min (Qi et al. 2024, NeurIPS, arXiv 2405.15362, section 3): the V of zb-v at the least peak, a
// third of 1F1B's, with two thirds of its bubble and more where F, Bi and W differ.
PipelineSchedule v_min(const PipelineShape& shape);

// zb-auto (Qi et al. 2024, ICLR, arXiv 2401.10241, section 3.1; the sources' ZB-1p and ZB-2p are
// its limits p and 2 p): the best of eight list heuristics for the stages' times, under a limit of
// the micro-batches that a device holds.
PipelineSchedule zero_bubble_auto(const PipelineShape& shape);

// dualpipe (DeepSeek-AI 2024, arXiv 2412.19437, section 3.2.1; deepseek-ai/DualPipe): two pipes in
// opposite directions, whose forwards and backwards run in overlapped pairs. Bubble (p / 2 - 1)(F&B
// + B - 3 W); each stage is on two devices, peak p + 1 micro-batches. p even, m even, m >= 2 p.
PipelineSchedule dualpipe(const PipelineShape& shape);

// dualpipev (deepseek-ai/DualPipe, dualpipe/dualpipev.py): one half of DualPipe's devices, each
// with the stages r and 2 p - 1 - r of one pipe. Bubble (p - 1)(F&B + B - 3 W), peak 2 p + 1
// stages' micro-batches. m >= 2 p.
PipelineSchedule dualpipev(const PipelineShape& shape);

// The names of all schedules above, as in scenarios.
std::vector<std::string> schedule_kinds();
// How many stages of the model the named schedule gives each device in a pipe.
std::int64_t stages_per_device(const std::string& name, std::int64_t chunks);
// What stands against making a schedule for this shape, every reason; empty when it can be made.
struct Objection {
  std::string about;  // "pipeline", "chunks", "micro_batches", …
  std::string text, advice;
};
std::vector<Objection> objections(const std::string& name, const PipelineShape& shape);
// By the name used in scenarios. Error{config} for an unknown one and for objections. The same
// object for all who ask for the same one after each other.
std::shared_ptr<const PipelineSchedule> make_schedule(const std::string& name,
                                                      const PipelineShape& shape);

}  // namespace orrery
