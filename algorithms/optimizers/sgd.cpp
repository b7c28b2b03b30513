// Stochastic gradient descent, with momentum when it is asked for:
//   g <- scale g + weight_decay p;   m <- momentum m + g
//   p <- p - lr (nesterov ? g + momentum m : m)
// Sutskever et al. 2013 in the form of torch.optim.SGD (dampening 0).
#include "algorithms/optimizers/optimizer.hpp"

namespace orrery {

namespace {

class Sgd : public Optimizer {
 public:
  Sgd(const OptimizerOptions& options, Rank& rank, Stream& home, std::int64_t elements, Dtype dtype)
      : Optimizer(options, rank, home, elements, dtype) {
    if (options.name == "momentum") momentum_ = state("momentum");
  }
  void update(Stream& stream, const Tensor& value, const Tensor& gradient, std::int64_t begin,
              const UpdateRule& rule, const Tensor& scale) override {
    const std::int64_t n = value.elements();
    const double factor = rule.rates.proportional;
    const Kernel kernel =
        Kernel::sgd(n, options_.lr * factor, momentum_ ? options_.momentum : 0, options_.nesterov,
                    decay_over(rule, factor), dtype_, gradient.dtype(), options_.moments);
    stream.launch(rank_.prepare(kernel), {value, gradient, part(momentum_, begin, n),
                                          part(master_, begin, n), scale, step_});
  }

 private:
  Tensor momentum_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& options, Rank& rank, Stream& home,
                                    std::int64_t elements, Dtype dtype) {
  return std::make_unique<Sgd>(options, rank, home, elements, dtype);
}

}  // namespace orrery
