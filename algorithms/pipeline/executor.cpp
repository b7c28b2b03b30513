#include "algorithms/pipeline/executor.hpp"

#include <algorithm>
#include <set>

#include "algorithms/pipeline/timeline.hpp"

namespace orrery {

namespace {
bool is_backward(const PipelineTask& task) { return task.work != Work::forward; }
}  // namespace

PipelineExecutor::PipelineExecutor(Replica& replica, int device)
    : replica_(replica),
      schedule_(replica.schedule()),
      device_(device),
      tasks_(schedule_.tasks[static_cast<std::size_t>(device)]),
      keeps_received_(replica.options().keeps_received && schedule_.drains() &&
                      schedule_.devices > 1),
      keeps_sent_(keeps_received_ && replica.options().keeps_sent) {
  if (schedule_.devices > 1) open_ports();
  if (keeps_received_) allocate_received();
}

// From one device to another, by the shorter way around.
int PipelineExecutor::offset(int from, int to) const {
  const int p = schedule_.devices, d = to - from;
  return 2 * d > p ? d - p : 2 * d < -p ? d + p : d;
}

// Every device opens the channels of all, in the same order.
void PipelineExecutor::open_ports() {
  // A stage receives into and sends from this many buffers in turn before it waits for the oldest.
  // Two let a transfer run beside the task that precedes it and beside the one before that, so a
  // buffer is never what a transfer waits for in the steady state.
  buffers_ = static_cast<std::size_t>(std::max(2, transfers_under_way(schedule_)));
  std::set<std::pair<bool, int>> all;
  for (int device = 0; device < schedule_.devices; ++device)
    for (const PipelineTask& task : schedule_.tasks[static_cast<std::size_t>(device)])
      if (const Holder to = schedule_.target(device, task); to && to.device != device)
        all.insert({is_backward(task), offset(device, to.device)});
  Rank& rank = replica_.rank();
  for (const auto& [gradients, distance] : all) {
    Port& port = ports_[{gradients, distance}];
    const std::string name = gradients ? "gradients" : "activations";
    port.edge = &rank.edge(Axis::pipeline, distance, name);
    // Activations usually go up, gradients down; the other way has streams of its own.
    const std::string base =
        "pipeline." + name + ((distance > 0) == gradients ? (gradients ? ".up" : ".down") : "");
    port.distance = distance;
    port.sender = (device_ - distance + schedule_.devices) % schedule_.devices;
    port.order = messages(port, schedule_.tasks[static_cast<std::size_t>(port.sender)], gradients);
    if (!port.order.empty()) port.in = &rank.stream(base + ".in");
    for (const PipelineTask& task : tasks_) {
      const Holder to = schedule_.target(device_, task);
      if (is_backward(task) == gradients && to && to.device != device_ &&
          offset(device_, to.device) == distance)
        port.out = &rank.stream(base + ".out");
    }
  }
}

// What the sender's tasks send to this device, in order.
std::vector<PipelineExecutor::Message> PipelineExecutor::messages(const Port& port,
                                                                  const TaskList& tasks,
                                                                  bool gradients) const {
  std::vector<Message> all;
  if (port.sender == device_ || offset(port.sender, device_) != port.distance) return all;
  for (const PipelineTask& task : tasks) {
    const Holder to = schedule_.target(port.sender, task);
    if (is_backward(task) == gradients && to.device == device_)
      all.emplace_back(to.chunk, task.micro_batch);
  }
  return all;
}

// Null where nothing comes over an edge.
PipelineExecutor::Port* PipelineExecutor::port_from(const Holder& sender, bool gradients) {
  if (!sender || sender.device == device_) return nullptr;
  return &ports_.at({gradients, offset(sender.device, device_)});
}

void PipelineExecutor::allocate_received() {
  for (auto& [key, port] : ports_)
    for (const Message& message : port.order)
      received_[{key.first, message}] = allocate(replica_.compute(), message, key.first);
  for (auto& [key, port] : ports_)
    if (port.in != nullptr) port.in->after(replica_.compute().record());
}

Tensor PipelineExecutor::allocate(Stream& stream, const Message& message, bool gradients) const {
  return replica_.rank().allocate(
      stream, Label::activations,
      gradients ? replica_.output_elements(message.first) : replica_.input_elements(message.first),
      replica_.model().dtype, {.name = "received"});
}

// The buffer belongs to the incoming stream, so that the transfer may start at once. A buffer
// received earlier is free when its last use on the compute stream has been waited for; that wait
// is put off by `buffers_` receives.
Tensor PipelineExecutor::buffer(Port& port, const Message& message, bool gradients) const {
  if (keeps_received_) return received_.at({gradients, message});
  while (port.released.size() > buffers_) {
    port.in->after(port.released.front());
    port.released.pop_front();
  }
  return allocate(*port.in, message, gradients);
}

// Messages that come before the wanted one are received, too.
Tensor PipelineExecutor::receive(Port& port, const Message& message, bool gradients) {
  while (!port.arrived.contains(message)) {
    const Message next = port.order[port.next++];
    Tensor into = buffer(port, next, gradients);
    const Event event = port.in->receive(into, *port.edge);
    port.arrived.emplace(next, Arrival{std::move(into), event});
  }
  const auto found = port.arrived.find(message);
  replica_.compute().after(found->second.event);
  Tensor buffer = std::move(found->second.buffer);
  port.arrived.erase(found);
  return buffer;
}

Tensor PipelineExecutor::take_input(const PipelineTask& task) {
  const Holder from = schedule_.source(device_, task);
  if (!from) return {};
  const Message message{task.chunk, task.micro_batch};
  if (Port* port = port_from(from, is_backward(task)))
    return receive(*port, message, is_backward(task));
  return std::move(handed_over_.extract({is_backward(task), message}).mapped());
}

void PipelineExecutor::keep(const PipelineTask& task, const Tensor& output) {
  if (!keeps_received_ || !output) return;
  const bool last = !schedule_.target(device_, task);
  if (last)
    outputs_.push_back(output);
  else if (is_backward(task) || keeps_sent_)
    kept_.push_back(output);
}

void PipelineExecutor::merge_outputs() {
  if (outputs_.empty()) return;
  const std::int64_t each = outputs_.front().elements();
  const Tensor merged =
      replica_.activation(each * static_cast<std::int64_t>(outputs_.size()), "merged outputs");
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const std::int64_t begin = each * static_cast<std::int64_t>(i);
    replica_.compute().copy(outputs_[i], merged.slice(begin, begin + each));
  }
}

void PipelineExecutor::hand_on(const PipelineTask& task, Tensor output) {
  keep(task, output);
  const Holder to = schedule_.target(device_, task);
  if (!to) return;
  if (to.device == device_) {
    handed_over_.emplace(std::pair{is_backward(task), Message{to.chunk, task.micro_batch}},
                         std::move(output));
    return;
  }
  Port& port = ports_.at({is_backward(task), offset(device_, to.device)});
  port.out->after(replica_.compute().record());
  port.sent.push_back(port.out->send(output, *port.edge));
  if (port.sent.size() > buffers_) {
    replica_.compute().after(port.sent.front());
    port.sent.pop_front();
  }
}

// What was received for the part's first or last block, and the task just issued was the last to
// use.
void PipelineExecutor::release(const PipelineTask& task) {
  if (task.work == Work::forward) return;
  const Replica::Part& part = replica_.part(task.chunk);
  const auto last_use = [&](bool weights_read_it) {
    return task.work == Work::backward || (task.work == Work::backward_weight) == weights_read_it;
  };
  const auto note = [&](bool gradients, bool weights_read_it) {
    const PipelineTask taker{gradients ? Work::backward : Work::forward, task.chunk, 0};
    Port* port = port_from(schedule_.source(device_, taker), gradients);
    if (port != nullptr && last_use(weights_read_it))
      port->released.push_back(replica_.compute().record());
  };
  note(false, replica_.block(part.first).weights_read_input());
  note(true, replica_.block(part.last - 1).weights_read_d_output());
}

// A device's tasks of the step that is issued next.
TaskList PipelineExecutor::tasks_of_step(int device, const Progress& progress) const {
  const auto d = static_cast<std::size_t>(device);
  TaskList tasks;
  if (!under_way_) tasks = schedule_.warm_up[d];
  tasks.insert(tasks.end(), schedule_.tasks[d].begin(), schedule_.tasks[d].end());
  const std::int64_t m = schedule_.micro_batches;
  for (PipelineTask& task : tasks) task.micro_batch += static_cast<int>(progress.step() * m);
  std::erase_if(tasks,
                [&](const PipelineTask& t) { return t.micro_batch >= progress.steps() * m; });
  return tasks;
}

void PipelineExecutor::begin(const Progress& progress) {
  counts_.assign(schedule_.chunks[static_cast<std::size_t>(device_)].size(), {});
  kept_.clear();
  outputs_.clear();
  for (auto& [key, port] : ports_) {
    if (!schedule_.drains()) {  // what was sent ahead in the step before comes first
      const auto more = messages(port, tasks_of_step(port.sender, progress), key.first);
      const std::size_t done = under_way_ ? port.next : port.order.size();
      port.order.erase(port.order.begin(), port.order.begin() + static_cast<std::ptrdiff_t>(done));
      port.order.insert(port.order.end(), more.begin(), more.end());
    }
    port.next = 0;
  }
  if (!schedule_.drains()) tasks_ = tasks_of_step(device_, progress);
  under_way_ = true;
}

// Every buffer is free once both sides have come to where the pipeline is empty.
void PipelineExecutor::finish(const Progress& progress) {
  if (!schedule_.drains() && progress.step() + 1 < progress.steps()) return;
  for (auto& [key, port] : ports_) {
    if (port.in != nullptr) port.in->after(replica_.compute().record());
    if (port.out != nullptr) replica_.compute().after(port.out->record());
    port.released.clear();
    port.sent.clear();
  }
}

Tensor PipelineExecutor::compute(std::size_t i, Tensor input, const Progress& progress,
                                 const Unit* next) {
  const PipelineTask& task = tasks_[i];
  Count& count = counts_[static_cast<std::size_t>(task.chunk)];
  const int all = replica_.part(task.chunk).micro_batches;
  Replica::PassCall call{.chunk = task.chunk,
                         .micro_batch = task.micro_batch,
                         .weights = replica_.read_,
                         .next = next};
  call.paired = task.paired || (i > 0 && tasks_[i - 1].paired);
  std::int64_t step = progress.step(), within = task.micro_batch;
  if (!schedule_.drains()) {
    step = task.micro_batch / schedule_.micro_batches;
    within = task.micro_batch % schedule_.micro_batches;
    call.weights = replica_.versions_->of(step);
    call.age = replica_.versions_->age(step);
  }
  const bool whole = task.work == Work::backward;
  Tensor output;
  if (task.work == Work::forward) {
    call.last = schedule_.drains() ? ++count.forward == all : within + 1 == all;
    const int samples = replica_.model().micro_batch;
    output =
        replica_.forward(call, progress.part(step, within * samples, samples), std::move(input));
  } else if (task.work == Work::backward_weight) {
    call.last = ++count.weights == all;
    replica_.backward_weight(call);
  } else {
    ++count.backward;
    if (whole) ++count.weights;
    call.last = (whole ? count.weights : count.backward) == all;
    output = replica_.backward(call, std::move(input), whole);
  }
  release(task);
  return output;
}

// Tasks [first, last), which start together.
void PipelineExecutor::issue(std::size_t first, std::size_t last, const Progress& progress) {
  std::vector<Tensor> tensors;
  for (std::size_t i = first; i < last; ++i) tensors.push_back(take_input(tasks_[i]));
  for (std::size_t i = first; i < last; ++i) {
    std::size_t after = i + 1;  // the next pass that reads parameters
    while (after < tasks_.size() && tasks_[after].work == Work::backward_weight) ++after;
    Unit next;
    if (after < tasks_.size()) {
      const PipelineTask& t = tasks_[after];
      const Replica::Part& part = replica_.part(t.chunk);
      next = {t.chunk, is_backward(t) ? part.last - 1 : part.first, t.micro_batch};
    }
    Tensor& tensor = tensors[i - first];
    tensor = compute(i, std::move(tensor), progress, after < tasks_.size() ? &next : nullptr);
  }
  for (std::size_t i = first; i < last; ++i) hand_on(tasks_[i], std::move(tensors[i - first]));
}

void PipelineExecutor::run(Progress& progress) {
  begin(progress);
  progress.take_share();
  for (std::size_t i = 0; i < tasks_.size();) {
    std::size_t end = i + 1;
    while (tasks_[end - 1].paired) ++end;
    issue(i, end, progress);
    i = end;
  }
  merge_outputs();
  finish(progress);
}

}  // namespace orrery
