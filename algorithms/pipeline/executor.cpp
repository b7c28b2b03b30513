#include "algorithms/pipeline/executor.hpp"

namespace orrery {

namespace {
// A stage receives into and sends from this many buffers in turn before it waits for the oldest.
// Two let a transfer run beside the task that precedes it and beside the one before that, so a
// buffer is never what a transfer waits for in the steady state.
constexpr std::size_t buffers = 2;
}  // namespace

PipelineExecutor::PipelineExecutor(Replica& replica, const std::string& schedule, int micro_batches)
    : replica_(replica), micro_batches_(micro_batches) {
  Rank& rank = replica.rank();
  const int stages = rank.size(Axis::pipeline);
  const int stage = stages > 1 ? rank.coordinate(Axis::pipeline) : 0;
  // Without stages to overlap, each micro-batch's backward follows its forward.
  tasks_ = expand(stages > 1 ? make_schedule(schedule, stage, stages, micro_batches)
                             : one_forward_one_backward(0, 1, micro_batches));
  if (stages == 1) return;
  open(activations_, "activations", +1, !replica.first_stage(), !replica.last_stage());
  open(gradients_, "gradients", -1, !replica.last_stage(), !replica.first_stage());
}

void PipelineExecutor::open(Port& port, const char* name, int offset, bool receives, bool sends) {
  Rank& rank = replica_.rank();
  port.edge = &rank.edge(Axis::pipeline, offset, name);
  port.receives = receives;
  port.sends = sends;
  const std::string base = std::string("pipeline.") + name;
  if (receives) port.in = &rank.stream(base + ".in");
  if (sends) port.out = &rank.stream(base + ".out");
}

// The buffer belongs to the incoming stream, so that the transfer may start at once. A buffer
// received earlier is free when its last use on the compute stream has been waited for; that wait
// is put off by `buffers` receives.
Tensor PipelineExecutor::receive(Port& port, std::int64_t elements) {
  if (!port.receives) return {};
  while (port.released.size() > buffers) {
    port.in->after(port.released.front());
    port.released.pop_front();
  }
  Tensor buffer = replica_.rank().allocate(*port.in, Label::activations, elements,
                                           replica_.model().dtype, {.name = "received"});
  replica_.compute().after(port.in->receive(buffer, *port.edge));
  return buffer;
}

void PipelineExecutor::send(Port& port, const Tensor& tensor) {
  if (!port.sends) return;
  port.out->after(replica_.compute().record());
  port.sent.push_back(port.out->send(tensor, *port.edge));
  if (port.sent.size() > buffers) {
    replica_.compute().after(port.sent.front());
    port.sent.pop_front();
  }
}

// What was received for the task just issued is not used after it.
void PipelineExecutor::release(Port& port) {
  if (port.receives) port.released.push_back(replica_.compute().record());
}

// The end of a step: every buffer is free once both sides have come to it.
void PipelineExecutor::settle(Port& port) {
  if (port.receives) port.in->after(replica_.compute().record());
  if (port.sends) replica_.compute().after(port.out->record());
  port.released.clear();
  port.sent.clear();
}

void PipelineExecutor::forward(const PipelineTask& task, Progress& progress, const Unit* next) {
  const Tensor input = receive(activations_, replica_.input_elements());
  const Batch batch = progress.next(replica_.model().micro_batch);
  const Tensor output =
      replica_.forward(task.micro_batch, batch, input, ++forwards_ == micro_batches_, next);
  send(activations_, output);
}

void PipelineExecutor::backward(const PipelineTask& task, const Unit* next) {
  const Block& last = *replica_.model().blocks[static_cast<std::size_t>(replica_.last_block_ - 1)];
  const Tensor d_output = receive(gradients_, last.output_elements());
  const Tensor d_input =
      replica_.backward(task.micro_batch, d_output, ++backwards_ == micro_batches_, next);
  release(activations_);
  release(gradients_);
  send(gradients_, d_input);
}

void PipelineExecutor::run(Progress& progress) {
  forwards_ = backwards_ = 0;
  for (std::size_t i = 0; i < tasks_.size(); ++i) {
    Unit next;
    const bool more = i + 1 < tasks_.size();
    if (more) {
      const bool forward_next = tasks_[i + 1].work == Work::forward;
      next = replica_.unit(forward_next ? replica_.first_block_ : replica_.last_block_ - 1,
                           tasks_[i + 1].micro_batch, false);
    }
    if (tasks_[i].work == Work::forward)
      forward(tasks_[i], progress, more ? &next : nullptr);
    else
      backward(tasks_[i], more ? &next : nullptr);
  }
  settle(activations_);
  settle(gradients_);
}

}  // namespace orrery
