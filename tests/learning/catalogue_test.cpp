// What averaging, delaying, compressing and gossiping cost on one regression: eight workers, a
// small network, AdamW or SGD with momentum, 3000 steps. How low a loss is depends on the teacher,
// so what is held here is how losses stand to each other, within one family of optimizers.
#include "tests/learning/teacher_regression.hpp"

namespace orrery {
namespace {

const std::string adamw = "optimizer: {name: adamw, lr: 1e-2, cosine: 3000}";
const std::string momentum = "optimizer: {name: momentum, lr: 0.05, cosine: 3000}";

double loss_of(const std::string& head, const std::string& optimizer, double unlike = 0,
               std::int64_t stop_after = -1) {
  Regression r;
  r.algorithm = "{name: " + head + ", " + optimizer + "}";
  r.unlike = unlike;
  r.stop_after = stop_after;
  const double loss = test_loss(r);
  MESSAGE(r.algorithm << ": " << loss);
  return loss;
}
double loss_of_workers(const std::string& head) { return loss_of(head, "inner: {" + adamw + "}"); }

}  // namespace

TEST_CASE("ACCO, weight prediction and 1-bit Adam end as low as DDP with AdamW") {
  const double ddp = loss_of("ddp", adamw);
  for (const std::string head : {"acco", "weight-prediction", "onebit-adam, freeze_step: 600"})
    CHECK(loss_of(head, adamw) == doctest::Approx(ddp).epsilon(0.15));
}

TEST_CASE("delayed updates are behind DDP early on, and never ahead of it; ACCO is not behind") {
  constexpr std::int64_t early = 300;
  const double ddp = loss_of("ddp", adamw, 0, early);
  CHECK(loss_of("dpu", adamw, 0, early) > 1.08 * ddp);
  CHECK(loss_of("acco", adamw, 0, early) == doctest::Approx(ddp).epsilon(0.15));
  CHECK(loss_of("dpu", adamw) > loss_of("ddp", adamw));
}

TEST_CASE("on workers with unlike inputs ACCO ends as low as DDP, delayed updates do not") {
  constexpr double unlike = 0.5;
  const double ddp = loss_of("ddp", adamw, unlike);
  CHECK(loss_of("acco", adamw, unlike) == doctest::Approx(ddp).epsilon(0.15));
  CHECK(loss_of("weight-prediction", adamw, unlike) == doctest::Approx(ddp).epsilon(0.15));
  CHECK(loss_of("dpu", adamw, unlike) > 1.15 * ddp);
}

TEST_CASE(
    "DiLoCo is ahead of averaging, behind where workers meet seldom, and four bits are enough") {
  const double averaging = loss_of_workers("local-sgd, inner_steps: 10");
  const double often = loss_of_workers("diloco, inner_steps: 10");
  const double seldom = loss_of_workers("diloco, inner_steps: 50");
  const std::string fragments = "streaming-diloco, fragment_layers: 1, inner_steps: 20, overlap: 2";
  const double streaming = loss_of_workers(fragments + ", codec: {name: fp32}");
  CHECK(often < streaming);
  CHECK(streaming < seldom);
  CHECK(often < averaging);
  CHECK(averaging < seldom);
  CHECK(loss_of_workers(fragments + ", codec: {name: fp4}") ==
        doctest::Approx(streaming).epsilon(0.15));
}

TEST_CASE("compressed gradients and pushing end as low as all-reduced gradients, with SGD") {
  const double plain = loss_of("ddp", momentum);
  for (const std::string head :
       {"qsgd, levels: 15", "qsgd, levels: 127", "powersgd, rank: 2", "sgp"})
    CHECK(loss_of(head, momentum) == doctest::Approx(plain).epsilon(0.15));
}

TEST_CASE("gossip ends as low as all-reduced gradients, accelerated or not, with SGD") {
  const double plain = loss_of("ddp", momentum), pairs = loss_of("ad-psgd", momentum);
  CHECK(pairs == doctest::Approx(plain).epsilon(0.15));
  CHECK(loss_of("a2cid2", momentum) == doctest::Approx(pairs).epsilon(0.15));
}

}  // namespace orrery
