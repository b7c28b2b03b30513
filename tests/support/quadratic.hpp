// A model whose training can be done by hand: on rank i, loss(x) = 1/2 sum_j a_ij (x_j - b_ij)^2.
#pragma once

#include <memory>
#include <vector>

#include "algorithms/codecs/view.hpp"
#include "algorithms/models/block.hpp"
#include "tests/support/algorithm_run.hpp"

namespace orrery {

struct Quadratic {
  using ByRank = std::function<float(int rank, std::size_t element)>;
  std::size_t elements = 1;
  ByRank curvature = [](int, std::size_t) { return 1.0F; };  // a
  ByRank target = [](int, std::size_t) { return 0.0F; };     // b
  double start = 1;                                          // every x_j
  std::vector<double> seconds{1e-4};  // of a micro-batch, by rank; the last for all others
  std::int64_t columns = 0;           // of the elements of a block, as a matrix
  int blocks = 1;                     // over which the elements divide evenly
};

class QuadraticBlock : public Block {
 public:
  QuadraticBlock(Quadratic q, int block, int micro_batches)
      : q_(std::move(q)),
        first_(q_.elements / static_cast<std::size_t>(q_.blocks) * static_cast<std::size_t>(block)),
        scale_(1.0F / static_cast<float>(micro_batches)),
        last_(block + 1 == q_.blocks) {
    const auto n = static_cast<std::int64_t>(q_.elements) / q_.blocks;
    parameters_ = {{"x", n, 0, q_.start, false, q_.columns}};
    output_elements_ = last_ ? 0 : 1;
    computes_loss_ = true;
  }
  void prepare(Rank& rank) override {
    const int id = rank.id();
    const double seconds =
        q_.seconds[std::min(static_cast<std::size_t>(id), q_.seconds.size() - 1)] / q_.blocks;
    forward_ = rank.prepare(Kernel::custom(
        "loss", {Role::read, Role::update},
        [q = q_, first = first_, scale = scale_, id](std::span<const View> v) {
          double sum = 0;
          const auto x = floats(v[0]);
          for (std::size_t j = 0; j < x.size(); ++j) {
            const double d = x[j] - q.target(id, first + j);
            sum += 0.5 * q.curvature(id, first + j) * d * d;
          }
          floats(v[1])[0] += scale * static_cast<float>(sum);
        },
        Flops(0), Bytes(0), Seconds(seconds / 2)));
    backward_ = rank.prepare(Kernel::custom(
        "gradient", {Role::read, Role::update},
        [q = q_, first = first_, scale = scale_, id](std::span<const View> v) {
          const auto x = floats(v[0]), g = floats(v[1]);
          for (std::size_t j = 0; j < x.size(); ++j)
            g[j] += scale * (q.curvature(id, first + j) * (x[j] - q.target(id, first + j)));
        },
        Flops(0), Bytes(0), Seconds(seconds / 2)));
  }
  void forward(const BlockPass& p) const override {
    p.stream.launch(forward_, {p.parameters, p.loss});
  }
  void backward(const BlockPass& p) const override {
    p.stream.launch(backward_, {p.parameters, p.gradients});
  }

 private:
  Quadratic q_;
  std::size_t first_;
  float scale_;
  bool last_;
  Prepared forward_, backward_;
};

inline std::function<Model(Rank&, int)> quadratic(const Quadratic& q) {
  return [q](Rank&, int micro_batches) {
    Model model;
    model.name = "quadratic";
    model.text = test_text();
    for (int b = 0; b < q.blocks; ++b)
      model.blocks.push_back(std::make_shared<QuadraticBlock>(q, b, micro_batches));
    return model;
  };
}

}  // namespace orrery
