// DeMo: decoupled momentum. See demo.cpp.
#pragma once

#include "algorithms/codecs/dct_tiles.hpp"
#include "algorithms/compressed_gradients.hpp"

namespace orrery {

struct DemoOptions {
  DemoOptions() { optimizer.name = "sgd"; }
  OptimizerSpec optimizer;  // its rate, schedule and decay
  double momentum = 0.999;  // beta
  std::int64_t chunk = 64;  // side of a tile, at most
  std::int64_t kept = 32;   // k, coefficients of a tile
};
void describe(Fields<DemoOptions>& f);

class Demo : public CompressedGradients {
 public:
  Demo(Replica& replica, const DemoOptions& options);
  std::optional<Bytes> sent(std::int64_t steps) const override;
  void visit(Archive& archive) override;

 private:
  void synchronise(const Tensor& gradient, std::int64_t step) override;
  std::shared_ptr<const DctTiles> tiles_;
  Tensor momentum_, rate_;
  Prepared extract_, combine_;
};

}  // namespace orrery
