#include "algorithms/islands.hpp"

namespace orrery {

Islands::Islands(Replica& replica, std::unique_ptr<Algorithm> inner, const IslandOptions& options,
                 std::int64_t elements)
    : replica_(replica),
      rank_(replica.rank()),
      codec_(make_codec(options.codec)),
      inner_(std::move(inner)),
      inner_steps_(options.inner_steps) {
  if (rank_.size(Axis::island) == 1) return;
  communication_ = &rank_.stream("islands");
  channel_ = &rank_.channel(Axis::island, "islands");
  mean_.emplace(*communication_, *channel_, codec_, elements);
  if (!options.members.empty())
    members_.emplace(options.members, options.deadline, inner_steps_, *channel_, *communication_,
                     compute());
}

StepEnd Islands::issue(Progress& progress) {
  const auto common = [this](Archive& archive) { visit_common(archive); };
  if (members_ && taken_ == 0) {
    if (!members_->arrive(progress, common)) {
      progress.end();
      return {compute().record(), {}};
    }
    if (progress.step() > 0) {
      has_joined();
      met_ += sent_after_change(0, replica_.flat().weights().elements());
    }
  }
  const StepEnd inner = inner_->issue(progress);
  ++taken_;
  compute().after(inner.end);
  const std::int64_t t = progress.step() + 1;
  if (members_ && members_->is_dead(t)) {
    progress.end();
    return {compute().record(), inner.loss};
  }
  inner_step_issued(t);
  if (members_ && t % inner_steps_ == 0) {
    met_ += sent_after_change(0, replica_.flat().weights().elements());
    if (members_->change(t, progress.steps(), common)) progress.end();
  }
  return {compute().record(), inner.loss};
}

Event Islands::mean(const Tensor& x) {
  if (!mean_) return compute().record();
  communication_->after(compute().record());
  if (!members_) return mean_->reduce(x);
  return members_->among_the_living([&] {
    met_ += Bytes(CompressedMean::sent(codec_.get(), x.elements(), channel_->size()));
    return mean_->reduce(x);
  });
}

Tensor Islands::weights() {
  inner_->await_weights();
  return replica_.flat().weights();
}

void Islands::weights_changed(std::int64_t begin, std::int64_t end) {
  replica_.flat().weights_changed(compute(), begin, end);
  inner_->weights_changed(begin, end);
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
  std::optional<Bytes> all = inner_->sent(members_ ? taken_ : steps);
  if (all) *all += members_ ? met_ + members_->sent() : sent_in_meetings(steps);
  return all;
}

void Islands::visit(Archive& archive) {
  inner_->visit(archive);
  if (mean_) mean_->visit(archive);
}

}  // namespace orrery
