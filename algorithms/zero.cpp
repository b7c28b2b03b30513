// ZeRO: data parallelism whose ranks divide optimizer state, gradients and parameters.
//
// Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC
// 2020 (arXiv 1910.02054), section 5: stage 1 (P_os, Megatron-LM's distributed optimizer), stage 2
// (P_os+g), stage 3 (P_os+g+p, see fsdp.cpp). Of every group of parameters theta, gradients g and
// optimizer state, rank i of n owns the i-th n-th. With r repetitions of the whole (hybrid
// sharding, FSDP section 3.2.2) the owners of the same part average it.
//
//   for each micro-batch k:                    accumulate grad of loss(theta; batch_k) into g
//     for each group as its g is ready:        g_i <- g_i + mean over ranks, reduce-scattered
//   hybrid, in the last micro-batch:           g_i <- mean over repetitions, all-reduced
//   g_i <- g_i min(1, c / |g|);                theta_i <- optimizer(theta_i, g_i)
//   stages 1 and 2, for each group:            theta <- all_gather theta_i
//
// g is reduced in each micro-batch, or adds up to the last one and is reduced once. In types of 8
// bits nothing is added: the parts of g go to their owners as messages, who decode and add them in
// fp32 (codecs/compressed_mean.hpp; as ZeRO++ does in 4 bits, Wang et al. 2023, arXiv 2306.10209,
// section 3.3).
//
// Experts that e of the ranks divide already (models/mixture.hpp) are a group of their own kind:
// the n / e ranks with the same experts divide, reduce and gather these (DeepSpeed-MoE, Rajbhandari
// et al. 2022, arXiv 2201.05596, section 4.2; Megatron-LM's expert data parallel group). With e = n
// each rank owns its experts.
//
// Cost per step, for P bytes of parameters, G of gradients, O of optimizer state, k micro-batches:
//   communication   a reduce-scatter of (n-1)/n G sent per rank, k times when each micro-batch is
//                   reduced; stages 1 and 2 an all-gather of (n-1)/n P, stage 3 those of fsdp.cpp;
//                   hybrid: an all-reduce of 2 (r-1)/r G/n; through a codec, n - 1 messages for
//                   each reduce-scatter
//   memory          stage 1: P + G + O/n; 2: P + (G + O)/n; 3: (P + G + O)/n. Stages 2 and 3 have
//                   besides the whole gradients of at most two groups; of all, while they add up
//                   to the last of several micro-batches, and of both stages of a device until two
//                   pipes have added theirs (replica.hpp)
// Of the experts on a rank, n / e in place of n.
#include "algorithms/zero.hpp"

namespace orrery {

namespace {
// Whole gradients at once: one is reduced while the backward fills the other.
constexpr std::size_t whole_gradients = 2;

// The ranks that hold the same part of a model copy and are not among `over`.
Axes repetitions(Axes over) {
  Axes others;
  for (const Axis axis : {Axis::shard, Axis::replicate, Axis::context})
    if (!over.contains(axis)) others = others | axis;
  return others;
}

}  // namespace

Zero::Zero(Replica& replica, const ZeroOptions& options)
    : replica_(replica), flat_(replica.flat()), options_(options), states_(flat_.groups().size()) {
  Rank& rank = replica.rank();
  if (replica.schedule().pipes > 1 && options.reduce_each && flat_.sharding().gradients())
    throw Error(Category::config,
                "gradients that are divided in each micro-batch, under a schedule with every stage "
                "on two devices (" +
                    replica.schedule().name +
                    "): the two add whole ones, as a step ends; reduce them in its last one");
  if (flat_.ranks(false) > 1) {
    scatters_ = &rank.stream("gradients");
    if (flat_.sharding().parameters())
      gathered_ = std::make_unique<GatheredParameters>(replica, options.gather);
    else
      gathers_ = &rank.stream("parameters");
  }
  for (const bool experts : {false, true}) {
    if (flat_.ranks(experts) == 1) continue;
    const Axes over = flat_.sharding().over_for(experts);
    scatter_.at(experts ? 1 : 0) = &rank.channel(over, experts ? "expert gradients" : "gradients");
    if (gathers_ != nullptr)
      gather_.at(experts ? 1 : 0) =
          &rank.channel(over, experts ? "expert parameters" : "parameters");
    if (options.codec) code(experts);
  }
  if (const Axes others = repetitions(options.over); rank.size(others) > 1) {
    averages_ = &rank.stream("averages");
    average_ = &rank.channel(others, "averages");
  }
  if (scatters_ != nullptr || averages_ != nullptr) replica.install(*this);
}

void Zero::code(bool experts) {
  if (flat_.gradient_dtype() != Dtype::fp32)
    throw Error(Category::config, "gradients that are sent in 8 bits are added up in fp32")
        .with("hint", "set precision.reduction to fp32");
  std::int64_t most = 0;
  for (const ParameterGroup& group : flat_.groups())
    for (const DividedPart& part : group.parts)
      if (part.experts == experts) most = std::max(most, part.elements);
  if (most > 0)
    coded_.at(experts ? 1 : 0) = std::make_unique<CompressedMean>(
        *scatters_, *scatter_.at(experts ? 1 : 0), options_.codec, most);
}

void Zero::visit(Archive& archive) {
  replica_.visit(archive);
  for (const auto& coded : coded_)
    if (coded) coded->visit(archive);
}

void Zero::before(const Unit& unit, Pass pass) {
  if (pass == Pass::backward_weight) return;  // it reads no parameters, and has its gradients
  if (gathered_) gathered_->before(unit);
  flat_.for_used(unit.block, [&](ParameterGroup& group) {
    replica_.compute().after(state_of(group).updated);
    if (pass == Pass::backward) open_gradients(group);
  });
}

void Zero::after(const Unit& unit, Pass pass) {
  if (gathered_ && pass != Pass::backward_weight) gathered_->after(unit, pass);
}

void Zero::open_gradients(ParameterGroup& group) {
  if (group.gradients || group.elements == 0) return;
  Stream& compute = replica_.compute();
  for (; reducing_.size() >= whole_gradients; reducing_.pop_front())
    compute.after(reducing_.front());
  Rank& rank = replica_.rank();
  group.gradients = rank.allocate(compute, Label::gradients, group.elements, flat_.gradient_dtype(),
                                  {.name = "whole gradients"});
  compute.launch(rank.prepare(Kernel::fill(group.elements, 0, flat_.gradient_dtype())),
                 {group.gradients});
}

void Zero::gradients_accumulated(const Unit& unit) {
  if (options_.reduce_each) reduce(unit);
}

void Zero::gradients_ready(const Unit& unit) {
  if (!options_.reduce_each) reduce(unit);
}

void Zero::reduce(const Unit& unit) {
  ParameterGroup& group = flat_.group_of(unit.block);
  if (group.first_block != unit.block || group.elements == 0) return;
  Stream* last = &replica_.compute();
  if (scatters_ != nullptr) {
    scatters_->after(last->record());
    bool& reduced = state_of(group).reduced;
    for (const DividedPart& part : group.parts)
      reduce_scatter(part_of(group.gradients, group, part), part, reduced);
    reduced = true;
    last = scatters_;
    if (flat_.sharding().gradients()) {
      group.gradients = {};
      reducing_.push_back(scatters_->record());
    }
  }
  if (averages_ != nullptr && unit.last_micro_batch) {
    averages_->after(last->record());
    for (const DividedPart& part : group.parts)
      averages_->all_reduce(flat_.gradient_shard(part), Reduce::mean, *average_);
    last = averages_;
  }
  if (!options_.overlap_reduce) replica_.compute().after(last->record());
}

// The shard of a part <- (shard +) this rank's part of the mean of `whole`, sent in the type of
// communication.
void Zero::reduce_scatter(const Tensor& whole, const DividedPart& part, bool add) {
  const Tensor shard = flat_.gradient_shard(part);
  const Dtype own = flat_.gradient_dtype(), wire = options_.communication.value_or(own);
  const auto add_up = [&](const Tensor& more) {
    scatters_->launch(
        replica_.rank().prepare(Kernel::linear_combination(shard.elements(), 1, 1, own)),
        {more, shard});
  };
  Channel* const channel = scatter_.at(part.kind());
  if (channel == nullptr) {  // the experts of one rank
    if (!flat_.sharding().gradients()) return;
    if (add)
      add_up(whole);
    else
      scatters_->copy(whole, shard);
    return;
  }
  if (CompressedMean* const coded = coded_.at(part.kind()).get(); coded != nullptr)
    return coded->scatter(whole, shard, add);
  if (!add && wire == own) {
    scatters_->reduce_scatter(shard, whole, Reduce::mean, *channel);
    return;
  }
  const auto cast = [&](const Tensor& from, const Tensor& to) {
    scatters_->launch(
        replica_.rank().prepare(Kernel::cast(from.elements(), from.dtype(), to.dtype())),
        {from, to});
    return to;
  };
  const Tensor sent = wire == own ? whole : cast(whole, buffer(whole.elements(), wire));
  Tensor received = buffer(shard.elements(), wire);
  scatters_->reduce_scatter(received, sent, Reduce::mean, *channel);
  if (wire != own) received = cast(received, add ? buffer(shard.elements(), own) : shard);
  if (add) add_up(received);
}

Tensor Zero::buffer(std::int64_t elements, Dtype dtype) {
  return replica_.rank().allocate(*scatters_, Label::communication, elements, dtype,
                                  {.name = "reduced gradients"});
}

void Zero::await_reductions() {
  for (const Stream* stream : {scatters_, averages_})
    if (stream != nullptr) replica_.compute().after(stream->record());
  reducing_.clear();
  for (State& state : states_) state.reduced = false;
}

std::optional<Bytes> Zero::sent(std::int64_t steps) const {
  if (replica_.rank().size(Axis::pipeline) > 1) return std::nullopt;
  const int k = replica_.options().micro_batches, all = flat_.ranks(false);
  const Dtype own = flat_.gradient_dtype();
  Bytes step = options_.clip_norm > 0 && all > 1
                   ? wire_bytes(Collective::all_reduce, bytes_of(1, Dtype::fp32), all)
                   : Bytes(0);
  if (gathered_) step += gathered_->sent_besides();
  for (const ParameterGroup& group : flat_.groups()) {
    for (const DividedPart& part : group.parts) {
      step += sent_in_reduction(part) * (options_.reduce_each ? k : 1);
      if (average_ != nullptr)
        step += wire_bytes(Collective::all_reduce, bytes_of(part.shard, own), average_->size());
    }
    if (gathered_) step += gathered_->sent(group, k);
    if (gathers_ != nullptr) step += sent_in_gather(group);
  }
  return step * steps;
}

Bytes Zero::sent_in_reduction(const DividedPart& part) const {
  const int n = flat_.ranks(part.experts);
  const Dtype wire = options_.communication.value_or(flat_.gradient_dtype());
  return options_.codec ? Bytes((n - 1) * options_.codec->bytes(part.shard))
                        : wire_bytes(Collective::reduce_scatter, bytes_of(part.elements, wire), n);
}

// Stages 1 and 2, of all that this rank owns of a group: its whole has the new values.
void Zero::gather(ParameterGroup& group) {
  if (group.elements == 0) return;
  gathers_->after(replica_.compute().record());
  for (const DividedPart& part : group.parts)
    if (Channel* const channel = gather_.at(part.kind()); channel != nullptr)
      gathers_->all_gather(part_of(group.values, group, part), flat_.value_shard(part), *channel);
  state_of(group).updated = gathers_->record();
}

void Zero::await_weights() {
  if (gathers_ != nullptr) replica_.compute().after(gathers_->record());
}

// Whole weights were changed by all ranks alike; of their own ones they tell each other.
bool Zero::gathers_anew(const ParameterGroup& group, std::int64_t begin, std::int64_t end) const {
  const DividedPart &first = group.parts.front(), &last = group.parts.back();
  return gathers_ != nullptr && flat_.owns_weights() && first.shard_begin < end &&
         begin < last.shard_begin + last.shard;
}

void Zero::weights_changed(std::int64_t begin, std::int64_t end) {
  if (gathered_) gathered_->updated();
  for (ParameterGroup& group : flat_.groups())
    if (gathers_anew(group, begin, end)) gather(group);
}

Bytes Zero::sent_after_change(std::int64_t begin, std::int64_t end) const {
  Bytes all;
  for (const ParameterGroup& group : flat_.groups())
    if (gathers_anew(group, begin, end)) all += sent_in_gather(group);
  return all;
}

Bytes Zero::sent_in_gather(const ParameterGroup& group) const {
  Bytes all;
  for (const DividedPart& part : group.parts)
    all += wire_bytes(Collective::all_gather, bytes_of(part.elements, flat_.whole_dtype()),
                      flat_.ranks(part.experts));
  return all;
}

StepEnd Zero::issue(Progress& progress) {
  Stream& compute = replica_.compute();
  replica_.accumulate_gradients(progress);
  await_reductions();
  const Tensor scale =
      options_.clip_norm > 0 ? replica_.clip_scale(compute, options_.clip_norm) : Tensor();
  flat_.begin_update(compute);
  replica_.staleness().apply();
  for (ParameterGroup& group : flat_.groups()) {
    flat_.update(compute, group, scale);
    if (gathers_ != nullptr) gather(group);
  }
  if (gathers_ != nullptr && !options_.overlap_gather) compute.after(gathers_->record());
  if (gathered_) gathered_->updated();
  return {compute.record(), replica_.loss()};
}

}  // namespace orrery

// Differences from the paper: groups are whole blocks, each cut into n equal parts, so that a
// gradient leaves as soon as its block's backward is over, where the paper cuts the sequence of all
// parameters once; parameters are not sent by broadcast but gathered, which moves as many bytes.
