// AdamW, Loshchilov and Hutter 2019 (arXiv 1711.05101), algorithm 2, in the form of
// torch.optim.AdamW:
//   p <- p - lr weight_decay p;   m <- beta1 m + (1 - beta1) g;   v <- beta2 v + (1 - beta2) g^2
//   p <- p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + epsilon)
// with g scaled first, and p the fp32 master where the parameters are narrower.
#include "algorithms/optimizers/optimizer.hpp"

namespace orrery {

namespace {

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerOptions& options, Rank& rank, Stream& home, std::int64_t elements,
        Dtype dtype)
      : Optimizer(options, rank, home, elements, dtype),
        first_(state("first_moment")),
        second_(state("second_moment")) {}
  void update(Stream& stream, const Tensor& value, const Tensor& gradient, std::int64_t begin,
              const UpdateRule& rule, const Tensor& scale) override {
    const std::int64_t n = value.elements();
    const double factor = rule.rates.adaptive;
    const Kernel kernel =
        Kernel::adamw(n, options_.lr * factor, options_.beta1, options_.beta2, options_.epsilon,
                      decay_over(rule, factor), dtype_, gradient.dtype(), options_.moments);
    stream.launch(rank_.prepare(kernel),
                  {value, gradient, part(first_, begin, n), part(second_, begin, n),
                   part(master_, begin, n), scale, step_});
  }

 private:
  Tensor first_, second_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(const OptimizerOptions& options, Rank& rank, Stream& home,
                                      std::int64_t elements, Dtype dtype) {
  return std::make_unique<AdamW>(options, rank, home, elements, dtype);
}

}  // namespace orrery
