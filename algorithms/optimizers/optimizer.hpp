// Optimizers: update rules over flat ranges of parameters, with their state.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "algorithms/unit.hpp"
#include "backend/checkpoint.hpp"
#include "backend/rank.hpp"

namespace orrery {

struct OptimizerOptions {
  std::string name = "adamw";  // sgd | momentum | adamw
  double lr = 1e-3, momentum = 0.9, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0.01;
  bool nesterov = false;
  // The rate of update t, counted from 1: lr t / warmup up to `warmup`; then lr, or, when `cosine`
  // is not 0, lr (1 + cos(pi (t - warmup) / (cosine - warmup))) / 2 up to `cosine`, and 0.
  std::int64_t warmup = 0, cosine = 0;
  Dtype moments = Dtype::fp32;  // as they are stored; they are computed with in fp32
};

// The rate of update t as a multiple of lr.
double schedule_multiplier(const OptimizerOptions& options, std::int64_t t);

// State for `elements` consecutive parameters: moments, and an fp32 master copy where the
// parameters are narrower.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Once per step, before `update`: counts the step.
  void begin_step(Stream& stream);
  // Updates `value`, whose state is elements [begin, begin + size), with `gradient` times
  // `scale` (a Values::always scalar; empty: 1).
  virtual void update(Stream& stream, const Tensor& value, const Tensor& gradient,
                      std::int64_t begin, const UpdateRule& rule, const Tensor& scale) = 0;
  // The learning rate of the step that was begun last.
  double rate() const { return options_.lr * schedule_multiplier(options_, steps_); }
  // The fp32 copy that is stepped in place of narrower parameters, or empty.
  const Tensor& master() const { return master_; }
  // One of its moments: "first_moment", "second_moment", "momentum". Empty where it has none of
  // this name.
  Tensor state_of(std::string_view name) const;
  // Takes initial values, whose state begins at `begin`, into the master copy; call after they are
  // written.
  void take_master(Stream& stream, const Tensor& values, std::int64_t begin);
  void visit(Archive& archive);

 protected:
  Optimizer(const OptimizerOptions& options, Rank& rank, Stream& home, std::int64_t elements,
            Dtype dtype);
  Tensor state(const char* name);  // zeros, `elements` of them, of the moments' type
  // Such that a rate times a factor shrinks a weight as the rate alone would.
  double decay_over(const UpdateRule& rule, double factor) const {
    return rule.decay ? options_.weight_decay / factor : 0;
  }
  Tensor part(const Tensor& whole, std::int64_t begin,
              std::int64_t size) const;  // empty for an empty tensor
  OptimizerOptions options_;
  Rank& rank_;
  Stream& home_;
  std::int64_t elements_, steps_ = 0;
  Dtype dtype_;
  Tensor step_;    // {t, learning-rate multiplier}
  Tensor master_;  // fp32, or empty
  std::vector<std::pair<std::string, Tensor>> states_;
};

// Error{config} for an unknown name.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, Rank& rank, Stream& home,
                                          std::int64_t elements, Dtype dtype);
std::unique_ptr<Optimizer> make_sgd(const OptimizerOptions& options, Rank& rank, Stream& home,
                                    std::int64_t elements, Dtype dtype);
std::unique_ptr<Optimizer> make_adamw(const OptimizerOptions& options, Rank& rank, Stream& home,
                                      std::int64_t elements, Dtype dtype);

}  // namespace orrery
