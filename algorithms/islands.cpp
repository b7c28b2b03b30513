#include "algorithms/islands.hpp"

namespace orrery {

Islands::Islands(Replica& replica, std::unique_ptr<Algorithm> inner, const CodecSpec& codec,
                 std::int64_t elements)
    : replica_(replica),
      rank_(replica.rank()),
      codec_(make_codec(codec)),
      inner_(std::move(inner)) {
  if (rank_.size(Axis::island) == 1) return;
  communication_ = &rank_.stream("islands");
  channel_ = &rank_.channel(Axis::island, "islands");
  mean_.emplace(*communication_, *channel_, codec_, elements);
}

StepEnd Islands::issue(Progress& progress) {
  const StepEnd inner = inner_->issue(progress);
  compute().after(inner.end);
  inner_step_issued(progress.step() + 1);
  return {compute().record(), inner.loss};
}

Event Islands::mean(const Tensor& x) {
  if (!mean_) return compute().record();
  communication_->after(compute().record());
  return mean_->reduce(x);
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
  std::optional<Bytes> all = inner_->sent(steps);
  if (all) *all += sent_in_meetings(steps);
  return all;
}

void Islands::visit(Archive& archive) {
  inner_->visit(archive);
  if (mean_) mean_->visit(archive);
}

}  // namespace orrery
