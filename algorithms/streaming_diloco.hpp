// Streaming DiLoCo: fragments of the model meet in turn, while training goes on. See
// streaming_diloco.cpp.
#pragma once

#include <deque>
#include <vector>

#include "algorithms/diloco.hpp"

namespace orrery {

struct StreamingDilocoOptions : DilocoOptions {
  StreamingDilocoOptions() {
    inner_steps = 100;
    outer_lr = 0.4;
    codec.name = "fp4";
  }
  std::int64_t fragment_layers = 3;     // blocks of a fragment; 0: one fragment
  std::string pattern = "strided";      // strided | sequential
  std::optional<std::int64_t> overlap;  // tau, inner steps that a meeting may take; 1, eager: H
  std::optional<double> mixing;         // alpha, of the local parameters; 0.5, eager: 0
  bool eager = false;                   // a worker's own outer gradient does not wait for the mean
  std::int64_t tau() const { return eager ? inner_steps : overlap.value_or(1); }
  double alpha() const { return mixing.value_or(eager ? 0 : 0.5); }
};
void describe(Fields<StreamingDilocoOptions>& f);

// Part p of the model: ranges of the weights, and when it meets.
struct Fragment {
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;  // elements, ascending
  std::int64_t elements = 0;
  std::int64_t offset = 0;  // t_p: it is sent after inner step t when t = t_p mod H, t > 0
};
// Blocks (or groups of them that ranks divide) p, p + P, … of the model (strided) or neighbours
// (sequential), as many as cover it.
std::vector<Fragment> fragments(FlatParameters& flat, const StreamingDilocoOptions& options);

class StreamingDiloco : public Islands {
 public:
  StreamingDiloco(Replica& replica, std::unique_ptr<Algorithm> inner,
                  const StreamingDilocoOptions& options);
  void visit(Archive& archive) override;

 private:
  void inner_step_issued(std::int64_t t) override;
  void visit_common(Archive& archive) override;
  void has_joined() override;
  Bytes sent_in_meetings(std::int64_t steps) const override;
  bool due(const Fragment& p, std::int64_t t) const;
  void send(const Fragment& p);
  void apply(const Fragment& p);
  void meet_eagerly(const Fragment& p);
  Tensor take_outer_gradient(const Fragment& p, const Tensor& slot);
  void wait_for_mean();
  void step(const Fragment& p, const Tensor& gradient);
  Tensor slot(const std::vector<Tensor>& all, std::int64_t number, const Fragment& p) const {
    return all[static_cast<std::size_t>(number) % all.size()].slice(0, p.elements);
  }
  StreamingDilocoOptions options_;
  std::vector<Fragment> fragments_;
  Tensor theta_;  // outer parameters
  std::unique_ptr<Optimizer> outer_;
  std::vector<Tensor> deltas_;           // outer gradients under way, in turn
  std::vector<Tensor> own_;              // eager: this worker's part of each
  std::int64_t sent_ = 0, applied_ = 0;  // fragments, since the start of the training
  std::deque<Event> under_way_;          // their means; shorter after a resume: they are there
};

}  // namespace orrery
