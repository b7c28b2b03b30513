// The passes of a replica over its blocks.
#include "algorithms/replica.hpp"

#include <algorithm>

namespace orrery {

Tensor Replica::activation(std::int64_t elements, const char* name) {
  return elements == 0
             ? Tensor()
             : rank_.allocate(compute_, Label::activations, elements, model_.dtype, {.name = name});
}

std::int64_t Replica::input_elements(int chunk) const {
  const int first = parts_[static_cast<std::size_t>(chunk)].first;
  return first == 0 ? 0 : block(first - 1).output_elements();
}

std::int64_t Replica::output_elements(int chunk) const {
  return block(parts_[static_cast<std::size_t>(chunk)].last - 1).output_elements();
}

void Replica::load(InFlight& state, const Batch& batch) {
  const std::int64_t samples = model_.micro_batch;
  state.tokens = rank_.allocate(compute_, Label::activations,
                                samples * model_.tokens_per_sample / model_.part.of,
                                model_.token_dtype(), {.name = "tokens"});
  state.targets = rank_.allocate(compute_, Label::activations,
                                 samples * model_.targets_per_sample / model_.part.of, Dtype::int32,
                                 {.name = "targets"});
  compute_.upload(cursor_, {static_cast<double>(batch.first_sample)});
  compute_.launch(load_, {cursor_, state.tokens, state.targets});
}

BlockPass Replica::pass_of(const Unit& unit, const PassCall& call, InFlight& state,
                           bool reads_parameters) {
  const Kept& kept = state.blocks[static_cast<std::size_t>(unit.block - part(unit.chunk).first)];
  BlockPass pass{compute_};
  const Block& its = block(unit.block);
  const auto values = [&](int b) {
    return call.weights ? flat_->values(b, call.weights) : flat_->values(b);
  };
  pass.parameters = values(unit.block);
  ORRERY_ASSERT(pass.parameters || its.parameter_elements() == 0 || !reads_parameters,
                "the parameters of a block are there during its passes");
  pass.gradients = flat_->gradients(unit.block);
  if (its.shares_with() >= 0) {
    const Tensor table = values(its.shares_with()), gradients = flat_->gradients(its.shares_with());
    if (table) pass.shared_parameters = table.slice(0, its.shared_elements());
    if (gradients) pass.shared_gradients = gradients.slice(0, its.shared_elements());
  }
  pass.input = kept.input;
  pass.saved = kept.saved;
  pass.kept = kept.kept;
  pass.held = kept.held;
  pass.deferred = kept.deferred;
  pass.tokens = state.tokens;
  pass.targets = state.targets;
  pass.loss = loss_;
  pass.settled = state_of(unit.block);
  pass.paired = call.paired;
  return pass;
}

bool Replica::recomputes(int number, const InFlight& state) const {
  const std::vector<int>& only = options_.recompute_blocks;
  return options_.recompute == Recompute::full && !state.stored && !block(number).computes_loss() &&
         (only.empty() || std::find(only.begin(), only.end(), number) != only.end());
}

Tensor Replica::forward(const PassCall& call, const Batch& batch, Tensor input) {
  const Part& p = part(call.chunk);
  InFlight& state = in_flight(call);
  state.stored = std::count_if(in_flight_.begin(), in_flight_.end(), [](const auto& other) {
                   return other.second.stored;
                 }) < options_.stored_micro_batches;
  state.blocks.resize(static_cast<std::size_t>(p.last - p.first));
  state.version = staleness_.read();
  state.version.updates -= call.age;
  if (p.first == 0 || p.last == static_cast<int>(model_.blocks.size())) load(state, batch);
  for (int b = p.first; b < p.last; ++b) {
    Unit following{call.chunk, b + 1, call.micro_batch, call.last,
                   b + 2 < p.last ? nullptr : call.next};
    const Unit here{call.chunk, b, call.micro_batch, call.last,
                    b + 1 < p.last ? &following : call.next};
    hooks_->before(here, Pass::forward);
    Kept& kept = state.blocks[static_cast<std::size_t>(b - p.first)];
    kept.input = input;
    // Before what is kept, so that a pool has the place whole when it is given back.
    Tensor workspace = activation(block(b).forward_workspace(), "workspace");
    kept.saved = activation(block(b).saved_elements(), "saved");
    kept.kept = activation(block(b).kept_elements(), "kept");
    kept.held = activation(block(b).held_elements(), "held");
    BlockPass pass = pass_of(here, call, state);
    pass.output = activation(block(b).output_elements(), "output");
    pass.workspace = std::move(workspace);
    pass.state = state_of(b);
    pass.evaluates = evaluates_;
    block(b).forward(pass);
    if (recomputes(b, state)) kept.saved = kept.kept = {};
    input = pass.output;
    hooks_->after(here, Pass::forward);
  }
  return input;
}

void Replica::Kept::clear() { *this = {}; }

// What the forward kept, where it was not.
void Replica::forward_again(const Unit& unit, const PassCall& call, InFlight& state) {
  const Block& b = block(unit.block);
  Kept& kept = state.blocks[static_cast<std::size_t>(unit.block - part(unit.chunk).first)];
  if (kept.saved || kept.kept || b.saved_elements() + b.kept_elements() == 0) return;
  hooks_->before(unit, Pass::recompute);
  kept.saved = activation(b.saved_elements(), "saved");
  kept.kept = activation(b.kept_elements(), "kept");
  BlockPass again = pass_of(unit, call, state);
  again.output = activation(b.output_elements(), "output");
  again.workspace = activation(b.forward_workspace(), "workspace");
  b.recompute(again);
  hooks_->after(unit, Pass::recompute);
}

Tensor Replica::backward(const PassCall& call, Tensor d_output, bool with_weights) {
  const Part& p = part(call.chunk);
  InFlight& state = in_flight(call);
  for (int b = p.last - 1; b >= p.first; --b) {
    Unit following{call.chunk, b - 1, call.micro_batch, call.last,
                   b - 2 >= p.first ? nullptr : call.next};
    const Unit here{call.chunk, b, call.micro_batch, call.last,
                    b - 1 >= p.first ? &following : call.next};
    forward_again(here, call, state);
    hooks_->before(here, Pass::backward);
    Kept& kept = state.blocks[static_cast<std::size_t>(b - p.first)];
    if (!with_weights) kept.deferred = activation(block(b).deferred_elements(), "deferred");
    BlockPass pass = pass_of(here, call, state);
    pass.d_output = std::move(d_output);
    pass.d_input = kept.input ? activation(kept.input.elements(), "d_input") : Tensor();
    pass.workspace = activation(
        with_weights ? block(b).backward_workspace() : block(b).backward_input_workspace(),
        "workspace");
    if (with_weights) {
      block(b).backward(pass);
      end_block(here, pass);
      kept.clear();
    } else {
      block(b).backward_input(pass);
      kept.saved = {};
      if (!block(b).weights_read_input()) kept.input = {};
      if (block(b).weights_read_d_output()) kept.d_output = pass.d_output;
    }
    d_output = pass.d_input;
    hooks_->after(here, Pass::backward);
    if (with_weights) gradients_done(here);
  }
  if (with_weights) gradient_added(call);
  return d_output;
}

void Replica::backward_weight(const PassCall& call) {
  const Part& p = part(call.chunk);
  InFlight& state = in_flight(call);
  for (int b = p.last - 1; b >= p.first; --b) {
    const Unit here{call.chunk, b, call.micro_batch, call.last, call.next};
    hooks_->before(here, Pass::backward_weight);
    Kept& kept = state.blocks[static_cast<std::size_t>(b - p.first)];
    BlockPass pass = pass_of(here, call, state, false);
    pass.d_output = kept.d_output;
    block(b).backward_weight(pass);
    end_block(here, pass);
    kept.clear();
    hooks_->after(here, Pass::backward_weight);
    gradients_done(here);
  }
  gradient_added(call);
}

// Of a step, if it was the last micro-batch.
void Replica::end_block(const Unit& unit, const BlockPass& pass) {
  if (!unit.last_micro_batch) return;
  const Block& its = block(unit.block);
  if (its.has_partial_gradients()) its.complete_gradients(pass);
  if (its.settles_state()) its.end_step(pass);
}

void Replica::gradient_added(const PassCall& call) {
  const auto found = in_flight_.find({call.chunk, call.micro_batch});
  staleness_.added(found->second.version);
  in_flight_.erase(found);
}

void Replica::gradients_done(const Unit& unit) {
  hooks_->gradients_accumulated(unit);
  if (!unit.last_micro_batch || schedule_->pipes > 1) return;  // of two pipes: see sum_pipes
  if (shared_ > 0 && unit.block == 0) return;                  // see sum_shared_gradients
  part(unit.chunk).waiting.push_back({unit.chunk, unit.block, unit.micro_batch, true});
  announce_ready();
}

// The gradients of a chunk are ready when those of all later ones are: so buckets that reach from
// one into the other are complete, as is a table that a later chunk uses too.
void Replica::announce_ready() {
  for (std::size_t chunk = parts_.size(); chunk-- > 0;) {
    Part& p = parts_[chunk];
    for (const Unit& unit : p.waiting) hooks_->gradients_ready(unit);
    p.ready += static_cast<int>(p.waiting.size());
    p.waiting.clear();
    if (p.ready < p.last - p.first) return;
  }
}

}  // namespace orrery
