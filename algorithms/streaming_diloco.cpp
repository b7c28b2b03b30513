// Streaming DiLoCo: fragments meet in turn, overlapped with training, in four bits.
//
// Douillard et al., "Streaming DiLoCo with overlapping communication", 2025 (arXiv 2501.18512),
// algorithm 2. The model is P fragments of a few layers; fragment p meets every H inner steps, at
// an offset t_p = p H / P of its own; a meeting may take tau inner steps. On every worker m:
//
//   for t = 1, 2, ...:
//     theta_m <- InnerOpt(theta_m, grad f(theta_m; batch))
//     for each p with t - tau = t_p mod H:
//       Delta_p <- wait for the mean over workers
//       theta_p <- OuterOpt(theta_p, Delta_p)                          as in DiLoCo
//       theta_{m,p} <- alpha theta_{m,p} + (1 - alpha) theta_p         mixing
//     for each p with t = t_p mod H:
//       start the mean over workers of quantise(theta_p - theta_{m,p})
//
// With eager updates (Kale, Douillard and Donchev, "Eager Updates For Overlapped Communication and
// Computation in DiLoCo", 2025, arXiv 2502.12996, algorithm 3) a meeting may take until the next of
// its fragment, tau = H. Of k workers, m does not wait for its own share of a mean, and takes that
// of the others when it arrives; each outer gradient still enters once, and workers have outer
// parameters of their own:
//
//   for each p with t = t_p mod H:
//     Delta_{m,p} <- theta_p - theta_{m,p};       Delta_p <- wait for the last mean, 0 at first
//     theta_p <- OuterOpt(theta_p, Delta_{m,p} / k + (Delta_p - last Delta_{m,p} / k))
//     theta_{m,p} <- alpha theta_{m,p} + (1 - alpha) theta_p             alpha = 0 as in DiLoCo
//     start the mean over workers of quantise(Delta_{m,p})
//
// Cost, for P_p parameters of fragment p, P in all, k workers and b bytes a number (fp4: 1/2 and
// scales):
//   communication   2 (k-1)/k b P_p bytes per rank every H steps for each fragment, which is
//                   2 (k-1)/k b P / H per step; exposed only where it takes longer than tau steps
//   memory          8 P bytes beside the inner algorithm's (theta and v), and 4 P_p for each
//                   fragment under way; eager: 8 P_p, and all fragments are
#include "algorithms/streaming_diloco.hpp"

#include <algorithm>
#include <map>

namespace orrery {

void describe(Fields<StreamingDilocoOptions>& f) {
  describe_diloco(f);
  f.field("fragment_layers", &StreamingDilocoOptions::fragment_layers)
      .at_least(0)
      .doc("blocks of a fragment (embedding and head count as blocks); 0: the model is one");
  f.field("pattern", &StreamingDilocoOptions::pattern)
      .one_of({"strided", "sequential"})
      .doc("which blocks make a fragment");
  f.field("overlap", &StreamingDilocoOptions::overlap)
      .at_least(0)
      .doc("tau: inner steps that a meeting may take; default 1, of eager updates inner_steps");
  f.field("mixing", &StreamingDilocoOptions::mixing)
      .between(0, 1)
      .doc("alpha: share of the worker's own parameters when a meeting ends; default 0.5, eager 0");
  f.field("eager", &StreamingDilocoOptions::eager)
      .doc("a worker's own outer gradient is applied at once, the others' at the next meeting");
  describe_members(f);
  f.check([](const StreamingDilocoOptions& o, const SectionProblems& p) {
    const bool some_die =
        std::ranges::any_of(o.members, [](const Member& m) { return m.dies_after.has_value(); });
    if (some_die)
      p.add("members", "not available yet: workers that die while fragments are under way",
            "let them leave");
    if (o.eager && !o.members.empty())
      p.add("members",
            "some of an eager meeting is always under way, and belongs to what its workers were",
            "leave out eager");
    if (o.eager && o.tau() != o.overlap.value_or(o.inner_steps))
      p.add("overlap", "an eager meeting takes until the next of its fragment", "leave it out");
    if (o.tau() > o.inner_steps)
      p.add("overlap", "a fragment would meet again before its last meeting is over",
            "use at most inner_steps");
  });
}

namespace {

using Bounds = std::pair<std::int64_t, std::int64_t>;

// Of what a rank owns of each block, or of each group of blocks that ranks divide.
std::vector<Bounds> ranges_of_blocks(FlatParameters& flat) {
  std::vector<Bounds> ranges;
  if (flat.owns_weights()) {
    for (const ParameterGroup& group : flat.groups())
      if (group.elements > 0)
        ranges.emplace_back(group.parts.front().shard_begin,
                            group.parts.back().shard_begin + group.parts.back().shard);
    return ranges;
  }
  std::map<int, Bounds> blocks;
  for (const Parameter& p : flat.parameters()) {
    const auto [at, fresh] = blocks.try_emplace(p.block, p.begin, p.begin);
    at->second.second = p.begin + p.elements;
  }
  for (const auto& [block, range] : blocks) ranges.push_back(range);
  return ranges;
}

}  // namespace

std::vector<Fragment> fragments(FlatParameters& flat, const StreamingDilocoOptions& options) {
  const std::vector<Bounds> blocks = ranges_of_blocks(flat);
  const auto count = static_cast<std::int64_t>(blocks.size());
  const std::int64_t layers = options.fragment_layers == 0 ? count : options.fragment_layers;
  const std::int64_t parts = (count + layers - 1) / layers;
  std::vector<Fragment> all(static_cast<std::size_t>(parts));
  std::int64_t number = 0;
  for (const Bounds& range : blocks) {
    const std::int64_t p = options.pattern == "strided" ? number % parts : number / layers;
    Fragment& fragment = all[static_cast<std::size_t>(p)];
    fragment.offset = p * options.inner_steps / parts;
    fragment.elements += range.second - range.first;
    if (!fragment.ranges.empty() && fragment.ranges.back().second == range.first)
      fragment.ranges.back().second = range.second;
    else
      fragment.ranges.push_back(range);
    ++number;
  }
  return all;
}

namespace {

std::int64_t largest_fragment(const std::vector<Fragment>& all) {
  std::int64_t most = 0;
  for (const Fragment& p : all) most = std::max(most, p.elements);
  return most;
}

}  // namespace

StreamingDiloco::StreamingDiloco(Replica& replica, std::unique_ptr<Algorithm> inner,
                                 const StreamingDilocoOptions& options)
    : Islands(replica, std::move(inner), options,
              largest_fragment(fragments(replica.flat(), options)), options.tau()),
      options_(options),
      fragments_(fragments(replica.flat(), options)),
      theta_(copy_of_weights("outer.parameters")),
      outer_(make_optimizer(outer_optimizer(options), rank_, compute(), theta_.elements(),
                            Dtype::fp32)) {
  if (!options.members.empty() && fragments_.size() > 1 && fragments_[1].offset <= options.tau())
    throw Error(Category::config,
                "members: a worker joins or leaves when the first fragment has met and no other is "
                "under way; the second is sent " +
                    std::to_string(fragments_[1].offset) + " steps behind it")
        .with("hint", "use an overlap below that, or larger fragments");
  // As many as are under way at most: those sent in tau + 1 steps in a row.
  std::size_t most = 0;
  for (std::int64_t t = 0; t < options.inner_steps; ++t) {
    std::size_t here = 0;
    for (std::int64_t back = 0; back <= options.tau() && back < options.inner_steps; ++back)
      for (const Fragment& p : fragments_)
        if (p.offset == (t + options.inner_steps - back) % options.inner_steps) ++here;
    most = std::max(most, here);
  }
  const std::int64_t elements = largest_fragment(fragments_);
  for (std::size_t i = 0; i < most; ++i) {
    for (std::vector<Tensor>* each : {&deltas_, &own_}) {
      if (each == &own_ && !options.eager) continue;
      each->push_back(rank_.allocate(compute(), Label::communication, elements, Dtype::fp32,
                                     {.name = "outer.gradient"}));
      compute().launch(rank_.prepare(Kernel::fill(elements, 0, Dtype::fp32)), {each->back()});
    }
  }
}

bool StreamingDiloco::due(const Fragment& p, std::int64_t t) const {
  return t > 0 && t % options_.inner_steps == p.offset % options_.inner_steps;
}

void StreamingDiloco::inner_step_issued(std::int64_t t) {
  if (options_.eager) {
    for (const Fragment& p : fragments_)
      if (due(p, t)) meet_eagerly(p);
    return;
  }
  if (options_.tau() > 0)
    for (const Fragment& p : fragments_)
      if (due(p, t - options_.tau())) apply(p);
  for (const Fragment& p : fragments_) {
    if (!due(p, t)) continue;
    send(p);
    if (options_.tau() == 0) apply(p);
  }
}

void StreamingDiloco::send(const Fragment& p) {
  under_way_.push_back(mean(take_outer_gradient(p, slot(deltas_, sent_++, p))));
}

// Into a slot, range by range.
Tensor StreamingDiloco::take_outer_gradient(const Fragment& p, const Tensor& slot) {
  const Tensor theta_i = weights();
  std::int64_t at = 0;
  for (const auto& [begin, end] : p.ranges) {
    const Tensor delta = slot.slice(at, at + end - begin);
    compute().copy(theta_i.slice(begin, end), delta);
    subtract_from(theta_.slice(begin, end), delta);
    at += end - begin;
  }
  return slot;
}

void StreamingDiloco::wait_for_mean() {
  if (static_cast<std::int64_t>(under_way_.size()) == sent_ - applied_) {
    compute().after(under_way_.front());
    under_way_.pop_front();
  }
  ++applied_;
}

void StreamingDiloco::apply(const Fragment& p) {
  const Tensor delta = slot(deltas_, applied_, p);
  wait_for_mean();
  step(p, delta);
}

// Fragments meet in turn, so the mean that comes next is this fragment's, and its slot the one that
// is free next.
void StreamingDiloco::meet_eagerly(const Fragment& p) {
  const Tensor gradient = slot(deltas_, sent_, p), own = slot(own_, sent_, p);
  const double share = 1.0 / rank_.size(Axis::island);
  const auto add_own = [&](double factor) {
    compute().launch(rank_.prepare(Kernel::linear_combination(p.elements, factor, 1, Dtype::fp32)),
                     {own, gradient});
  };
  if (sent_ >= std::ssize(fragments_)) wait_for_mean();
  add_own(-share);  // of the last meeting; both are 0 before the first
  take_outer_gradient(p, own);
  add_own(share);
  step(p, gradient);
  compute().copy(own, gradient);
  under_way_.push_back(mean(gradient));
  ++sent_;
}

void StreamingDiloco::step(const Fragment& p, const Tensor& gradient) {
  const Tensor theta_i = weights();
  outer_->begin_step(compute());
  std::int64_t at = 0;
  for (const auto& [begin, end] : p.ranges) {
    const Tensor theta = theta_.slice(begin, end);
    outer_->update(compute(), theta, gradient.slice(at, at + end - begin), begin, {}, {});
    compute().launch(rank_.prepare(Kernel::linear_combination(end - begin, 1 - options_.alpha(),
                                                              options_.alpha(), Dtype::fp32)),
                     {theta, theta_i.slice(begin, end)});
    weights_changed(begin, end);
    at += end - begin;
  }
}

Bytes StreamingDiloco::sent_in_meetings(std::int64_t steps) const {
  Bytes all;
  for (const Fragment& p : fragments_) {
    const std::int64_t first = p.offset == 0 ? options_.inner_steps : p.offset;
    const auto meetings = [&](std::int64_t until) {
      return until < first ? 0 : (until - first) / options_.inner_steps + 1;
    };
    all += sent_in_mean(p.elements) * meetings(steps);
    const std::int64_t ended = meetings(options_.eager ? steps : steps - options_.tau());
    for (const auto& [begin, end] : p.ranges) all += sent_after_change(begin, end) * ended;
  }
  return all;
}

void StreamingDiloco::visit(Archive& archive) {
  Islands::visit(archive);
  visit_common(archive);
  const Archive::Scope scope(archive, "outer");
  for (std::size_t i = 0; i < deltas_.size(); ++i)
    archive.field("gradient." + std::to_string(i), deltas_[i]);
  for (std::size_t i = 0; i < own_.size(); ++i) archive.field("own." + std::to_string(i), own_[i]);
}

// With no fragment under way.
void StreamingDiloco::visit_common(Archive& archive) {
  const Archive::Scope scope(archive, "outer");
  archive.field("parameters", theta_);
  archive.field("sent", sent_);
  archive.field("applied", applied_);
  outer_->visit(archive);
}

void StreamingDiloco::has_joined() {
  compute().copy(theta_, weights());
  weights_changed();
}

}  // namespace orrery

// Differences from the paper: the reduced outer gradient is sent back in the codec too (the paper
// leaves open whether it is); a fragment's first meeting comes after t_p steps, not H; the scale of
// the four-bit numbers, which the paper does not tell, is a power of two per block.
// Eager updates send each fragment in turn, as the paper's variant of Streaming DiLoCo does. Of a
// step 1/k is fresh: with many workers they come close to outer gradients that are delayed
// altogether, for which the paper lowers the outer rate.
// With `members` the mean of a fragment is over those that are there. One that joins does so when a
// meeting of the first fragment is over and none is under way, with theta and v; its first meetings
// come after fewer than H steps, as everyone's do.
