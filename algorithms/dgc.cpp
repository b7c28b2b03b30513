// Deep gradient compression: sparse gradients, with momentum corrected for what is sent late.
//
// Lin, Han, Mao, Wang and Dally, "Deep Gradient Compression: Reducing the Communication Bandwidth
// for Distributed Training", ICLR 2018 (arXiv 1712.01887), algorithm 2; as in
// synxlin/deep-gradient-compression, dgc/memory.py. On every worker i:
//
//   g_i <- g_i min(1, c / (sqrt(n) |g_i|))                              local clipping
//   u_i <- m u_i + g_i;   v_i <- v_i + u_i                              momentum correction
//   mask <- the k places of v_i of largest magnitude;   s_i <- v_i on mask
//   u_i <- 0 and v_i <- 0 on mask                                       momentum factor masking
//   g <- 1/n sum over workers j of s_j;    theta <- theta - lr g
//
// with k rising in sparsity during a warm-up: 25 %, 6.3 %, 1.6 %, 0.4 %, then `ratio`.
//
// Cost, for P gradients, k = ratio P and n workers:
//   communication   an all-gather of 8 k bytes from each: 8 k (n - 1) bytes per rank and step
//                   after the backward; it grows with n
//   memory          beside that of DDP with SGD: 8 P bytes for u and v, and messages of 8 k (n + 1)
#include "algorithms/dgc.hpp"

#include <cmath>

#include "algorithms/codecs/view.hpp"

namespace orrery {

void describe(Fields<DgcOptions>& f) {
  f.section("optimizer", &DgcOptions::optimizer);
  f.field("ratio", &DgcOptions::ratio).positive().at_most(1).doc("k: part of the gradient sent");
  f.field("momentum", &DgcOptions::momentum).between(0, 1).doc("m, in place of the optimizer's");
  f.field("clip_norm", &DgcOptions::clip_norm)
      .positive()
      .doc("c: each replica clips at c / sqrt(n); absent: not clipped");
  f.field("warmup_steps", &DgcOptions::warmup_steps)
      .at_least(0)
      .doc("steps with each of 25, 6.3, 1.6 and 0.4 % before ratio");
  f.check([](const DgcOptions& o, const SectionProblems& p) {
    if (o.optimizer.name != "sgd")
      p.add("optimizer", "the momentum of DGC is its own, and adaptive steps do not go with it",
            "use sgd, and dgc's key momentum");
  });
}

Dgc::Dgc(Replica& replica, const DgcOptions& options)
    : CompressedGradients(replica), options_(options) {
  momentum_ = zeros(elements(), Label::optimizer, "dgc.momentum");
  accumulated_ = zeros(elements(), Label::communication, "dgc.accumulated");
  stage(options.ratio);
}

double Dgc::ratio_at(std::int64_t step) const {
  if (options_.warmup_steps == 0 || step >= 4 * options_.warmup_steps) return options_.ratio;
  return std::max(options_.ratio,
                  std::pow(0.25, static_cast<double>(1 + step / options_.warmup_steps)));
}

Dgc::Stage& Dgc::stage(double ratio) {
  const auto found = stages_.find(ratio);
  if (found != stages_.end()) return found->second;
  const auto codec = make_codec({.name = "sparse", .ratio = ratio});
  const auto m = static_cast<float>(options_.momentum);
  const Prepared select = rank_.prepare(Kernel::custom(  // g, u, v, s, (scale)
      "select", {Role::read, Role::update, Role::update, Role::write, Role::read},
      [codec, m](std::span<const View> view) {
        const auto g = floats(view[0]), u = floats(view[1]), v = floats(view[2]);
        const float scale = floats(view[4]).empty() ? 1 : floats(view[4])[0];
        for (std::size_t i = 0; i < g.size(); ++i) {
          u[i] = m * u[i] + scale * g[i];
          v[i] += u[i];
        }
        codec->encode(v, bytes(view[3]), {Philox(0, Purpose::user)});
        for (const std::int32_t place :
             largest(v, static_cast<std::int64_t>(bytes(view[3]).size() / 8)))
          u[static_cast<std::size_t>(place)] = v[static_cast<std::size_t>(place)] = 0;
      },
      Flops(0), bytes_of(5 * elements(), Dtype::fp32)));
  return stages_
      .emplace(ratio, Stage{select, GatheredMean(communication_, data_, codec, elements())})
      .first->second;
}

void Dgc::synchronise(const Tensor& gradient, std::int64_t step) {
  Stage& now = stage(ratio_at(step));
  const Tensor scale =
      options_.clip_norm
          ? replica_.clip_scale(compute(), *options_.clip_norm / std::sqrt(data_.size()))
          : Tensor();
  const Tensor chosen = rank_.allocate(compute(), Label::communication, now.mean.message_bytes(),
                                       Dtype::uint8, {.name = "dgc.message"});
  compute().launch(now.select, {gradient, momentum_, accumulated_, chosen, scale});
  communication_.after(compute().record());
  now.mean.reduce(chosen, gradient);
  compute().after(communication_.record());
}

std::optional<Bytes> Dgc::sent(std::int64_t steps) const {
  Bytes all;
  for (std::int64_t step = 0; step < steps; ++step)
    all += Bytes(make_codec({.name = "sparse", .ratio = ratio_at(step)})->bytes(elements()) *
                 (data_.size() - 1));
  return all;
}

void Dgc::visit(Archive& archive) {
  CompressedGradients::visit(archive);
  const Archive::Scope scope(archive, "dgc");
  archive.field("momentum", momentum_);
  archive.field("accumulated", accumulated_);
}

}  // namespace orrery

// Differences from the paper: k is exact, where the paper finds a threshold from a sample of 1 %;
// it counts over all parameters of a rank together, biases included; Nesterov's form of the
// momentum correction is left out.
