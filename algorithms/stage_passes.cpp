#include "algorithms/stage_passes.hpp"

#include <algorithm>

namespace orrery {

StagePasses::StagePasses(Replica& replica, const StageRules& rules)
    : replica_(replica),
      rank_(replica.rank()),
      rules_(rules),
      first_(replica.blocks().first),
      last_(replica.blocks().second) {
  const Model& model = replica.model();
  if (rank_.size(Axes{Axis::tensor, Axis::context, Axis::expert}) > 1)
    throw Error(Category::config, "not available yet: stages that several ranks share");
  for (const auto& each : model.blocks)
    if (each->shares_with() >= 0)
      throw Error(
          Category::config,
          "not available yet: parameters that stages share, where they do not wait for each "
          "other");
  cursor_ = rank_.allocate(replica.compute(), Label::activations, 1, Dtype::int64,
                           {.values = Values::always, .name = "data.cursor"});
  load_ = rank_.prepare(model.batch_kernel(rank_.seed(), model.text));
  zero_loss_ = rank_.prepare(Kernel::fill(1, 0, Dtype::fp32));
  last_update_ = replica.compute().record();
}

// Of a head inside the model, which has no output, what goes past it.
std::int64_t StagePasses::output_elements(int b) const {
  const bool beside = block(b).computes_loss() && block(b).output_elements() == 0 && b > 0 &&
                      b + 1 < static_cast<int>(replica_.model().blocks.size());
  return block(beside ? b - 1 : b).output_elements();
}

Tensor StagePasses::allocate(Stream& stream, std::int64_t elements, const char* name) const {
  return elements == 0 ? Tensor()
                       : rank_.allocate(stream, Label::activations, elements,
                                        replica_.model().dtype, {.name = name});
}

void StagePasses::load(Stream& stream, const Batch& batch, InFlight& state) {
  const Model& model = replica_.model();
  state.tokens =
      rank_.allocate(stream, Label::activations, model.micro_batch * model.tokens_per_sample,
                     model.token_dtype(), {.name = "tokens"});
  state.targets =
      rank_.allocate(stream, Label::activations, model.micro_batch * model.targets_per_sample,
                     Dtype::int32, {.name = "targets"});
  stream.upload(cursor_, {static_cast<double>(batch.first_sample)});
  stream.launch(load_, {cursor_, state.tokens, state.targets});
  if (!first()) state.tokens = {};
  if (!has_loss()) state.targets = {};
}

BlockPass StagePasses::pass_of(Stream& stream, int b, const InFlight& batch,
                               const Kept& kept) const {
  const FlatParameters& flat = replica_.flat();
  BlockPass pass{stream};
  pass.parameters = batch.weights ? flat.values(b, batch.weights) : flat.values(b);
  pass.gradients = flat.gradients(b);
  pass.input = kept.input;
  pass.saved = kept.saved;
  pass.kept = kept.kept;
  pass.tokens = batch.tokens;
  pass.targets = batch.targets;
  pass.loss = loss_;
  return pass;
}

// Of an input of which only a part is read again, that part.
void StagePasses::keep_input(Stream& stream, int b, Keep keep, Kept& kept) const {
  const std::int64_t again = block(b).input_read_again();
  if (keep == Keep::nothing && block(b).reversible()) kept.input = {};  // it comes back
  if (keep != Keep::inputs || !kept.input || again < 0) return;
  const Tensor whole = kept.input;
  kept.input = allocate(stream, again, "input");
  if (again > 0) stream.copy(whole.slice(0, again), kept.input);
}

Tensor StagePasses::run_forward(Stream& stream, InFlight& state, Tensor input, Keep keep) {
  state.blocks.resize(static_cast<std::size_t>(last_ - first_));
  for (int b = first_; b < last_; ++b) {
    Kept& kept = state.blocks[static_cast<std::size_t>(b - first_)];
    kept.input = std::move(input);
    kept.saved = allocate(stream, block(b).saved_elements(), "saved");
    kept.kept = allocate(stream, block(b).kept_elements(), "kept");
    BlockPass pass = pass_of(stream, b, state, kept);
    pass.output = allocate(stream, block(b).output_elements(), "output");
    pass.workspace = allocate(stream, block(b).forward_workspace(), "workspace");
    const bool keeps = keep == Keep::graph || block(b).computes_loss();
    if (keeps) pass.state = replica_.state_of(b);
    block(b).forward(pass);
    if (!keeps) {
      kept.saved = kept.kept = {};
      keep_input(stream, b, keep, kept);
    }
    if (b + 1 == last_ && has_loss()) return output_elements(b) > 0 ? kept.input : Tensor();
    input = std::move(pass.output);
  }
  return input;
}

Tensor StagePasses::forward(Stream& stream, std::int64_t number, const Batch& batch, Tensor input) {
  stream.after(last_update_);
  InFlight& state = in_flight_[number];
  if (first() || has_loss()) load(stream, batch, state);
  const bool whole = first() && has_loss();
  Tensor output = run_forward(stream, state, std::move(input),
                              has_loss() && !whole ? Keep::graph : rules_.keep);
  state.forward_done = last_forward_ = stream.record();
  return output;
}

// What the forward of a block did not keep: by its output if it is reversible and nothing of it was
// kept, its input being written to `place`, if given; else by its input. Statistics move here.
void StagePasses::refill(Stream& stream, int b, InFlight& state, const Tensor& output,
                         const Tensor& place) const {
  const Block& its = block(b);
  Kept& kept = state.blocks[static_cast<std::size_t>(b - first_)];
  const bool reverses = rules_.keep == Keep::nothing && its.reversible() && b > 0;
  const bool complete = kept.saved || kept.kept || its.saved_elements() + its.kept_elements() == 0;
  if (complete && (kept.input || !reverses)) return;
  if (reverses) kept.input = place ? place : allocate(stream, output_elements(b - 1), "input");
  kept.saved = allocate(stream, its.saved_elements(), "saved");
  kept.kept = allocate(stream, its.kept_elements(), "kept");
  BlockPass pass = pass_of(stream, b, state, kept);
  pass.output = reverses ? output : allocate(stream, its.output_elements(), "output");
  pass.workspace = allocate(stream, its.forward_workspace(), "workspace");
  pass.state = replica_.state_of(b);
  if (reverses)
    its.reconstruct(pass);
  else
    its.recompute(pass);
}

// Returns what the stage before takes: its message is written in place.
Tensor StagePasses::run_backward(Stream& stream, InFlight& state, Tensor output, Tensor d_output) {
  const std::int64_t boundary = input_elements();
  const Tensor message =
      first() ? Tensor()
              : rank_.allocate(stream, Label::communication, returned_elements(boundary),
                               replica_.model().dtype, {.name = "returned"});
  const Tensor message_input =
      message && rules_.keep == Keep::nothing ? message.slice(0, boundary) : Tensor();
  for (int b = last_ - 1; b >= first_; --b) {
    const std::int64_t inputs = b == 0 ? 0 : output_elements(b - 1);
    Kept& kept = state.blocks[static_cast<std::size_t>(b - first_)];
    const bool lowest = b == first_, known = static_cast<bool>(kept.input);
    refill(stream, b, state, output, lowest ? message_input : Tensor());
    BlockPass pass = pass_of(stream, b, state, kept);
    pass.d_output = std::move(d_output);
    pass.d_input = lowest && message
                       ? message.slice(message.elements() - boundary, message.elements())
                       : allocate(stream, inputs, "d_input");
    pass.workspace = allocate(stream, block(b).backward_workspace(), "workspace");
    block(b).backward(pass);
    if (lowest && message_input && known) stream.copy(kept.input, message_input);
    output = std::move(kept.input);
    d_output = std::move(pass.d_input);
    kept = {};
  }
  return message;
}

Tensor StagePasses::backward(Stream& stream, std::int64_t number, Tensor returned) {
  InFlight& state = in_flight_.at(number);
  stream.after(state.forward_done);
  stream.after(last_update_);
  Tensor output, d_output;
  if (!has_loss()) {
    const std::int64_t boundary = output_elements(), all = returned.elements();
    if (rules_.keep == Keep::nothing) output = returned.slice(0, boundary);
    d_output = returned.slice(all - boundary, all);
  }
  returned = {};
  Tensor message = run_backward(stream, state, std::move(output), std::move(d_output));
  in_flight_.erase(number);
  return message;
}

void StagePasses::begin_step(Stream& stream) {
  stream.after(last_update_);
  replica_.flat().zero_gradients(stream);
  if (!has_loss()) return;
  loss_ = rank_.allocate(stream, Label::activations, 1, Dtype::fp32,
                         {.values = Values::always, .name = "loss"});
  stream.launch(zero_loss_, {loss_});
}

void StagePasses::update(Stream& stream) {
  stream.after(last_forward_);
  if (rules_.versions) {
    Tensor before;
    for (auto& [number, state] : in_flight_) {
      if (state.weights) continue;
      if (!before) {
        const Tensor& now = replica_.flat().all_values();
        before = rank_.allocate(stream, Label::parameters, now.elements(), now.dtype(),
                                {.name = "older parameters"});
        stream.copy(now, before);
      }
      state.weights = before;
    }
  }
  replica_.optimizer_step(stream, replica_.parameters());
  last_update_ = stream.record();
}

}  // namespace orrery
