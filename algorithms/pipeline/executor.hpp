// Runs any pipeline schedule on one device: the one place where stages exchange activations and
// gradients.
//
// A port is one kind of traffic, activations or gradients, along one directed edge between devices;
// what comes in and what goes out has a stream each, so transfers run beside the computation. A
// port carries its messages in the order in which their sender's tasks make them, which the
// receiver knows from the schedule too. With one device there are none, and the schedule is plain
// gradient accumulation.
//
// Buffers take turns: a stage receives into as many as the schedule has transfers under way, and
// what it sends is freed once it is sent. Not so under torch.distributed.pipelining, which has
// schedules that drain (pytorch/pytorch, torch/distributed/pipelining/stage.py at the end of 2024):
//   keeps_received   a buffer for each micro-batch's activations and one for its gradients, for all
//                    of the training (_prepare_forward_infra, _prepare_backward_infra); till the
//                    next step the gradients of what was received (clear_runtime_states; pull
//                    request 164329 frees them) and the last stage's outputs, which are merged at
//                    the end of the step (PipelineScheduleSingle.step, _merge_outputs)
//   keeps_sent       and the outputs of the other stages, output_chunks (till pull request 153383,
//                    May 2025)
// Cost, for m micro-batches of n elements between stages: 3 m n from the end of a step on, m n on
// the first stage, 2 m n and the outputs on the last, which copies and holds them once more while
// they are merged; with keeps_sent m n more on all but the last.
#pragma once

#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "algorithms/pipeline/schedule.hpp"
#include "algorithms/progress.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

class PipelineExecutor {
 public:
  PipelineExecutor(Replica& replica, int device);
  // Issues one step's tasks; of a schedule that never drains those that its update waits for.
  void run(Progress& progress);

 private:
  using Message = std::pair<int, int>;  // chunk that takes it, micro-batch
  struct Arrival {
    Tensor buffer;
    Event event;
  };
  struct Port {
    Channel* edge = nullptr;
    Stream* in = nullptr;   // null: nothing comes in
    Stream* out = nullptr;  // null: nothing goes out
    int distance = 0, sender = 0;
    std::vector<Message> order;  // of a step's incoming messages
    std::size_t next = 0;        // in `order`
    std::map<Message, Arrival> arrived;
    std::deque<Event> released;  // after which buffers received earlier are free again
    std::deque<Event> sent;
  };
  // Passes issued in this step.
  struct Count {
    int forward = 0, backward = 0, weights = 0;
  };
  void open_ports();
  void allocate_received();
  Tensor allocate(Stream& stream, const Message& message, bool gradients) const;
  Tensor buffer(Port& port, const Message& message, bool gradients) const;
  void merge_outputs();
  int offset(int from, int to) const;
  Port* port_from(const Holder& sender, bool gradients);
  Tensor take_input(const PipelineTask& task);
  Tensor receive(Port& port, const Message& message, bool gradients);
  TaskList tasks_of_step(int device, const Progress& progress) const;
  std::vector<Message> messages(const Port& port, const TaskList& tasks, bool gradients) const;
  void begin(const Progress& progress);
  void finish(const Progress& progress);
  Tensor compute(std::size_t i, Tensor input, const Progress& progress, const Unit* next);
  void release(const PipelineTask& task);
  void keep(const PipelineTask& task, const Tensor& output);
  void hand_on(const PipelineTask& task, Tensor output);
  void issue(std::size_t first, std::size_t last, const Progress& progress);

  Replica& replica_;
  const PipelineSchedule& schedule_;
  int device_;
  // Of this step, without the ends of the run; micro-batches of a schedule that never drains are
  // numbered from the first step of the training on.
  TaskList tasks_;
  bool under_way_ = false;  // a schedule that never drains has begun
  std::size_t buffers_ = 2;
  std::map<std::pair<bool, int>, Port> ports_;              // by (gradients, offset)
  std::map<std::pair<bool, Message>, Tensor> handed_over_;  // between chunks of this device
  std::vector<Count> counts_;                               // by chunk
  bool keeps_received_, keeps_sent_;
  std::map<std::pair<bool, Message>, Tensor> received_;  // of keeps_received
  std::vector<Tensor> kept_, outputs_;                   // of this step; outputs of the last stage
};

}  // namespace orrery
