#include "algorithms/replica.hpp"

#include <algorithm>

#include <numeric>

#include "algorithms/pipeline/executor.hpp"

namespace orrery {

namespace {
// Over which one model copy's parameters are divided, if its replicas do not share them out.
constexpr Axes model_axes{Axis::tensor, Axis::pipeline};
}  // namespace

std::pair<int, int> stage_blocks(int blocks, int stage, int stages) {
  const int inner = blocks - 2;
  if (stages > 1 && inner < stages)
    throw Error(Category::config,
                std::to_string(stages) +
                    " pipeline stages need at least as many layers; the model has " +
                    std::to_string(inner));
  const auto first_inner = [&](int s) {
    return 1 + s * (inner / stages) + std::min(s, inner % stages);
  };
  return {stage == 0 ? 0 : first_inner(stage),
          stage == stages - 1 ? blocks : first_inner(stage + 1)};
}

Replica::Replica(Rank& rank, Model model, const ReplicaOptions& options)
    : rank_(rank), model_(std::move(model)), options_(options), compute_(rank.stream("compute")) {
  const int stages = rank.size(Axis::pipeline);
  const int stage = stages == 1 ? 0 : rank.coordinate(Axis::pipeline);
  const auto [first, last] = stage_blocks(static_cast<int>(model_.blocks.size()), stage, stages);
  first_block_ = first;
  last_block_ = last;
  find_shared_parameters(stage, stages);
  if (shared_ > 0 && options.sharding.gradients() && rank.size(options.sharding.over) > 1)
    throw Error(Category::config,
                "not available yet: divided gradients of an embedding that is tied over stages");
  const Axes norm_axes =
      options.sharding.stage > 0 ? model_axes | options.sharding.over : model_axes;
  if (rank.size(norm_axes) > 1) norm_channel_ = &rank.channel(norm_axes, "norm");
  for (int b = first; b < last; ++b) model_.blocks[static_cast<std::size_t>(b)]->prepare(rank);
  std::vector<int> blocks(static_cast<std::size_t>(last - first));
  std::iota(blocks.begin(), blocks.end(), first);
  flat_ = std::make_unique<FlatParameters>(
      rank, compute_, model_, blocks, copied() > 0 ? model_.blocks.back()->shares_with() : -1,
      copied(),
      FlatOptions{options.gradient_dtype, options.parameter_dtype, options.optimizer,
                  options.sharding, options.keeps_optimizer});
  cursor_ = rank.allocate(compute_, Label::activations, 1, Dtype::int64,
                          {.values = Values::always, .name = "data.cursor"});
  load_ = rank.prepare(Kernel::text_batch(model_.micro_batch, model_.tokens_per_sample, rank.seed(),
                                          model_.text, model_.targets_per_sample));
  zero_loss_ = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
  if (shared_ > 0)
    add_shared_ = rank.prepare(Kernel::linear_combination(shared_, 1, 1, options.gradient_dtype));
  executor_ = std::make_unique<PipelineExecutor>(*this, options_.schedule, options_.micro_batches);
}

Replica::~Replica() = default;

// Opens the channel on every stage.
void Replica::find_shared_parameters(int stage, int stages) {
  if (stages == 1) return;
  const Block& user = *model_.blocks.back();
  for (const auto& block : model_.blocks)
    if (block->shares_with() > 0 || (block->shares_with() == 0 && block.get() != &user))
      throw Error(Category::config,
                  "over pipeline stages only the last block can share parameters, with the first");
  if (user.shares_with() < 0) return;
  shared_channel_ = &rank_.channel(Axis::pipeline, "shared");
  if (!first_stage() && !last_stage()) return;
  shared_ = user.shared_elements();
  shared_peer_ = stages - 1 - stage;
}

std::vector<Bucket> Replica::buckets(Bytes capacity, Bytes first) const {
  std::vector<Bucket> all;
  Bytes held;
  const std::span<const Parameter> parameters = flat_->parameters();
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const Parameter& p = parameters[i];
    const Bytes limit = all.size() <= 1 ? first : capacity;
    if (all.empty() || (held.value > 0 && held + p.gradient.bytes() > limit)) {
      all.emplace_back();
      held = Bytes(0);
    }
    Bucket& bucket = all.back();
    held += p.gradient.bytes();
    bucket.parameters.push_back(i);
    bucket.first_block = p.block;
    const Parameter& last = parameters[bucket.parameters.front()];
    bucket.gradients = flat_->all_gradients().slice(p.begin, last.begin + last.elements);
  }
  return all;
}

void Replica::install(ShardingHooks& hooks) {
  if (hooks_ != &none_)
    throw Error(Category::invalid_program, "a replica has at most one set of sharding hooks");
  hooks_ = &hooks;
}

void Replica::zero_gradients() {
  flat_->zero_gradients(compute_);
  if (!last_stage()) return;
  loss_ = rank_.allocate(compute_, Label::activations, 1, Dtype::fp32,
                         {.values = Values::always, .name = "loss"});
  compute_.launch(zero_loss_, {loss_});
}

void Replica::accumulate_gradients(Progress& progress) {
  zero_gradients();
  executor_->run(progress);
  if (shared_ > 0) sum_shared_gradients();
}

// a + b and b + a are the same bits.
void Replica::sum_shared_gradients() {
  const Tensor mine = flat_->all_gradients().slice(0, shared_);
  const Tensor theirs = rank_.allocate(compute_, Label::communication, shared_, mine.dtype(),
                                       {.name = "shared gradients"});
  Stream& communication = rank_.stream("shared");
  communication.after(compute_.record());
  compute_.after(communication.exchange(mine, theirs, shared_peer_, *shared_channel_));
  compute_.launch(add_shared_, {theirs, mine});
  hooks_->gradients_ready(
      unit(model_.blocks.back()->shares_with(), options_.micro_batches - 1, true));
}

void Replica::accumulate_micro_batch(const Batch& batch) {
  if (!first_stage() || !last_stage())
    throw Error(Category::invalid_program,
                "a single micro-batch cannot be accumulated across pipeline stages");
  forward(0, batch, {}, true, nullptr);
  backward(0, {}, true, nullptr);
}

double Replica::loss_on(std::shared_ptr<const std::string> text) {
  if (!first_stage() || !last_stage())
    throw Error(Category::config, "a loss on held-out text needs the whole model on each rank");
  const std::int64_t whole = model_.micro_batch;
  const std::int64_t room = static_cast<std::int64_t>(text->size()) - 1 - model_.tokens_per_sample;
  const std::int64_t least = std::max<std::int64_t>(room, 0) / model_.targets_per_sample + 1;
  const std::int64_t micro_batches = (least + whole - 1) / whole, samples = micro_batches * whole;
  const std::int64_t stride = samples > 1 ? room / (samples - 1) : 1;
  if (room < 0 || stride < 1)
    throw Error(Category::config, "a held-out text of " + std::to_string(text->size()) +
                                      " bytes is too short for a micro-batch of " +
                                      std::to_string(whole) + " samples of " +
                                      std::to_string(model_.tokens_per_sample) + " tokens");
  const Tensor training_loss = loss_;
  const Prepared training_load = load_;
  loss_ = rank_.allocate(compute_, Label::activations, 1, Dtype::fp32,
                         {.values = Values::always, .name = "loss"});
  compute_.launch(zero_loss_, {loss_});
  load_ = rank_.prepare(Kernel::text_batch(whole, model_.tokens_per_sample, rank_.seed(),
                                           std::move(text), model_.targets_per_sample, stride));
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    forward(0, {static_cast<std::uint64_t>(i * whole), static_cast<int>(whole)}, {}, false,
            nullptr);
    in_flight_.erase(0);
  }
  const double sum = rank_.read(loss_)[0];  // of means, each over the micro-batches of a step
  loss_ = training_loss;
  load_ = training_load;
  return sum * options_.micro_batches / static_cast<double>(micro_batches);
}

// ---- Passes
// -----------------------------------------------------------------------------------------------------------------

Tensor Replica::activation(std::int64_t elements, const char* name) {
  return elements == 0
             ? Tensor()
             : rank_.allocate(compute_, Label::activations, elements, model_.dtype, {.name = name});
}

std::int64_t Replica::input_elements() const {
  return first_stage()
             ? 0
             : model_.blocks[static_cast<std::size_t>(first_block_ - 1)]->output_elements();
}

void Replica::load(InFlight& state, const Batch& batch) {
  if (!first_stage() && !last_stage()) return;
  const std::int64_t samples = model_.micro_batch;
  state.tokens = rank_.allocate(compute_, Label::activations, samples * model_.tokens_per_sample,
                                Dtype::int32, {.name = "tokens"});
  state.targets = rank_.allocate(compute_, Label::activations, samples * model_.targets_per_sample,
                                 Dtype::int32, {.name = "targets"});
  compute_.upload(cursor_, {static_cast<double>(batch.first_sample)});
  compute_.launch(load_, {cursor_, state.tokens, state.targets});
}

BlockPass Replica::pass_of(int block, InFlight& state) {
  const auto local = static_cast<std::size_t>(block - first_block_);
  BlockPass pass{compute_};
  const Block& its = *model_.blocks[static_cast<std::size_t>(block)];
  pass.parameters = flat_->values(block);
  ORRERY_ASSERT(pass.parameters || its.parameter_elements() == 0,
                "the parameters of a block are there during its passes");
  pass.gradients = flat_->gradients(block);
  if (its.shares_with() >= 0) {
    const Tensor gradients = flat_->gradients(its.shares_with());
    pass.shared_parameters = flat_->values(its.shares_with()).slice(0, its.shared_elements());
    if (gradients) pass.shared_gradients = gradients.slice(0, its.shared_elements());
  }
  pass.input = state.inputs[local];
  pass.saved = state.saved[local];
  pass.tokens = state.tokens;
  pass.targets = state.targets;
  pass.loss = loss_;
  return pass;
}

bool Replica::recomputes(int number, const InFlight& state) const {
  const std::vector<int>& only = options_.recompute_blocks;
  return options_.recompute == Recompute::full && !state.stored &&
         !model_.blocks[static_cast<std::size_t>(number)]->computes_loss() &&
         (only.empty() || std::find(only.begin(), only.end(), number) != only.end());
}

Tensor Replica::forward(int micro_batch, const Batch& batch, Tensor input, bool last,
                        const Unit* next) {
  InFlight& state = in_flight_[micro_batch];
  state.stored = std::count_if(in_flight_.begin(), in_flight_.end(), [](const auto& other) {
                   return other.second.stored;
                 }) < options_.stored_micro_batches;
  const auto blocks = static_cast<std::size_t>(last_block_ - first_block_);
  state.inputs.resize(blocks);
  state.saved.resize(blocks);
  load(state, batch);
  for (int b = first_block_; b < last_block_; ++b) {
    const auto local = static_cast<std::size_t>(b - first_block_);
    const Block& block = *model_.blocks[static_cast<std::size_t>(b)];
    Unit following = unit(b + 1, micro_batch, last);
    Unit here = unit(b, micro_batch, last);
    following.next = b + 2 < last_block_ ? nullptr : next;
    here.next = b + 1 < last_block_ ? &following : next;
    hooks_->before(here, Pass::forward);
    state.inputs[local] = input;
    state.saved[local] = activation(block.saved_elements(), "saved");
    BlockPass pass = pass_of(b, state);
    pass.output = activation(block.output_elements(), "output");
    pass.workspace = activation(block.forward_workspace(), "workspace");
    block.forward(pass);
    if (recomputes(b, state)) state.saved[local] = {};
    input = pass.output;
    hooks_->after(here, Pass::forward);
  }
  return input;
}

Tensor Replica::backward(int micro_batch, Tensor d_output, bool last, const Unit* next) {
  InFlight& state = in_flight_.at(micro_batch);
  for (int b = last_block_ - 1; b >= first_block_; --b) {
    const auto local = static_cast<std::size_t>(b - first_block_);
    const Block& block = *model_.blocks[static_cast<std::size_t>(b)];
    Unit following = unit(b - 1, micro_batch, last);
    Unit here = unit(b, micro_batch, last);
    following.next = b - 2 >= first_block_ ? nullptr : next;
    here.next = b - 1 >= first_block_ ? &following : next;
    if (block.saved_elements() > 0 && !state.saved[local]) {
      hooks_->before(here, Pass::recompute);
      state.saved[local] = activation(block.saved_elements(), "saved");
      BlockPass again = pass_of(b, state);
      again.output = activation(block.output_elements(), "output");
      again.workspace = activation(block.forward_workspace(), "workspace");
      block.forward(again);
      hooks_->after(here, Pass::recompute);
    }
    hooks_->before(here, Pass::backward);
    BlockPass pass = pass_of(b, state);
    pass.d_output = std::move(d_output);
    pass.d_input =
        state.inputs[local] ? activation(state.inputs[local].elements(), "d_input") : Tensor();
    pass.workspace = activation(block.backward_workspace(), "workspace");
    block.backward(pass);
    d_output = pass.d_input;
    state.inputs[local] = state.saved[local] = {};
    hooks_->after(here, Pass::backward);
    hooks_->gradients_accumulated(here);
    const bool incomplete = shared_ > 0 && b == model_.blocks.back()->shares_with();
    if (last && !incomplete) hooks_->gradients_ready(here);
  }
  in_flight_.erase(micro_batch);
  return d_output;
}

// ---- Updates
// ----------------------------------------------------------------------------------------------------------------

Tensor Replica::squared_gradient_norm(Stream& stream) {
  Tensor sum = rank_.allocate(stream, Label::workspace, 1, Dtype::fp32,
                              {.values = Values::always, .name = "squared_norm"});
  stream.launch(zero_loss_, {sum});
  flat_->add_squares(stream, sum);
  if (norm_channel_ != nullptr) {
    Stream& communication = rank_.stream("norm");
    communication.after(stream.record());
    stream.after(communication.all_reduce(sum, Reduce::sum, *norm_channel_));
  }
  return sum;
}

Tensor Replica::clip_scale(Stream& stream, double max_norm) {
  const Tensor squared = squared_gradient_norm(stream);
  Tensor scale = rank_.allocate(stream, Label::workspace, 1, Dtype::fp32,
                                {.values = Values::always, .name = "clip_scale"});
  stream.launch(rank_.prepare(Kernel::clip_scale(max_norm)), {squared, scale});
  return scale;
}

void Replica::optimizer_step(Stream& stream, std::span<Parameter> parameters, const Tensor& scale) {
  flat_->begin_update(stream);
  flat_->update(stream, parameters, scale);
}

Flops Replica::flops_per_step() const {
  Flops total{0};
  for (int b = first_block_; b < last_block_; ++b) {
    const Block& block = *model_.blocks[static_cast<std::size_t>(b)];
    total += (block.forward_flops() + block.backward_flops()) * options_.micro_batches;
  }
  return total;
}

void Replica::visit(Archive& archive) {
  const Archive::Scope scope(archive, "replica");
  flat_->visit(archive);
}

}  // namespace orrery
