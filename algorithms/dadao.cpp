// DADAO: decoupled accelerated decentralized asynchronous optimization.
//
// Nabli and Oyallon, "DADAO: Decoupled Accelerated Decentralized Asynchronous Optimization", ICML
// 2023 (arXiv 2208.00779), for losses f_i that are mu-strongly convex and L-smooth. Per unit of
// time a worker computes about one gradient and all of them together send lambda = sqrt(2 chi1
// chi2) messages, chi1 and chi2 being of the Laplacian whose edges have weights 1 / |E|. With
// nu = mu / 2, q = sqrt(nu / L), chi1* = chi1 / lambda:
//
//   dx = eta (x~ - x) dt      dy = alpha (y~ - y) dt                dz = alpha (z~ - z) dt
//   dx~ = eta (x - x~) dt     dy~ = -theta (nu x~ + y + z) dt       dz~ = alpha~ (z - z~) dt
//
//   gradient at i:      h = grad f_i(x) - nu x - y~;   x -= gamma h;   x~ -= gamma~ h;
//                       y~ += (delta + delta~) h
//   message on (i, j):  d = (y_i + z_i) - (y_j + z_j);   z_i, z_j -= +- beta d;
//                       z~_i, z~_j -= +- beta~ d
//
//   eta = q / 8;   alpha = q / 4;   alpha~ = q / 8;   theta = 1 / (2 q);   beta = 1/2;
//   beta~ = 2 chi1* / q;   gamma = 1 / (4 L);   gamma~ = 1 / (4 sqrt(nu L));   delta = q / 4;
//   delta~ = 1
//
// Then ||x_i - x*||^2 falls at least by e^(-q / 8) per unit of time, on any graph.
//
// Cost: that of gossip/gossip.hpp without an optimizer, a message being y + z; in memory 20 P bytes
// more, of x~, y, y~, z and z~.
#include "algorithms/dadao.hpp"

#include <array>
#include <cmath>

#include "algorithms/codecs/view.hpp"

namespace orrery {

namespace {

using Matrix = std::array<std::array<double, 6>, 6>;

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c{};
  for (std::size_t i = 0; i < 6; ++i)
    for (std::size_t k = 0; k < 6; ++k)
      for (std::size_t j = 0; j < 6; ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}

// e^a by its series at a / 2^n, where it is short, squared n times.
Matrix exponential(Matrix a) {
  constexpr int terms = 12;
  double largest = 0;
  for (const auto& row : a)
    for (const double v : row) largest = std::max(largest, std::fabs(v));
  const int halvings = std::max(0, static_cast<int>(std::ceil(std::log2(largest + 1e-300))) + 4);
  for (auto& row : a)
    for (double& v : row) v = std::ldexp(v, -halvings);
  Matrix sum{}, term{};
  for (std::size_t i = 0; i < 6; ++i) sum[i][i] = term[i][i] = 1;
  for (int k = 1; k <= terms; ++k) {
    term = product(term, a);
    for (std::size_t i = 0; i < 6; ++i)
      for (std::size_t j = 0; j < 6; ++j) sum[i][j] += term[i][j] /= k;
  }
  for (int k = 0; k < halvings; ++k) sum = product(sum, sum);
  return sum;
}

// lambda, with chi1 and chi2 as the paper has them: edges of weight 1 / |E|, not n / (2 |E|).
double messages_per_unit(const Graph& graph) {
  const auto& [chi1, chi2] = graph.connectivity();
  return 0.5 * graph.workers() * std::sqrt(2 * chi1 * chi2);
}

Bytes moved_by(std::int64_t elements, int vectors) { return Bytes(4 * vectors * elements); }

}  // namespace

void describe(Fields<DadaoOptions>& f) {
  f.field("mu", &DadaoOptions::mu).required().positive().doc("strong convexity of every loss");
  f.field("smoothness", &DadaoOptions::smoothness)
      .required()
      .positive()
      .doc("L: largest curvature of every loss");
  describe_graph(f);
  f.check([](const DadaoOptions& options, const SectionProblems& p) {
    if (std::ranges::any_of(options.members,
                            [](const Member& m) { return m.joins_after.has_value(); }))
      p.add("members", "not available yet: workers that join, as messages do not tell where x is",
            "use ad-psgd or a2cid2");
  });
}

double Dadao::rate(const DadaoOptions&, const Graph& graph) {
  return graph.workers() == 1 ? 1 : 2 * messages_per_unit(graph) / graph.workers();
}

Dadao::Dadao(Replica& replica, const DadaoOptions& options, const Graph& graph)
    : Gossip(replica,
             [&] {
               GossipOptions all = options;
               all.rate = rate(options, graph);
               return all;
             }()),
      nu_(options.mu / 2),
      q_(std::sqrt(nu_ / options.smoothness)),
      chi1_(graph.workers() == 1
                ? 0
                : 0.5 * graph.workers() * graph.connectivity().chi1 / messages_per_unit(graph)) {
  if (x().dtype() != Dtype::fp32)
    throw Error(Category::config, "not available yet: dadao with parameters of 16 bits");
  const std::int64_t n = x().elements();
  others_ = rank_.allocate(replica.compute(), Label::optimizer, 5 * n, Dtype::fp32,
                           {.name = "dadao.others"});
  replica.compute().launch(rank_.prepare(Kernel::fill(5 * n, 0, Dtype::fp32)), {others_});
  flow_ = rank_.allocate(replica.compute(), Label::workspace, 36, Dtype::fp64,
                         {.values = Values::always, .name = "dadao.flow"});
  mix_ = rank_.prepare(Kernel::custom(  // x, others, flow
      "dadao mix", {Role::update, Role::update, Role::read},
      [](std::span<const View> v) {
        const auto x = floats(v[0]), o = floats(v[1]);
        const auto* e = static_cast<const double*>(v[2].data);
        const std::size_t p = x.size();
        for (std::size_t j = 0; j < p; ++j) {
          const std::array<double, 6> old{x[j],         o[j],         o[p + j],
                                          o[2 * p + j], o[3 * p + j], o[4 * p + j]};
          for (std::size_t i = 0; i < 6; ++i) {
            double sum = 0;
            for (std::size_t k = 0; k < 6; ++k) sum += e[6 * i + k] * old[k];
            (i == 0 ? x[j] : o[(i - 1) * p + j]) = static_cast<float>(sum);
          }
        }
      },
      Flops(72.0 * static_cast<double>(n)), moved_by(n, 12)));
  message_ = rank_.prepare(Kernel::custom(  // others, message
      "dadao message", {Role::read, Role::write},
      [](std::span<const View> v) {
        const auto o = floats(v[0]), message = floats(v[1]);
        const std::size_t p = message.size();
        for (std::size_t j = 0; j < p; ++j) message[j] = o[p + j] + o[3 * p + j];
      },
      Flops(static_cast<double>(n)), moved_by(n, 3)));
  const auto nu = static_cast<float>(nu_);
  const auto gamma = static_cast<float>(1 / (4 * options.smoothness));
  const auto gamma_t = static_cast<float>(1 / (4 * std::sqrt(nu_ * options.smoothness)));
  const auto delta = static_cast<float>(q_ / 4 + 1);
  step_ = rank_.prepare(Kernel::custom(  // x, others, gradient, where it was computed
      "dadao step", {Role::update, Role::update, Role::read, Role::read},
      [nu, gamma, gamma_t, delta](std::span<const View> v) {
        const auto x = floats(v[0]), o = floats(v[1]), g = floats(v[2]), at = floats(v[3]);
        const std::size_t p = x.size();
        for (std::size_t j = 0; j < p; ++j) {
          const float h = g[j] - nu * at[j] - o[2 * p + j];
          x[j] -= gamma * h;
          o[j] -= gamma_t * h;
          o[2 * p + j] += delta * h;
        }
      },
      Flops(9.0 * static_cast<double>(n)), moved_by(n, 8)));
}

void Dadao::move_to_now(Stream& stream) {
  const double t = elapsed();
  if (t <= 0) return;
  Matrix a{};  // over x, x~, y, y~, z, z~
  a[0] = {-eta(), eta(), 0, 0, 0, 0};
  a[1] = {eta(), -eta(), 0, 0, 0, 0};
  a[2] = {0, 0, -alpha(), alpha(), 0, 0};
  a[3] = {0, -theta() * nu_, -theta(), 0, -theta(), 0};
  a[4] = {0, 0, 0, 0, -alpha(), alpha()};
  a[5] = {0, 0, 0, 0, alpha_t(), -alpha_t()};
  for (auto& row : a)
    for (double& v : row) v *= t;
  std::vector<double> flow;
  for (const auto& row : exponential(a)) flow.insert(flow.end(), row.begin(), row.end());
  stream.upload(flow_, flow);
  stream.launch(mix_, {x(), others_, flow_});
}

void Dadao::pack(Stream& stream, const Tensor& message) {
  stream.launch(message_, {others_, message});
}

void Dadao::approach(Stream& stream, const Tensor& difference) {
  const std::int64_t n = x().elements();
  stream.launch(combination(beta(), 1), {difference, others_.slice(3 * n, 4 * n)});
  stream.launch(combination(beta_t(), 1), {difference, others_.slice(4 * n, 5 * n)});
}

void Dadao::take_step(Stream& stream) {
  stream.launch(step_, {x(), others_, replica_.flat().all_gradients(), point()});
  replica_.staleness().apply();
}

void Dadao::visit_companion(Archive& archive) { archive.field("others", others_); }

}  // namespace orrery

// Differences from the paper: gradients take their time: they are computed one after the other at
// where x was when they began, not at the instants of a Poisson process. x begins as the model's
// initial values do, the same on all workers. Weights and messages are fp32 (the authors' code,
// AdelNabli/DADAO, computes in fp64).
