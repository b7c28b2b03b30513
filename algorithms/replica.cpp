#include "algorithms/replica.hpp"

#include "algorithms/pipeline/executor.hpp"

namespace orrery {

namespace {
constexpr Axes model_axes{Axis::tensor,
                          Axis::pipeline};  // over which one model copy's parameters are divided
}

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
  if (rank.size(model_axes) > 1) norm_channel_ = &rank.channel(model_axes, "norm");
  for (int b = first; b < last; ++b) model_.blocks[static_cast<std::size_t>(b)]->prepare(rank);
  allocate_parameters();
  cursor_ = rank.allocate(compute_, Label::activations, 1, Dtype::int64,
                          {.values = Values::always, .name = "data.cursor"});
  const Dtype gradients = gradients_.dtype();
  load_ = rank.prepare(Kernel::text_batch(model_.micro_batch, model_.tokens_per_sample, rank.seed(),
                                          model_.text, model_.targets_per_sample));
  zero_ = rank.prepare(Kernel::fill(gradients_.elements(), 0, gradients));
  zero_loss_ = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
  squares_ = rank.prepare(Kernel::sum_squares(gradients_.elements() - copied(), gradients));
  if (shared_ > 0) add_shared_ = rank.prepare(Kernel::linear_combination(shared_, 1, 1, gradients));
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

void Replica::add_parameter(int block, std::size_t number, std::int64_t& end) {
  const ParameterSpec& spec = model_.blocks[static_cast<std::size_t>(block)]->parameters()[number];
  Parameter p;
  p.name = "block." + std::to_string(block) + "." + spec.name;
  p.value = values_.slice(end, end + spec.elements);
  p.gradient = gradients_.slice(end, end + spec.elements);
  p.begin = end;
  p.block = block;
  p.decay = spec.decay;
  const std::uint64_t global = static_cast<std::uint64_t>(block) * 64 + number;
  compute_.launch(
      rank_.prepare(spec.deviation > 0 ? Kernel::initialise(spec.elements, 0, spec.deviation,
                                                            rank_.seed(), global, model_.dtype)
                                       : Kernel::fill(spec.elements, spec.mean, model_.dtype)),
      {p.value});
  end += spec.elements;
  parameters_.push_back(std::move(p));
}

void Replica::allocate_parameters() {
  std::int64_t elements = copied();
  for (int b = first_block_; b < last_block_; ++b) {
    const std::int64_t begin = elements;
    elements += model_.blocks[static_cast<std::size_t>(b)]->parameter_elements();
    block_ranges_.emplace_back(begin, elements);
  }
  values_ =
      rank_.allocate(compute_, Label::parameters, elements, model_.dtype, {.name = "parameters"});
  gradients_ = rank_.allocate(compute_, Label::gradients, elements, options_.gradient_dtype,
                              {.name = "gradients"});
  std::int64_t end = 0;
  for (std::size_t i = 0; end < copied(); ++i)
    add_parameter(model_.blocks.back()->shares_with(), i, end);
  for (int b = first_block_; b < last_block_; ++b)
    for (std::size_t i = 0; i < model_.blocks[static_cast<std::size_t>(b)]->parameters().size();
         ++i)
      add_parameter(b, i, end);
  optimizer_ = make_optimizer(options_.optimizer, rank_, compute_, elements, model_.dtype);
  optimizer_->take_master(compute_, values_);
}

std::vector<Bucket> Replica::buckets(Bytes capacity, Bytes first) const {
  std::vector<Bucket> all;
  Bytes held;
  for (std::size_t i = parameters_.size(); i-- > 0;) {
    const Parameter& p = parameters_[i];
    const Bytes limit = all.size() <= 1 ? first : capacity;
    if (all.empty() || (held.value > 0 && held + p.gradient.bytes() > limit)) {
      all.emplace_back();
      held = Bytes(0);
    }
    Bucket& bucket = all.back();
    held += p.gradient.bytes();
    bucket.parameters.push_back(i);
    bucket.first_block = p.block;
    const Parameter& last = parameters_[bucket.parameters.front()];
    bucket.gradients = gradients_.slice(p.begin, last.begin + last.value.elements());
  }
  return all;
}

void Replica::install(ShardingHooks& hooks) {
  if (hooks_ != &none_)
    throw Error(Category::invalid_program, "a replica has at most one set of sharding hooks");
  hooks_ = &hooks;
}

void Replica::zero_gradients() {
  compute_.launch(zero_, {gradients_});
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
  const Tensor mine = gradients_.slice(0, shared_);
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
  const auto [begin, end] = block_ranges_[local];
  pass.parameters = values_.slice(begin, end);
  pass.gradients = gradients_.slice(begin, end);
  const int shared = model_.blocks[static_cast<std::size_t>(block)]->shares_with();
  if (shared >= 0) {
    const std::int64_t from =
        shared < first_block_
            ? 0
            : block_ranges_[static_cast<std::size_t>(shared - first_block_)].first;
    const std::int64_t elements = model_.blocks[static_cast<std::size_t>(block)]->shared_elements();
    pass.shared_parameters = values_.slice(from, from + elements);
    pass.shared_gradients = gradients_.slice(from, from + elements);
  }
  pass.input = state.inputs[local];
  pass.saved = state.saved[local];
  pass.tokens = state.tokens;
  pass.targets = state.targets;
  pass.loss = loss_;
  return pass;
}

Tensor Replica::forward(int micro_batch, const Batch& batch, Tensor input, bool last,
                        const Unit* next) {
  InFlight& state = in_flight_[micro_batch];
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
    if (options_.recompute == Recompute::full && !block.computes_loss()) state.saved[local] = {};
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
  stream.launch(squares_, {gradients_.slice(copied(), gradients_.elements()), sum});
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
  optimizer_->begin_step(stream);
  // Neighbours that decay alike are updated by one kernel.
  for (std::size_t i = 0; i < parameters.size();) {
    const std::int64_t begin = parameters[i].begin;
    const bool decay = parameters[i].decay;
    std::int64_t end = begin;
    for (; i < parameters.size() && parameters[i].begin == end && parameters[i].decay == decay; ++i)
      end += parameters[i].value.elements();
    optimizer_->update(stream, values_.slice(begin, end), gradients_.slice(begin, end), begin,
                       decay, scale);
  }
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
  archive.field("parameters", values_);
  optimizer_->visit(archive);
}

}  // namespace orrery
