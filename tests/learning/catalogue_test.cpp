// What averaging, delaying, compressing and gossiping cost on one regression: eight workers, a
// small network, AdamW or SGD with momentum. Losses depend on the teacher, so what is held here is
// how they stand to each other, with the same budget and within one family of optimizers.
#include "tests/learning/teacher_regression.hpp"

namespace orrery {
namespace {

const std::string adamw = "optimizer: {name: adamw, lr: 1e-2, cosine: 3000}";

// The mean over seeds.
double loss_of(const std::string& algorithm, std::int64_t stop_after = -1, double unlike = 0) {
  double sum = 0;
  for (const std::uint64_t seed : {1, 2}) {
    Regression r;
    r.algorithm = algorithm;
    r.unlike = unlike;
    r.stop_after = stop_after;
    sum += test_loss(r, seed);
  }
  MESSAGE(algorithm << " " << stop_after << " " << unlike << ": " << sum / 2);
  return sum / 2;
}

}  // namespace

TEST_CASE("probe") {
  for (const std::string name : {"ddp", "acco", "weight-prediction", "dpu", "onebit-adam"}) {
    const std::string yaml =
        "{name: " + name + (name == "onebit-adam" ? ", freeze_step: 600" : "") + ", " + adamw + "}";
    for (const double unlike : {0.0, 0.5}) {
      loss_of(yaml, 300, unlike);
      loss_of(yaml, -1, unlike);
    }
  }
  const std::string momentum = "optimizer: {name: momentum, lr: 0.05, cosine: 3000}";
  for (const std::string& head :
       {"local-sgd, inner_steps: 10, inner: {" + adamw + "}",
        "diloco, inner_steps: 10, inner: {" + adamw + "}",
        "diloco, inner_steps: 50, inner: {" + adamw + "}",
        "streaming-diloco, fragment_layers: 1, inner_steps: 20, overlap: 2, codec: {name: fp32}, "
        "inner: {" +
            adamw + "}",
        "streaming-diloco, fragment_layers: 1, inner_steps: 20, overlap: 2, inner: {" + adamw + "}",
        "streaming-diloco, fragment_layers: 1, inner_steps: 20, eager: true, inner: {" + adamw +
            "}",
        "ddp, " + momentum, "qsgd, levels: 15, " + momentum, "qsgd, levels: 127, " + momentum,
        "powersgd, rank: 2, " + momentum, "sgp, " + momentum, "ad-psgd, " + momentum,
        "a2cid2, " + momentum})
    loss_of("{name: " + head + "}");
}

}  // namespace orrery
