#include "algorithms/models/expert_balance.hpp"

#include <numeric>
#include <span>

namespace orrery {

namespace {

std::span<float> numbers(const View& view) {
  if (view.data == nullptr) return {};
  return {static_cast<float*>(view.data), static_cast<std::size_t>(view.elements)};
}

}  // namespace

ExpertBalance::ExpertBalance(int experts, double rate, std::vector<ParameterSpec>& state)
    : experts_(experts), rate_(rate) {
  state.push_back({"router.bias", experts, 0, 0, false});
  state.push_back({"router.tokens", experts, 0, 0, false});
}

void ExpertBalance::open(Rank& rank) {
  stream_ = &rank.stream("balance");
  if (rank.size(gradient_axes) > 1) channel_ = &rank.channel(gradient_axes, "tokens of experts");
  move_ = rank.prepare(Kernel::custom(  // bias, counts
      "balance", {Role::update, Role::update},
      [u = static_cast<float>(rate_)](std::span<const View> v) {
        const std::span<float> bias = numbers(v[0]), counts = numbers(v[1]);
        const double all = std::accumulate(counts.begin(), counts.end(), 0.0);
        for (std::size_t i = 0; i < bias.size(); ++i) {
          const double more = static_cast<double>(counts[i]) * static_cast<double>(bias.size());
          if (more != all) bias[i] += more < all ? u : -u;
          counts[i] = 0;
        }
      },
      Flops(static_cast<double>(4 * experts_)), bytes_of(4 * experts_, Dtype::fp32)));
}

void ExpertBalance::end_step(Stream& compute, const Tensor& state) const {
  stream_->after(compute.record());
  if (channel_ != nullptr) stream_->all_reduce(counts(state), Reduce::sum, *channel_);
  stream_->launch(move_, {bias(state), counts(state)});
}

}  // namespace orrery

// Differences from DeepSeek-V3: the small loss that balances each sequence is left out, and so is
// the limit of how many nodes' experts a token may choose.
