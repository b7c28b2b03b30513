// Runs any pipeline schedule on one stage: the one place where stages exchange activations and
// gradients.
//
// Four channels' ends, each on a stream of its own: activations come in from the stage before and
// go out to the stage after, gradients the other way. With one stage there are none, and the
// schedule is plain gradient accumulation.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "algorithms/pipeline/schedule.hpp"
#include "algorithms/progress.hpp"
#include "algorithms/replica.hpp"

namespace orrery {

class PipelineExecutor {
 public:
  PipelineExecutor(Replica& replica, const std::string& schedule, int micro_batches);
  // Issues one step's forwards and backwards.
  void run(Progress& progress);

 private:
  // One direction of the traffic of this stage.
  struct Port {
    Stream* in = nullptr;
    Stream* out = nullptr;
    Channel* edge = nullptr;
    bool receives = false, sends = false;
    std::deque<Event> released;  // after which buffers received earlier are free again
    std::deque<Event> sent;
  };
  void open(Port& port, const char* name, int offset, bool receives, bool sends);
  Tensor receive(Port& port, std::int64_t elements);
  void send(Port& port, const Tensor& tensor);
  void release(Port& port);
  void settle(Port& port);
  void forward(const PipelineTask& task, Progress& progress, const Unit* next);
  void backward(const PipelineTask& task, const Unit* next);

  Replica& replica_;
  std::vector<PipelineTask> tasks_;
  int micro_batches_;
  int forwards_ = 0, backwards_ = 0;  // issued in this step
  Port activations_, gradients_;
};

}  // namespace orrery
