// PETRA: parallel end-to-end training with reversible architectures.
//
// Rivaud, Fournier, Pumir, Belilovsky, Eickenberg and Oyallon 2024 (arXiv 2406.02052, algorithm 1;
// stephane-rivaud/PETRA): each of J stages is a worker with one version of its parameters. Batches
// go up through the stages and come back down; no stage keeps activations or parameters for their
// way back: a reversible stage gets its output returned with the gradient and computes its input
// from it, with the parameters that it has by then. A stage that is not reversible keeps its input.
//
//   on x_{j-1} from below:    x_j <- F_j(x_{j-1}, theta_j);  keep x_{j-1} if F_j is not reversible
//                             send x_j up
//   on (x_j, delta) from above:
//                             x_{j-1} <- F_j^-1(x_j, theta_j), or what was kept
//                             Delta <- Delta + 1/k (dF_j/dtheta)^T delta
//                             delta <- (dF_j/dx)^T delta
//                             every k-th time: theta_j <- optimizer(theta_j, Delta), Delta <- 0
//                             send (x_{j-1}, delta) down
//   stage J: both at once, with the loss between them
//
// A stage may have 2 (J - j) + 1 batches under way, and takes a forward before a backward: so a
// batch's backward comes 2 (J - j) backwards of this stage behind its forward, as where all stages
// work in step.
//
// Cost of a stage j < J per batch, F being its forward and X the elements of its boundary's
// streams:
//   time            F + reconstruction F + backward 2 F; with two engines, forwards on one of them,
//                   the slowest stage's 3 F between batches, else its 4 F
//   communication   X up, 2 X down: 3 X, of twice as many channels as an ordinary network has
//   memory          nothing for batches under way, but 2 (J - j) + 1 inputs where the stage is not
//                   reversible; parameters, gradients and optimizer state once; two messages under
//                   way per direction
#include "algorithms/petra.hpp"

namespace orrery {

void describe(Fields<PetraOptions>& f) {
  f.section("optimizer", &PetraOptions::optimizer);
  f.field("engines", &PetraOptions::engines)
      .between(1, 2)
      .doc("2: forwards run beside backwards, on a stream of their own");
}

Petra::Petra(Replica& replica, const PetraOptions& options)
    : Petra(replica, DecouplingRules{
                         .stage = {}, .synchronous = false, .two_engines = options.engines == 2}) {}

Petra::Petra(Replica& replica, const DecouplingRules& rules)
    : replica_(replica), rules_(rules), stage_(replica, rules.stage) {
  Rank& rank = replica.rank();
  stages_ = rank.size(Axis::pipeline);
  j_ = stages_ == 1 ? 1 : rank.coordinate(Axis::pipeline) + 1;
  credit_ = rules.synchronous || rules.local_losses ? 1 : 2 * (stages_ - j_) + 1;
  batches_per_step_ = replica.options().micro_batches;
  engines_.push_back({&replica.compute()});
  if (rules.two_engines) engines_.push_back({&rank.stream("backward")});
  forward_ = &engines_.front();
  backward_ = &engines_.back();
  if (stages_ > 1) open_lines();
  if (rank.size(gradient_axes) == 1) return;
  gradients_ = &rank.stream("gradients");
  data_ = &rank.channel(gradient_axes, "gradients");
}

void Petra::open_lines() {
  Rank& rank = replica_.rank();
  Channel& up = rank.edge(Axis::pipeline, 1, "activations");
  Channel& down = rank.edge(Axis::pipeline, -1, "returned");
  const auto line = [&](Channel& edge, const char* stream, std::int64_t elements) {
    return MessageLine(edge, rank.stream(stream), elements, replica_.model().dtype);
  };
  const std::int64_t returned = stage_.returned_elements(stage_.output_elements());
  if (j_ > 1) inputs_ = line(up, "activations.in", stage_.input_elements());
  if (j_ < stages_) outputs_ = line(up, "activations.out", 0);
  if (rules_.local_losses) return;
  if (j_ > 1) returns_ = line(down, "returned.out", 0);
  if (j_ < stages_) returned_ = line(down, "returned.in", returned);
}

bool Petra::may_forward(std::int64_t all) const {
  return forwards_ < all && forwards_ - done() < credit_;
}

// The next task of schedule `petra` that is a handler of its own, at the end of the training
// without the forwards that there are none of.
Petra::Handler Petra::next_in_schedule(std::int64_t all) {
  for (;;) {
    const Work work = order_.front().work;
    order_.pop_front();
    if (work == Work::forward && forwards_ < all) return Handler::forward;
    if (work == Work::backward && !stage_.has_loss()) return Handler::backward;
  }
}

// The handler whose message has come, whose engine is free and which is not ahead of its time;
// waits for one.
Petra::Handler Petra::next(std::int64_t all) {
  if (follows_schedule()) return next_in_schedule(all);
  Rank& rank = replica_.rank();
  for (;;) {
    std::vector<Event> events;
    std::vector<Engine*> ends;  // null: a handler's
    std::vector<Handler> handlers;
    const auto offer = [&](const MessageLine& line, Handler handler) {
      events.push_back(line.arrival());
      ends.push_back(nullptr);
      handlers.push_back(handler);
    };
    if (!(stage_.has_loss() ? backward_ : forward_)->busy && may_forward(all))
      offer(inputs_, Handler::forward);
    if (!backward_->busy && !stage_.has_loss() && backwards_ < forwards_)
      offer(returned_, Handler::backward);
    for (Engine& engine : engines_)
      if (engine.busy) {
        events.push_back(engine.end);
        ends.push_back(&engine);
      }
    const std::size_t which = rank.wait_any(events);
    if (ends[which] == nullptr) return handlers[which];
    ends[which]->busy = false;
  }
}

void Petra::forward(const Progress& progress) {
  const std::int64_t number = forwards_++, samples = replica_.model().micro_batch;
  const Batch batch = progress.part(
      number / batches_per_step_, number % batches_per_step_ * samples, static_cast<int>(samples));
  Engine& engine = stage_.has_loss() ? *backward_ : *forward_;
  Stream& stream = *engine.stream;
  Tensor input = inputs_.take(stream);
  updates_before_.push_back(updates_);
  outputs_.make_room(stream);
  outputs_.send(stream, stage_.forward(stream, number, batch, std::move(input)));
  if (stage_.has_loss()) {
    returns_.make_room(stream);
    returns_.send(stream, stage_.backward(stream, number, {}));
    ++backwards_;
  }
  inputs_.taken(stream);
  engine.end = stream.record();
  engine.busy = true;
}

void Petra::backward() {
  Stream& stream = *backward_->stream;
  const std::int64_t number = backwards_++;
  Tensor returned = returned_.take(stream);
  returns_.make_room(stream);
  returns_.send(stream, stage_.backward(stream, number, std::move(returned)));
  returned_.taken(stream);
  backward_->end = stream.record();
  backward_->busy = true;
}

void Petra::update() {
  Stream& stream = *backward_->stream;
  if (data_ != nullptr) {
    gradients_->after(stream.record());
    stream.after(gradients_->all_reduce(replica_.flat().all_gradients(), Reduce::mean, *data_));
  }
  stage_.update(stream);
  ++updates_;
  backward_->end = stream.record();
}

// One update: handlers until it is due. Forwards of later steps may be among them.
StepEnd Petra::issue(Progress& progress) {
  const std::int64_t all = progress.steps() * batches_per_step_;
  const std::int64_t due = (progress.step() + 1) * batches_per_step_;
  const bool fresh = !begun_;
  if (fresh) {
    begun_ = true;
    forwards_ = backwards_ = progress.step() * batches_per_step_;
    for (MessageLine* line : {&inputs_, &returned_}) line->begin(forwards_, all);
  }
  if (follows_schedule()) {
    const PipelineSchedule& schedule = replica_.schedule();
    const auto s = static_cast<std::size_t>(j_ - 1);
    if (fresh) order_.assign(schedule.warm_up[s].begin(), schedule.warm_up[s].end());
    order_.insert(order_.end(), schedule.tasks[s].begin(), schedule.tasks[s].end());
  }
  progress.take_share();
  backward_->stream->after(
      forward_->stream->record());  // what an outer algorithm made of the stage
  stage_.begin_step(*backward_->stream);
  while (backwards_ < due) {
    const std::int64_t before = backwards_;
    if (next(all) == Handler::forward)
      forward(progress);
    else
      backward();
    if (backwards_ == before) continue;
    const std::int64_t delay = updates_ - updates_before_.front();
    if (delay_) delay_(delay);
    replica_.staleness().count({delay});
    updates_before_.pop_front();
  }
  update();
  return {backward_->stream->record(), j_ == stages_ ? stage_.loss() : Tensor()};
}

// Every buffer is free once both sides have come to where no batch is under way.
void Petra::finish() {
  for (MessageLine* line : {&inputs_, &outputs_, &returned_, &returns_})
    line->finish(*backward_->stream);
}

std::optional<Bytes> Petra::sent(std::int64_t steps) const {
  return wire_bytes(Collective::all_reduce, replica_.flat().all_gradients().bytes(),
                    replica_.rank().size(gradient_axes)) *
         steps;
}

void Petra::visit(Archive& archive) {
  if (stage_.under_way() > 0)
    throw Error(Category::config,
                "not available yet: a checkpoint while batches are between stages, whose forwards "
                "used parameters that are not kept");
  replica_.visit(archive);
}

}  // namespace orrery

// Differences from the paper: forwards wait for credit, since nothing else bounds how far the first
// stage runs ahead. The paper's emulator moves all stages in ticks; schedule `petra` is their order
// without a common clock. The last stage takes labels from the data itself. Replicas of a stage
// average its gradient before each update.
