// QSGD: quantised stochastic gradient descent.
//
// Alistarh, Grubic, Li, Tomioka and Vojnovic, "QSGD: Communication-Efficient SGD via Gradient
// Quantization and Encoding", NeurIPS 2017 (arXiv 1610.02132), section 3.1, with s levels under the
// norm of each bucket of d numbers:
//
//   Q(v)_i = |v| sgn(v_i) l / s,   l = floor(s |v_i| / |v|), plus 1 with probability s |v_i| / |v|
//   - l on every worker:    g <- mean over workers of Q(g_i);    theta <- optimizer(theta, g)
//
// E Q(v) = v, and E |Q(v) - v|^2 <= min(d / s^2, sqrt(d) / s) |v|^2.
//
// Cost, for P gradients and n workers:
//   communication   2 (n-1)/n (P + 4 P / d) bytes per rank and step, after the backward
//   memory          beside that of DDP: messages of 2 (P + 4 P / d) bytes while they are sent
#include "algorithms/qsgd.hpp"

namespace orrery {

void describe(Fields<QsgdOptions>& f) {
  f.section("optimizer", &QsgdOptions::optimizer);
  f.field("levels", &QsgdOptions::levels).between(1, 127).doc("s: a number takes a byte");
  f.field("bucket", &QsgdOptions::bucket).at_least(1).doc("d: numbers under one norm");
}

Qsgd::Qsgd(Replica& replica, const QsgdOptions& options)
    : CompressedGradients(replica),
      codec_(make_codec({.name = "qsgd", .block = options.bucket, .levels = options.levels})),
      mean_(communication_, data_, codec_, elements()) {}

void Qsgd::synchronise(const Tensor& gradient, std::int64_t) {
  communication_.after(compute().record());
  compute().after(mean_.reduce(gradient));
}

std::optional<Bytes> Qsgd::sent(std::int64_t steps) const {
  return Bytes(steps * (CompressedMean::sent(codec_.get(), elements(), data_.size())));
}

void Qsgd::visit(Archive& archive) {
  CompressedGradients::visit(archive);
  mean_.visit(archive);
}

}  // namespace orrery

// Differences from the paper: a level takes a byte, where the paper's Elias code takes fewer bits
// for small ones; the mean is sent back in levels too, by two phases, where the paper's workers
// send their gradients to all others.
