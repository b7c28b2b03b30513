#include "algorithms/islands.hpp"

#include <numeric>
#include <utility>

namespace orrery {

Islands::Islands(Replica& replica, std::unique_ptr<Algorithm> inner, const IslandOptions& options,
                 std::int64_t elements, std::int64_t meeting_takes)
    : replica_(replica),
      rank_(replica.rank()),
      codec_(make_codec(options.codec)),
      inner_(std::move(inner)) {
  if (rank_.size(Axis::island) == 1) return;
  communication_ = &rank_.stream("islands");
  channel_ = &rank_.channel(Axis::island, "islands");
  mean_.emplace(*communication_, *channel_, codec_, elements);
  if (!options.members.empty() || options.quorum)
    members_.emplace(options, options.inner_steps, meeting_takes, *channel_, *communication_,
                     compute());
}

StepEnd Islands::issue(Progress& progress) {
  if (members_ && !enter(progress)) {
    progress.end();
    return {compute().record(), {}};
  }
  const StepEnd inner = inner_->issue(progress);
  compute().after(inner.end);
  if (!members_)
    inner_step_issued(progress.step() + 1);
  else if (!meet_as_member(progress))
    progress.end();
  return {compute().record(), inner.loss};
}

// Whether it takes a step.
bool Islands::enter(Progress& progress) {
  const auto common = [this](Archive& archive) { visit_common(archive); };
  const IslandMembers::Entry entry = members_->enter(progress, common);
  if (entry == IslandMembers::Entry::takes) has_joined();
  return entry != IslandMembers::Entry::stays_away;
}

// Whether it goes on behind this step.
bool Islands::meet_as_member(Progress& progress) {
  const std::int64_t t = progress.step() + 1;
  if (members_->dies()) return false;
  const bool meeting = members_->meeting_ends(t);
  if (meeting) {
    const IslandMembers::Part part = members_->come(t);
    if (part != IslandMembers::Part::meets) return part == IslandMembers::Part::is_late;
  }
  inner_step_issued(t);
  return !meeting || !members_->change(t, progress.steps(),
                                       [this](Archive& archive) { visit_common(archive); });
}

void Islands::finish() {
  inner_->finish();
  if (members_) members_->finish();
}

Event Islands::mean(const Tensor& x) {
  if (!mean_) return compute().record();
  communication_->after(compute().record());
  if (!members_ || !members_->some_die()) return mean_->reduce(x);
  return members_->among_the_living([&] { return mean_->reduce(x, true); });
}

std::vector<int> Islands::that_meet() const {
  if (members_) return members_->that_meet();
  std::vector<int> all(static_cast<std::size_t>(rank_.size(Axis::island)));
  std::iota(all.begin(), all.end(), 0);
  return all;
}

Tensor Islands::weights() {
  inner_->await_weights();
  return replica_.flat().weights();
}

void Islands::weights_changed(std::int64_t begin, std::int64_t end) {
  replica_.flat().weights_changed(compute(), begin, end);
  inner_->weights_changed(begin, end);
  if (members_) met_ += sent_after_change(begin, end);
}

Tensor Islands::copy_of_weights(const char* name) {
  const Tensor weights = replica_.flat().weights();  // initial ones are there
  Tensor copy =
      rank_.allocate(compute(), Label::optimizer, weights.elements(), Dtype::fp32, {.name = name});
  compute().copy(weights, copy);
  return copy;
}

void Islands::subtract_from(const Tensor& theta, const Tensor& gradient) {
  compute().launch(rank_.prepare(Kernel::linear_combination(theta.elements(), 1, -1, Dtype::fp32)),
                   {theta, gradient});
}

void Islands::take_change(const Tensor& theta, const Tensor& weights) {
  compute().launch(rank_.prepare(Kernel::linear_combination(theta.elements(), -1, 1, Dtype::fp32)),
                   {theta, weights});
}

Bytes Islands::sent_in_mean(std::int64_t elements) const {
  return Bytes(CompressedMean::sent(codec_.get(), elements, rank_.size(Axis::island)));
}

Bytes Islands::sent_in_meeting() const {
  const std::int64_t all = replica_.flat().weights().elements();
  return sent_in_mean(all) + sent_after_change(0, all);
}

Bytes Islands::sent_after_change(std::int64_t begin, std::int64_t end) const {
  return inner_->sent_after_change(begin, end);
}

std::optional<Bytes> Islands::sent(std::int64_t steps) const {
  if (members_ && !members_->begun()) return {};  // who is there when, no plan tells
  std::optional<Bytes> all = inner_->sent(members_ ? members_->taken() : steps);
  if (all) *all += members_ ? mean_->sent() + met_ + members_->sent() : sent_in_meetings(steps);
  return all;
}

void Islands::visit(Archive& archive) {
  inner_->visit(archive);
  if (mean_) mean_->visit(archive);
  if (members_) members_->visit(archive);
}

}  // namespace orrery
