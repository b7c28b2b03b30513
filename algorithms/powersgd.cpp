// PowerSGD: low-rank gradients by a power iteration a step.
//
// Vogels, Karimireddy and Jaggi, "PowerSGD: Practical Low-Rank Gradient Compression for Distributed
// Optimization", NeurIPS 2019 (arXiv 1905.13727), algorithms 1 and 2. On every worker i, for each
// matrix n x m of the gradient; Q is kept from step to step and Gaussian at first:
//
//   M_i <- g_i + e_i
//   P_i <- M_i Q;      P <- mean over workers of P_i;    P <- orthonormal columns of P
//   Q_i <- M_i^T P;    Q <- mean over workers of Q_i
//   g <- P Q^T;        e_i <- M_i - g;                   theta <- optimizer(theta, g)
//
// Cost, for matrices n x m, V numbers of vectors and N workers:
//   communication   two all-reduces a step, after the backward: 2 (N-1)/N 4 (r sum n + V) and
//                   2 (N-1)/N 4 r sum m bytes per rank
//   memory          beside that of DDP: 4 P bytes for e, 4 r sum (n + m) + 4 V for the factors
#include "algorithms/powersgd.hpp"

#include <cmath>

#include "algorithms/codecs/view.hpp"

namespace orrery {

void describe(Fields<PowerSgdOptions>& f) {
  f.section("optimizer", &PowerSgdOptions::optimizer);
  f.field("rank", &PowerSgdOptions::rank).between(1, 1024).doc("r: columns of the factors");
}

namespace {

// Gram-Schmidt on the columns of p[n, rank].
void orthonormalise(std::span<float> p, std::size_t n, std::size_t rank) {
  const auto dot = [&](std::size_t a, std::size_t b) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i)
      sum += static_cast<double>(p[i * rank + a]) * p[i * rank + b];
    return sum;
  };
  for (std::size_t c = 0; c < rank; ++c) {
    for (std::size_t before = 0; before < c; ++before) {
      const auto part = static_cast<float>(dot(before, c));
      for (std::size_t i = 0; i < n; ++i) p[i * rank + c] -= part * p[i * rank + before];
    }
    const auto scale = static_cast<float>(1 / (std::sqrt(dot(c, c)) + 1e-12));
    for (std::size_t i = 0; i < n; ++i) p[i * rank + c] *= scale;
  }
}

}  // namespace

PowerSgd::PowerSgd(Replica& replica, const PowerSgdOptions& options)
    : CompressedGradients(replica) {
  std::vector<Part> parts;
  std::size_t p = 0, q = 0;
  double work = 0;
  bool matrices = false;
  for (const Parameter& parameter : replica.parameters()) {
    const auto all = static_cast<std::size_t>(parameter.elements);
    Part part{static_cast<std::size_t>(parameter.begin), all, 1, 0, p, q};
    if (parameter.columns > 1) {
      matrices = true;
      part.m = static_cast<std::size_t>(parameter.columns);
      part.n = all / part.m;
      part.rank = std::min({static_cast<std::size_t>(options.rank), part.n, part.m});
    }
    if (part.rank * (part.n + part.m) >= all) part = {part.begin, all, 1, 0, p, q};  // no gain
    p += part.rank == 0 ? all : part.rank * part.n;
    q += part.rank * part.m;
    work += 2.0 * static_cast<double>(part.rank * all);
    parts.push_back(part);
  }
  if (!matrices)
    throw Error(Category::config, "not available yet: PowerSGD on " + replica.model().name +
                                      ", whose layers do not tell which parameters are matrices");
  parts_ = std::make_shared<const std::vector<Part>>(std::move(parts));
  const auto q_elements = static_cast<std::int64_t>(std::max<std::size_t>(1, q));
  error_ = zeros(elements(), Label::communication, "powersgd.error");
  p_ = zeros(static_cast<std::int64_t>(p), Label::communication, "powersgd.left");
  q_ = zeros(q_elements, Label::communication, "powersgd.right");
  compute().launch(
      rank_.prepare(Kernel::initialise(q_elements, 0, 1, rank_.seed(), 1U << 30U, Dtype::fp32)),
      {q_});
  prepare(Flops(work));
}

void PowerSgd::prepare(Flops work) {
  const Bytes vector = bytes_of(elements(), Dtype::fp32);
  left_ = rank_.prepare(Kernel::custom(  // g, e, Q, P
      "P = M Q", {Role::update, Role::read, Role::read, Role::write},
      [parts = parts_](std::span<const View> v) {
        const auto g = floats(v[0]), e = floats(v[1]), q = floats(v[2]), p = floats(v[3]);
        for (const Part& x : *parts)
          for (std::size_t i = 0; i < x.n; ++i) {
            float* row = &g[x.begin + i * x.m];
            if (x.rank == 0) p[x.p + i] = *row;
            for (std::size_t j = 0; j < x.m && x.rank > 0; ++j) row[j] += e[x.begin + i * x.m + j];
            for (std::size_t c = 0; c < x.rank; ++c) {
              float sum = 0;
              for (std::size_t j = 0; j < x.m; ++j) sum += row[j] * q[x.q + j * x.rank + c];
              p[x.p + i * x.rank + c] = sum;
            }
          }
      },
      work, vector * 3));
  right_ = rank_.prepare(Kernel::custom(  // M, P, Q
      "Q = M^T P", {Role::read, Role::update, Role::write},
      [parts = parts_](std::span<const View> v) {
        const auto g = floats(v[0]), p = floats(v[1]), q = floats(v[2]);
        std::fill(q.begin(), q.end(), 0.0F);
        for (const Part& x : *parts) {
          if (x.rank == 0) continue;
          orthonormalise(p.subspan(x.p, x.n * x.rank), x.n, x.rank);
          for (std::size_t i = 0; i < x.n; ++i)
            for (std::size_t j = 0; j < x.m; ++j)
              for (std::size_t c = 0; c < x.rank; ++c)
                q[x.q + j * x.rank + c] += g[x.begin + i * x.m + j] * p[x.p + i * x.rank + c];
        }
      },
      work, vector));
  product_ = rank_.prepare(Kernel::custom(  // M, P, Q, e
      "g = P Q^T", {Role::update, Role::read, Role::read, Role::write},
      [parts = parts_](std::span<const View> v) {
        const auto g = floats(v[0]), p = floats(v[1]), q = floats(v[2]), e = floats(v[3]);
        for (const Part& x : *parts)
          for (std::size_t k = 0; k < x.n * x.m; ++k) {
            float sum = x.rank == 0 ? p[x.p + k] : 0;
            for (std::size_t c = 0; c < x.rank; ++c)
              sum += p[x.p + k / x.m * x.rank + c] * q[x.q + k % x.m * x.rank + c];
            e[x.begin + k] = x.rank == 0 ? 0 : g[x.begin + k] - sum;
            g[x.begin + k] = sum;
          }
      },
      work, vector * 3));
}

void PowerSgd::synchronise(const Tensor& gradient, std::int64_t) {
  const auto mean = [&](const Tensor& factor) {
    communication_.after(compute().record());
    compute().after(communication_.all_reduce(factor, Reduce::mean, data_));
  };
  compute().launch(left_, {gradient, error_, q_, p_});
  mean(p_);
  compute().launch(right_, {gradient, p_, q_});
  mean(q_);
  compute().launch(product_, {gradient, p_, q_, error_});
}

std::optional<Bytes> PowerSgd::sent(std::int64_t steps) const {
  return (wire_bytes(Collective::all_reduce, p_.bytes(), data_.size()) +
          wire_bytes(Collective::all_reduce, q_.bytes(), data_.size())) *
         steps;
}

void PowerSgd::visit(Archive& archive) {
  CompressedGradients::visit(archive);
  const Archive::Scope scope(archive, "powersgd");
  archive.field("error", error_);
  archive.field("right", q_);
}

}  // namespace orrery

// Differences from the paper: matrices are those of the model's layers as they are stored; one that
// would not shrink is sent as it is; momentum is the optimizer's, after the compression.
