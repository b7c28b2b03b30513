// A2CiD2: asynchronous, accelerated gossip. See a2cid2.cpp.
#pragma once

#include "algorithms/gossip/gossip.hpp"

namespace orrery {

struct A2cid2Options : GossipOptions {
  bool as_coded = false;
  std::optional<double> eta, alpha_tilde;  // absent: by the graph
};
void describe(Fields<A2cid2Options>& f);

class A2cid2 : public Gossip {
 public:
  A2cid2(Replica& replica, const A2cid2Options& options, const Graph& graph);
  double eta() const { return eta_; }
  double alpha_tilde() const { return alpha_tilde_; }

  static double rate(const A2cid2Options& options, const Graph&) { return options.rate; }

 private:
  void move_to_now(Stream& stream) override;
  bool sends_moved() const override { return !as_coded_; }
  void approach(Stream& stream, const Tensor& difference) override;
  void visit_companion(Archive& archive) override;

  bool as_coded_;
  double eta_, alpha_tilde_;
  Tensor y_;  // x~ - x
  Tensor share_, decay_;
};

}  // namespace orrery
