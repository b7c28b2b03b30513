// Runs any pipeline schedule on one device: the one place where stages exchange activations and
// gradients.
//
// A port is one kind of traffic, activations or gradients, along one directed edge between devices;
// what comes in and what goes out has a stream each, so transfers run beside the computation. A
// port carries its messages in the order in which their sender's tasks make them, which the
// receiver knows from the schedule too. With one device there are none, and the schedule is plain
// gradient accumulation.
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
};

}  // namespace orrery
