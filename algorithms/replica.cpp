#include "algorithms/replica.hpp"

#include <algorithm>

#include "algorithms/pipeline/executor.hpp"

namespace orrery {

namespace {
// Over which one model copy's parameters are divided, if its replicas do not share them out.
constexpr Axes model_axes{Axis::tensor, Axis::expert, Axis::pipeline};
}  // namespace

std::vector<std::pair<int, int>> stage_blocks(int blocks, int stages,
                                              const std::vector<int>& layers) {
  const int inner = blocks - 2;
  const auto refuse = [](const std::string& text) { throw Error(Category::config, text); };
  if (layers.empty() && stages > 1 && inner < stages)
    refuse(std::to_string(stages) +
           " pipeline stages need at least as many layers; the model has " + std::to_string(inner));
  if (!layers.empty() && static_cast<int>(layers.size()) != stages)
    refuse("layers are told for " + std::to_string(layers.size()) + " stages; there are " +
           std::to_string(stages));
  std::vector<std::pair<int, int>> all;
  int begin = 0;
  for (int stage = 0; stage < stages; ++stage) {
    int end = begin + (layers.empty() ? inner / stages + (stage < inner % stages ? 1 : 0)
                                      : layers[static_cast<std::size_t>(stage)]);
    if (stage == 0) ++end;
    if (stage == stages - 1) ++end;
    if (end <= begin) refuse("a pipeline stage without a layer");
    all.emplace_back(begin, end);
    begin = end;
  }
  if (begin != blocks)
    refuse("the stages have " + std::to_string(begin - 2) + " layers; the model has " +
           std::to_string(inner));
  return all;
}

Replica::Replica(Rank& rank, Model model, const ReplicaOptions& options)
    : rank_(rank), model_(std::move(model)), options_(options), compute_(rank.stream("compute")) {
  const int devices = rank.size(Axis::pipeline);
  const int device = devices == 1 ? 0 : rank.coordinate(Axis::pipeline);
  plan(device, devices);
  find_shared_parameters(device);
  if (shared_ > 0 && options.sharding.gradients() && rank.size(options.sharding.over) > 1)
    throw Error(Category::config,
                "not available yet: divided gradients of an embedding that is tied over stages");
  if (schedule_->pipes > 1) {
    pipes_channel_ = &rank.channel(Axis::pipeline, "pipes");
    pipes_peer_ = devices - 1 - device;
  }
  const Axes norm_axes =
      options.sharding.stage > 0 ? model_axes | options.sharding.over : model_axes;
  if (rank.size(norm_axes) > 1) norm_channel_ = &rank.channel(norm_axes, "norm");
  std::vector<int> blocks;
  for (const Part& p : parts_)
    for (int b = p.first; b < p.last; ++b) {
      model_.blocks[static_cast<std::size_t>(b)]->prepare(rank);
      blocks.push_back(b);
    }
  flat_ = std::make_unique<FlatParameters>(
      rank, compute_, model_, blocks, copied() > 0 ? model_.blocks.back()->shares_with() : -1,
      copied(),
      FlatOptions{options.gradient_dtype, options.parameter_dtype, options.optimizer,
                  options.sharding, options.keeps_optimizer});
  allocate_state(blocks);
  if (settles_state() && (!schedule_->drains() || schedule_->pipes > 1))
    throw Error(Category::config,
                "not available yet: experts that a bias balances under " + schedule_->name);
  if (!schedule_->drains() && options.executes) {
    if (flat_->sharding().stage > 0)
      throw Error(Category::config, "not available yet: sharding under " + schedule_->name);
    versions_ = std::make_unique<WeightVersions>(
        rank, compute_, *flat_, schedule_->delays[static_cast<std::size_t>(device)]);
  }
  cursor_ = rank.allocate(compute_, Label::activations, 1, Dtype::int64,
                          {.values = Values::always, .name = "data.cursor"});
  if (model_.part.of > 1 && rank.computes_values())
    model_.part.index = rank.coordinate(Axis::context);
  load_ = rank.prepare(model_.batch_kernel(rank.seed(), model_.text));
  zero_loss_ = rank.prepare(Kernel::fill(1, 0, Dtype::fp32));
  if (shared_ > 0)
    add_shared_ = rank.prepare(Kernel::linear_combination(shared_, 1, 1, options.gradient_dtype));
  if (options.executes) executor_ = std::make_unique<PipelineExecutor>(*this, device);
}

void Replica::allocate_state(const std::vector<int>& blocks) {
  std::int64_t elements = 0;
  for (const int b : blocks) {
    if (block(b).state_elements() > 0) state_at_[b] = elements;
    elements += block(b).state_elements();
  }
  if (elements == 0) return;
  state_ = rank_.allocate(compute_, Label::parameters, elements, Dtype::fp32, {.name = "state"});
  for (const int b : blocks) {
    if (block(b).state_elements() == 0) continue;
    std::int64_t at = state_at_[b];
    for (const ParameterSpec& spec : block(b).state()) {
      initialise(rank_, compute_, spec, 0, state_.slice(at, at + spec.elements));
      at += spec.elements;
    }
  }
}

Tensor Replica::state_of(int b) const {
  const auto found = state_at_.find(b);
  if (found == state_at_.end()) return {};
  return state_.slice(found->second, found->second + block(b).state_elements());
}

// Which parts of the model this device computes, and in which order.
void Replica::plan(int device, int devices) {
  PipelineShape shape{devices, options_.micro_batches};
  // Without devices to overlap, each micro-batch's backward follows its forward.
  std::string name = "1f1b";
  if (devices > 1) {
    name = options_.schedule;
    shape.chunks = options_.chunks;
    shape.activation_limit = options_.activation_limit;
    shape.vertical_sync = options_.vertical_sync;
    if (name == "zb-auto") describe_layer(shape);
  }
  schedule_ = make_schedule(name, shape);
  const int blocks = static_cast<int>(model_.blocks.size());
  const auto stages =
      stage_blocks(blocks, schedule_->stages, devices > 1 ? options_.layers : std::vector<int>{});
  for (const Chunk& chunk : schedule_->chunks[static_cast<std::size_t>(device)]) {
    const auto [first, last] = stages[static_cast<std::size_t>(chunk.stage)];
    parts_.push_back({first, last, options_.micro_batches / schedule_->pipes, 0, {}});
  }
}

// For zb-auto, which plans with the layers' FLOPs and with what they keep for the weight gradients.
void Replica::describe_layer(PipelineShape& shape) {
  Block& layer = *model_.blocks[1];
  layer.prepare(rank_);
  const double forward = layer.forward_flops().value, weight = layer.weight_flops().value;
  if (options_.times)
    shape.times = *options_.times;
  else if (forward > 0)
    shape.times = {1, (layer.backward_flops().value - weight) / forward, weight / forward, 0};
  const std::int64_t input = block(0).output_elements();
  const std::int64_t after = layer.kept_elements() + layer.deferred_elements() +
                             (layer.weights_read_input() ? input : 0) +
                             (layer.weights_read_d_output() ? layer.output_elements() : 0);
  const std::int64_t before = input + layer.saved_elements() + layer.kept_elements();
  if (weight > 0)
    shape.for_weights = std::min(1.0, static_cast<double>(after) / static_cast<double>(before));
}

bool Replica::holds(int b) const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [b](const Part& p) { return b >= p.first && b < p.last; });
}

// Opens the channel on every device.
void Replica::find_shared_parameters(int device) {
  if (whole_model()) return;
  const Block& user = *model_.blocks.back();
  for (const auto& each : model_.blocks)
    if (each->shares_with() > 0 || (each->shares_with() == 0 && each.get() != &user))
      throw Error(Category::config,
                  "over pipeline stages only the last block can share parameters, with the first");
  const Holder first = schedule_->holder(0, 0), last = schedule_->holder(schedule_->stages - 1, 0);
  if (user.shares_with() < 0 || schedule_->pipes > 1 || first.device == last.device) return;
  shared_channel_ = &rank_.channel(Axis::pipeline, "shared");
  if (!first_stage() && !last_stage()) return;
  shared_ = user.shared_elements();
  shared_peer_ = device == first.device ? last.device : first.device;
}

Replica::~Replica() = default;

std::vector<Bucket> Replica::buckets(Bytes capacity, Bytes first) const {
  std::vector<Bucket> all;
  Bytes held;
  const std::span<const Parameter> parameters = flat_->parameters();
  for (std::size_t i = parameters.size(); i-- > 0;) {
    const Parameter& p = parameters[i];
    const Bytes limit = all.size() <= 1 ? first : capacity;
    // Those of experts are the same on fewer ranks.
    const Axes over = p.replicated.contains(Axis::expert) || rank_.size(Axis::expert) == 1
                          ? gradient_axes
                          : Axes{Axis::context, Axis::shard, Axis::replicate};
    const Bytes bytes = bytes_of(p.elements, flat_->gradient_dtype());
    const bool full = held.value > 0 && held + bytes > limit;
    if (all.empty() || full || !(all.back().over == over)) {
      all.emplace_back();
      all.back().over = over;
      held = Bytes(0);
    }
    Bucket& bucket = all.back();
    held += bytes;
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

void Replica::accumulate_gradients(Progress& progress) { accumulate_gradients(progress, {}); }

void Replica::accumulate_gradients(Progress& progress, const Tensor& weights) {
  ORRERY_ASSERT(!weights || schedule_->drains(),
                "a schedule that never drains has its own versions");
  zero_gradients();
  for (Part& p : parts_) p.ready = 0;
  read_ = weights;
  executor_->run(progress);
  read_ = {};
  if (settles_state()) compute_.after(rank_.stream("balance").record());
  if (shared_ > 0) sum_shared_gradients();
  if (schedule_->pipes > 1) sum_pipes();
}

bool Replica::settles_state() const {
  return std::any_of(state_at_.begin(), state_at_.end(),
                     [this](const auto& at) { return block(at.first).settles_state(); });
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
  hooks_->gradients_ready({0, 0, options_.micro_batches - 1, true});
}

// Both devices of a pair go through the blocks in the same order. Gradients that replicas divide
// are still whole here: they have added up to the last micro-batch. The loss of a step is the mean
// over the ranks that report it, each of which has one pipe's part of the sum.
void Replica::sum_pipes() {
  Stream& communication = rank_.stream("pipes");
  std::vector<int> blocks;
  for (const Part& p : parts_)
    for (int b = p.first; b < p.last; ++b)
      if (block(b).parameter_elements() > 0) blocks.push_back(b);
  std::sort(blocks.begin(), blocks.end());
  for (const int b : blocks) {
    const Tensor own = flat_->gradients(b);
    const Tensor other = rank_.allocate(compute_, Label::communication, own.elements(), own.dtype(),
                                        {.name = "other pipe's gradients"});
    communication.after(compute_.record());
    compute_.after(communication.exchange(own, other, pipes_peer_, *pipes_channel_));
    compute_.launch(rank_.prepare(Kernel::linear_combination(own.elements(), 1, 1, own.dtype())),
                    {other, own});
  }
  for (std::size_t chunk = 2; chunk-- > 0;)
    for (int b = parts_[chunk].last; b-- > parts_[chunk].first;)
      hooks_->gradients_ready({static_cast<int>(chunk), b, parts_[chunk].micro_batches - 1, true});
  if (loss_)
    compute_.launch(rank_.prepare(Kernel::linear_combination(1, 1, 1, Dtype::fp32)),
                    {loss_, loss_});
}

void Replica::accumulate_micro_batch(const Batch& batch, const Tensor& weights) {
  if (!whole_model())
    throw Error(Category::invalid_program,
                "a single micro-batch cannot be accumulated across pipeline stages");
  for (const auto& block : model_.blocks)
    if (block->has_partial_gradients() || block->settles_state())
      throw Error(Category::config,
                  "not available yet: sequence parallelism, or experts that a bias balances, where "
                  "micro-batches are accumulated one by one");
  for (Part& p : parts_) p.ready = 0;
  forward({.last = true, .weights = weights}, batch, {});
  backward({.last = true, .weights = weights}, {});
}

namespace {

// Micro-batches of samples evenly spread over a text; or of pictures, but for fewer at the end than
// a micro-batch has. `stride`: between samples.
struct Cover {
  std::int64_t micro_batches = 0, stride = 0;
};

Cover cover(const Model& model, const std::string& text) {
  const std::int64_t whole = model.micro_batch, bytes = static_cast<std::int64_t>(text.size());
  if (model.picture > 0) return {bytes / (model.tokens_per_sample + 1) / whole, 1};
  const std::int64_t room = bytes - 1 - model.tokens_per_sample;
  const std::int64_t least = std::max<std::int64_t>(room, 0) / model.targets_per_sample + 1;
  // There are room + 1 places for samples.
  const std::int64_t micro_batches =
      std::min((least + whole - 1) / whole, std::max<std::int64_t>(room + 1, 0) / whole);
  const std::int64_t samples = micro_batches * whole;
  return {micro_batches, room < 0 ? 0 : samples > 1 ? room / (samples - 1) : 1};
}

}  // namespace

double Replica::loss_on(std::shared_ptr<const std::string> text) {
  if (!whole_model())
    throw Error(Category::config, "a loss on held-out text needs the whole model on each rank");
  const std::int64_t whole = model_.micro_batch;
  const auto [micro_batches, stride] = cover(model_, *text);
  if (micro_batches < 1 || stride < 1)
    throw Error(Category::config, "a held-out text of " + std::to_string(text->size()) +
                                      " bytes is too short for a micro-batch of " +
                                      std::to_string(whole) + " samples of " +
                                      std::to_string(model_.tokens_per_sample) + " tokens");
  const Tensor training_loss = loss_;
  const Prepared training_load = load_;
  loss_ = rank_.allocate(compute_, Label::activations, 1, Dtype::fp32,
                         {.values = Values::always, .name = "loss"});
  compute_.launch(zero_loss_, {loss_});
  load_ = rank_.prepare(model_.batch_kernel(rank_.seed(), std::move(text), stride));
  evaluates_ = true;
  for (std::int64_t i = 0; i < micro_batches; ++i) {
    forward({}, {static_cast<std::uint64_t>(i * whole), static_cast<int>(whole)}, {});
    in_flight_.clear();
  }
  const double sum = rank_.read(loss_)[0];  // of means, each over the micro-batches of a step
  loss_ = training_loss;
  load_ = training_load;
  evaluates_ = false;
  return sum * options_.micro_batches / static_cast<double>(micro_batches);
}

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
  if (schedule_->pipes > 1)  // each stage is on two devices: half of the sum, which is exact
    stream.launch(rank_.prepare(Kernel::linear_combination(1, 0.25, 0.25, Dtype::fp32)),
                  {sum, sum});
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
  if (versions_ != nullptr) versions_->keep(stream);
  staleness_.apply();
  flat_->begin_update(stream);
  flat_->update(stream, parameters, scale);
}

Flops Replica::flops_per_step() const {
  Flops total{0};
  for (const Part& p : parts_)
    for (int b = p.first; b < p.last; ++b)
      total += (block(b).forward_flops() + block(b).backward_flops()) * p.micro_batches;
  return total;
}

void Replica::visit(Archive& archive) {
  const Archive::Scope scope(archive, "replica");
  flat_->visit(archive);
  if (state_) archive.field("state", state_);
  if (versions_ != nullptr) versions_->visit(archive);
}

}  // namespace orrery
