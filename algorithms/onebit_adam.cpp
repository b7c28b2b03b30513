// 1-bit Adam: Adam whose variance is frozen after a while, so that its momentum is sent in bits.
//
// Tang, Gan, Awan, Rajbhandari, Li, Lian, Liu, Zhang and He, "1-bit Adam: Communication Efficient
// Large-Scale Training with Adam's Convergence Speed", ICML 2021 (arXiv 2102.02888), algorithm 1;
// as in microsoft/DeepSpeed, deepspeed/runtime/fp16/onebit/adam.py:
//
//   for T_w steps:     Adam with the mean gradient of all workers;   then v is frozen
//   after them, on every worker i:
//     m_i <- beta_1 m + (1 - beta_1) g_i
//     m <- mean over workers of m_i, in one bit a number with error feedback on both sides
//     theta <- theta - lr m / (sqrt(v) + epsilon)         where v > 0
//
// Cost, for P parameters and n workers:
//   communication   T_w steps with an all-reduce of 4 P bytes: 2 (n-1)/n 4 P per rank; after them
//                   2 (n-1)/n P / 8 and 8 (n-1) for scales: 1/32 of it
//   memory          beside that of DDP: 4 P + 4 P / n bytes for the errors
#include "algorithms/onebit_adam.hpp"

#include <cmath>

#include "algorithms/codecs/view.hpp"

namespace orrery {

void describe(Fields<OnebitAdamOptions>& f) {
  f.section("optimizer", &OnebitAdamOptions::optimizer);
  f.field("freeze_step", &OnebitAdamOptions::freeze_step)
      .at_least(1)
      .doc("steps of Adam before its variance is frozen and its momentum compressed");
  f.check([](const OnebitAdamOptions& o, const SectionProblems& p) {
    if (o.optimizer.name != "adamw")
      p.add("optimizer", "1-bit Adam is a form of Adam", "use adamw");
  });
}

OnebitAdam::OnebitAdam(Replica& replica, const OnebitAdamOptions& options)
    : CompressedGradients(replica),
      options_(options),
      codec_(make_codec({.name = "sign"})),
      mean_(communication_, data_, codec_, elements(), true),
      m_(replica.flat().optimizer().state_of("first_moment")),
      v_(replica.flat().optimizer().state_of("second_moment")),
      rate_(rank_.allocate(compute(), Label::workspace, 1, Dtype::fp32,
                           {.values = Values::always, .name = "rate"})) {
  if (m_.dtype() != Dtype::fp32)
    throw Error(Category::config, "1-bit Adam computes with moments that are stored in fp32")
        .with("hint", "set precision.moments to fp32");
  const double beta = replica.options().optimizer.beta1;
  average_ = rank_.prepare(Kernel::linear_combination(elements(), 1 - beta, beta, Dtype::fp32));
  const auto epsilon = static_cast<float>(replica.options().optimizer.epsilon);
  for_alike(replica.parameters(), [&](std::int64_t begin, std::int64_t end,
                                      const UpdateRule& rule) {
    const auto factor = static_cast<float>(rule.rates.adaptive);
    const auto shrink =
        static_cast<float>(rule.decay ? replica.options().optimizer.weight_decay : 0);
    const Prepared step = rank_.prepare(Kernel::custom(  // theta, m, v, lr
        "frozen adam", {Role::update, Role::read, Role::read, Role::read},
        [factor, epsilon, shrink](std::span<const View> view) {
          const auto theta = floats(view[0]), m = floats(view[1]), v = floats(view[2]);
          const float lr = floats(view[3])[0];
          for (std::size_t i = 0; i < theta.size(); ++i)
            if (v[i] > 0)
              theta[i] -= lr * (factor * m[i] / (std::sqrt(v[i]) + epsilon) + shrink * theta[i]);
        },
        Flops(0), bytes_of(4 * (end - begin), Dtype::fp32)));
    ranges_.push_back({begin, end, step});
  });
}

StepEnd OnebitAdam::issue(Progress& progress) {
  if (progress.step() < options_.freeze_step) return CompressedGradients::issue(progress);
  replica_.accumulate_gradients(progress);
  compressed_step();
  return {compute().record(), replica_.loss()};
}

void OnebitAdam::synchronise(const Tensor& gradient, std::int64_t) {
  communication_.after(compute().record());
  compute().after(communication_.all_reduce(gradient, Reduce::mean, data_));
}

void OnebitAdam::compressed_step() {
  FlatParameters& flat = replica_.flat();
  compute().launch(average_, {flat.all_gradients(), m_});
  communication_.after(compute().record());
  compute().after(mean_.reduce(m_));
  flat.begin_update(compute());
  replica_.staleness().apply();
  compute().upload(rate_, {flat.optimizer().rate()});
  for (const Range& r : ranges_) {
    compute().launch(r.step, {flat.weights().slice(r.begin, r.end), m_.slice(r.begin, r.end),
                              v_.slice(r.begin, r.end), rate_});
    flat.weights_changed(compute(), r.begin, r.end);
  }
}

std::optional<Bytes> OnebitAdam::sent(std::int64_t steps) const {
  const std::int64_t warm = std::min(steps, options_.freeze_step);
  return Bytes(warm * CompressedMean::sent(nullptr, elements(), data_.size()) +
               (steps - warm) * CompressedMean::sent(codec_.get(), elements(), data_.size()));
}

void OnebitAdam::visit(Archive& archive) {
  CompressedGradients::visit(archive);
  mean_.visit(archive);
}

}  // namespace orrery

// Differences from the paper: weight decay is AdamW's. What has had no gradient in T_w steps stays
// where it is, as with the mask that users of the code give for it: its m is all compression error.
// As in the code, and not in the paper, the compressed steps have no correction of the moments'
// bias.
