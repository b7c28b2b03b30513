// AD-PSGD: asynchronous gossip. See ad_psgd.cpp.
#pragma once

#include "algorithms/gossip/gossip.hpp"

namespace orrery {

struct AdPsgdOptions : GossipOptions {};
void describe(Fields<AdPsgdOptions>& f);

class AdPsgd : public Gossip {
 public:
  AdPsgd(Replica& replica, const AdPsgdOptions& options, const Graph&) : Gossip(replica, options) {}

  static double rate(const AdPsgdOptions& options, const Graph&) { return options.rate; }

 private:
  void move_to_now(Stream&) override {}
  void approach(Stream& stream, const Tensor& difference) override;
};

}  // namespace orrery
