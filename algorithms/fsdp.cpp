// Fully sharded data parallelism: parameters are gathered for their passes.
//
// Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023 (arXiv
// 2304.11277), section 3; the third stage of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054,
// section 5.3). Of the parameters W of each group (a block, unless groups are larger) every one of
// n ranks owns an n-th, W_i.
//
//   forward, for each group in order:          W <- all_gather W_i, ahead;   y <- f(W, x);   free W
//   backward, for each group in reverse:       W <- all_gather W_i, ahead;   dx, g <- f'(W, x, dy)
//                                              g_i <- reduce_scatter g;      free W, g
//
// "Ahead": while the group before it computes, but not before at most `limit` - 1 groups are whole.
// The group that the backward begins with stays from the forward, and so does a table that a tied
// head uses.
//
// Cost per micro-batch, for P bytes of parameters, of which P_s stay, and n ranks:
//   communication   all-gathers of (n-1)/n (2 P - P_s) bytes sent per rank; (n-1)/n P when all stay
//   after the forward, and that per step when they stay after the backward; (n-1)/n P + (m-1)/m (P
//   - P_s) with groups of m memory          P/n, and P_s and at most `limit` groups whole; P/n + P
//   when all stay; (P - P_s)/m more between the passes with groups of m
// Per parameter, as PyTorch's FSDP2 (pytorch/pytorch, torch/distributed/fsdp/_fully_shard/
// _fsdp_collectives.py, foreach_all_gather_copy_out): besides the groups that are whole, buffers of
// those that are gathered and not yet copied out; P_s has the first group too.
// Narrow, as torchao's float8 all-gather: matrices of layers take a byte per element on the wire
// (narrow_gather.cpp has what is sent and held).
// Experts that e ranks divide (see zero.cpp) are gathered by n/e ranks; with e = n a group's whole
// has a copy of them.
#include "algorithms/fsdp.hpp"

namespace orrery {

namespace {
// Micro-batches are then many, and gathers in each would cost more than the memory is worth.
bool pipelined(const Replica& replica) { return replica.rank().size(Axis::pipeline) > 1; }

int ranks_of(const Channel* channel) { return channel == nullptr ? 1 : channel->size(); }
}  // namespace

GatheredParameters::GatheredParameters(Replica& replica, const GatherOptions& options)
    : replica_(replica),
      flat_(replica.flat()),
      options_(options),
      after_forward_(
          options.after_forward.value_or(pipelined(replica) ? Reshard::no : Reshard::yes)),
      after_backward_(options.after_backward.value_or(!pipelined(replica))),
      stream_(replica.rank().stream("parameters")),
      states_(flat_.groups().size()) {
  if (options.prefetch < 0 || options.limit < 1)
    throw Error(Category::config, "FSDP prefetches 0 or more groups and has at least 1 whole");
  Rank& rank = replica.rank();
  const Sharding regrouped{.over = options.group};
  for (const bool experts : {false, true}) {
    if (flat_.ranks(experts) == 1) continue;
    channel_.at(experts ? 1 : 0) = &rank.channel(flat_.sharding().over_for(experts),
                                                 experts ? "expert parameters" : "parameters");
    if (const Axes over = regrouped.over_for(experts);
        after_forward_ == Reshard::to_group && rank.size(over) > 1)
      group_channel_.at(experts ? 1 : 0) =
          &rank.channel(over, experts ? "regrouped experts" : "regrouped");
  }
  if (options.narrow) {
    if (after_forward_ == Reshard::to_group)
      throw Error(Category::config, "parameters that are gathered in 8 bits are not regathered");
    narrow_ = std::make_unique<NarrowGather>(flat_, stream_, channel_);
  }
  updated();
}

void GatheredParameters::before(const Unit& unit) {
  flat_.for_used(unit.block, [this](ParameterGroup& group) {
    gather(group);
    replica_.compute().after(state_of(group).gathered);
    if (under_way(group)) copy_out(group);
  });
  prefetch(unit);
}

bool GatheredParameters::stays(const ParameterGroup& group) const {
  return group.shared || (options_.per_parameter && &group == &flat_.groups().front());
}

// The buffer's memory is free for gathers behind the copy.
void GatheredParameters::copy_out(ParameterGroup& group) {
  State& state = state_of(group);
  Stream& compute = replica_.compute();
  group.values = whole(compute, group, "whole parameters");
  if (state.buffer)
    compute.copy(state.buffer, group.values);
  else
    narrow_->decode(compute, group, state.messages);
  copied_ = compute.record();
  state.buffer = {};
  state.messages.clear();
}

Tensor GatheredParameters::whole(Stream& stream, const ParameterGroup& group,
                                 const char* name) const {
  return replica_.rank().allocate(stream, Label::communication, group.elements, flat_.whole_dtype(),
                                  {.name = name});
}

void GatheredParameters::prefetch(const Unit& unit) {
  const Unit* next = unit.next;
  for (int ahead = 0; next != nullptr && ahead < options_.prefetch; ++ahead, next = next->next)
    flat_.for_used(next->block, [this](ParameterGroup& group) {
      if (whole_ < options_.limit || after_forward_ == Reshard::no) gather(group);
    });
}

// Memory is given back in the order of issue: a gather waits for the last uses of as many groups as
// it takes to stay within the limit.
void GatheredParameters::gather(ParameterGroup& group) {
  if (group.values || under_way(group) || group.elements == 0) return;
  if (copied_) stream_.after(*copied_);
  const auto limit = static_cast<std::size_t>(options_.limit);
  while (!released_.empty() && static_cast<std::size_t>(whole_) + released_.size() >= limit) {
    stream_.after(released_.front());
    released_.pop_front();
  }
  State& state = state_of(group);
  const std::vector<Tensor> kept = std::move(state.kept);
  state.kept.clear();
  stream_.after(kept.empty() ? updated_ : state.kept_at);
  if (narrow_ && narrow_->narrows(group)) {
    gather_narrow(group);
  } else {
    Tensor& gathered = options_.per_parameter ? state.buffer : group.values;
    gathered = whole(stream_, group, "gathered parameters");
    for (std::size_t i = 0; i < group.parts.size(); ++i) {
      const DividedPart& part = group.parts[i];
      const Tensor all = part_of(gathered, group, part);
      if (kept.empty())
        gather_part(all, flat_.value_shard(part), channel_.at(part.kind()));
      else
        gather_part(all, kept[i], group_channel_.at(part.kind()));
    }
  }
  state.gathered = stream_.record();
  if (!stays(group)) ++whole_;
}

void GatheredParameters::gather_narrow(ParameterGroup& group) {
  std::vector<Tensor> messages = narrow_->gather(group);
  if (options_.per_parameter) {
    state_of(group).messages = std::move(messages);
    return;
  }
  group.values = whole(stream_, group, "gathered parameters");
  narrow_->decode(stream_, group, messages);
}

// Without a channel `part` is the whole.
void GatheredParameters::gather_part(const Tensor& whole, Tensor part, Channel* channel) {
  Rank& rank = replica_.rank();
  if (part.dtype() != whole.dtype()) {
    const Tensor sent = channel == nullptr
                            ? whole
                            : rank.allocate(stream_, Label::communication, part.elements(),
                                            whole.dtype(), {.name = "sent parameters"});
    stream_.launch(rank.prepare(Kernel::cast(part.elements(), part.dtype(), whole.dtype())),
                   {part, sent});
    part = sent;
  } else if (channel == nullptr) {
    stream_.copy(part, whole);
  }
  if (channel != nullptr) stream_.all_gather(whole, part, *channel);
}

void GatheredParameters::after(const Unit& unit, Pass pass) {
  ParameterGroup& group = flat_.group_of(unit.block);
  const Unit* next = unit.next;
  const bool used_next =
      next != nullptr && next->block >= group.first_block && next->block < group.last_block;
  if (!group.values || used_next) return;
  if (pass == Pass::forward && !stays(group) && after_forward_ != Reshard::no)
    release(group, after_forward_ == Reshard::to_group);
  if (pass == Pass::backward && (after_backward_ || unit.last_micro_batch)) release(group, false);
}

void GatheredParameters::release(ParameterGroup& group, bool keep_part) {
  Stream& compute = replica_.compute();
  if (keep_part) {
    State& state = state_of(group);
    for (const DividedPart& part : group.parts) {
      const Channel* const channel = group_channel_.at(part.kind());
      const std::int64_t n = part.elements / ranks_of(channel);
      const std::int64_t begin = channel == nullptr ? 0 : channel->index() * n;
      state.kept.push_back(replica_.rank().allocate(
          compute, Label::communication, n, flat_.whole_dtype(), {.name = "kept parameters"}));
      state.kept_at = compute.copy(part_of(group.values, group, part).slice(begin, begin + n),
                                   state.kept.back());
    }
  }
  if (after_forward_ == Reshard::no)  // no gather will wait for it in this micro-batch
    stream_.after(compute.record());
  else
    released_.push_back(compute.record());
  group.values = {};
  if (!stays(group)) --whole_;
}

Bytes GatheredParameters::sent(const ParameterGroup& group, int k) const {
  const bool first = &group == &flat_.groups().front(), last = &group == &flat_.groups().back();
  const bool all_stay = after_forward_ == Reshard::no;
  int forwards = first || group.shared || (all_stay && !after_backward_) ? 1 : k;
  int backwards = last || stays(group) || all_stay ? 0 : k;
  if (first && last) forwards = 1, backwards = 0;
  const bool regrouped = after_forward_ == Reshard::to_group;
  Bytes all;
  for (std::size_t i = 0; i < group.parts.size(); ++i) {
    const DividedPart& part = group.parts[i];
    const Bytes whole = narrow_ && narrow_->narrows(group)
                            ? narrow_->messages(group, i)
                            : bytes_of(part.elements, flat_.whole_dtype());
    const int first_ranks = ranks_of(channel_.at(part.kind()));
    const int again = regrouped ? ranks_of(group_channel_.at(part.kind())) : first_ranks;
    all += wire_bytes(Collective::all_gather, whole, first_ranks) * forwards +
           wire_bytes(Collective::all_gather, whole, again) * backwards;
  }
  return all;
}

void GatheredParameters::updated() {
  updated_ = replica_.compute().record();
  if (narrow_) narrow_->updated();
}

}  // namespace orrery

// Differences from the paper: gathers and reductions have a communicator each, where PyTorch's
// share one; a group is cut into equal parts whatever its parameters' shapes, as FSDP's flat
// parameters are, not along each one's first dimension.
