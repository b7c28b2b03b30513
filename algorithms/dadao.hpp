// DADAO: decoupled accelerated decentralized asynchronous optimization. See dadao.cpp.
#pragma once

#include "algorithms/gossip/gossip.hpp"

namespace orrery {

struct DadaoOptions : GossipOptions {
  DadaoOptions() { pairing = Pairing::poisson; }
  double mu = 0, smoothness = 0;  // of every worker's loss: mu and L
};
void describe(Fields<DadaoOptions>& f);

class Dadao : public Gossip {
 public:
  static constexpr bool owns_optimizer = true;  // it is one

  Dadao(Replica& replica, const DadaoOptions& options, const Graph& graph);
  // Messages of a worker per gradient.
  static double rate(const DadaoOptions& options, const Graph& graph);

 private:
  void move_to_now(Stream& stream) override;
  void pack(Stream& stream, const Tensor& message) override;
  void approach(Stream& stream, const Tensor& difference) override;
  void take_step(Stream& stream) override;
  void visit_companion(Archive& archive) override;

  // In the paper's letters; a tilde is a t.
  double nu_, q_, chi1_;
  double eta() const { return q_ / 8; }
  double alpha() const { return q_ / 4; }
  double alpha_t() const { return q_ / 8; }
  double theta() const { return 1 / (2 * q_); }
  double beta() const { return 0.5; }
  double beta_t() const { return 2 * chi1_ / q_; }

  Tensor others_;  // x~, y, y~, z, z~, one behind the other
  Tensor flow_;    // of the six vectors over the time since the last event: a matrix
  Prepared mix_, message_, step_;
};

}  // namespace orrery
