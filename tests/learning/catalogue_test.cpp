// What averaging, delaying, compressing and gossiping cost on one regression: eight workers, a
// small network, AdamW or SGD with momentum, 3000 steps. Each loss stands beside the one published,
// of a teacher that is not: ours was found as teacher_regression.hpp says. Both are means of three
// seeds, of which one may be up to a half higher or lower than the mean.
//
// Most of a last loss is the noise of labels, which would hide much of what differs: what was not
// learned is about .0008 of DDP's .0058. Where that can tell, it is compared beside the loss.
#include "tests/learning/teacher_regression.hpp"
#include "tests/support/near.hpp"

namespace orrery {
namespace {

const std::string adamw = "optimizer: {name: adamw, lr: 1e-2, weight_decay: 0, cosine: 3000}";
const std::string momentum = "optimizer: {name: momentum, lr: 1e-2, weight_decay: 0, cosine: 3000}";
constexpr std::uint64_t seeds = 3;
constexpr double published = 0.15;  // of a loss, and for its noise
constexpr std::int64_t early = 300;

double loss_of(Regression r) {
  double sum = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    const double loss = excess_loss(r, seed);
    MESSAGE(r.algorithm << ", seed " << seed << ": " << loss);
    sum += loss;
  }
  return noise_loss + sum / seeds;
}
Regression with(const std::string& optimizer, const std::string& head) {
  return {.algorithm = "{name: " + head + ", " + optimizer + "}"};
}
double loss_of(const std::string& head) { return loss_of(with(adamw, head)); }
double loss_with_momentum(const std::string& head) { return loss_of(with(momentum, head)); }
double loss_of_workers(const std::string& head) {
  return loss_of(with("inner: {" + adamw + "}", head));
}
double loss_of_unlike(const std::string& head) {
  Regression r = with(adamw, head);
  r.unlike = 0.5;
  return loss_of(r);
}
double early_loss(const std::string& head, double last_slower = 1) {
  Regression r = with(adamw, head);
  r.stop_after = early;
  r.last_slower = last_slower;
  return loss_of(r);
}
double unlearned(double loss) { return loss - noise_loss; }

}  // namespace

// Measured: .00578, .00586 and .00588.
TEST_CASE("with AdamW DDP, ACCO and weight prediction end as low as published") {
  const double ddp = loss_of("ddp"), acco = loss_of("acco"),
               predicting = loss_of("weight-prediction");
  CHECK(ddp == near(0.00578, published));
  CHECK(acco == near(0.00606, published));
  CHECK(predicting == near(0.00580, published));
  CHECK(unlearned(acco) == near(unlearned(ddp), 0.4));
  CHECK(unlearned(predicting) == near(unlearned(ddp), 0.4));
}

// Measured: .00589 and .00594.
TEST_CASE("with AdamW 1-bit Adam and delayed updates end as low as published") {
  CHECK(loss_of("onebit-adam, freeze_step: 600") == near(0.00578, published));
  CHECK(loss_of("dpu") == near(0.00635, published));
}

// How high an early loss is depends on how large the labels of a seed's teacher are: DDP's is .197
// here and .154 as mean of 16 seeds, where .1167 is published. How early losses stand to each other
// does not: published are .98 of DDP's for ACCO, .99 for weight prediction, 1.14 for delayed
// updates, and for ACCO where seven of eight workers are four times as fast .30 of ACCO's.
TEST_CASE(
    "after a tenth of the steps delayed updates are behind DDP, ACCO and weight prediction are "
    "not, and ACCO with fast workers is far ahead") {
  const double ddp = early_loss("ddp"), acco = early_loss("acco");
  CHECK(acco == near(ddp, 0.03));
  CHECK(early_loss("weight-prediction") == near(ddp, 0.1));
  CHECK(early_loss("dpu") > 1.08 * ddp);
  CHECK(early_loss("acco", 4) < 0.5 * acco);
}

// With offsets up to a half; with 1, delayed updates end 36 % higher than published. Measured:
// .00639, which is 17 % more than published by one seed of three, and .00577.
TEST_CASE("on workers with unlike inputs DDP and ACCO end as low as published") {
  CHECK(loss_of_unlike("ddp") == near(0.00546, 0.2));
  CHECK(loss_of_unlike("acco") == near(0.00569, published));
}

// Measured: .00612 and .00694.
TEST_CASE("on workers with unlike inputs weight prediction and delayed updates end as published") {
  const double predicting = loss_of_unlike("weight-prediction"), delayed = loss_of_unlike("dpu");
  CHECK(predicting == near(0.00551, published));
  CHECK(delayed == near(0.00742, published));
  CHECK(unlearned(delayed) > 1.2 * unlearned(predicting));
}

// Measured .0101, .0100 and .0678; published .0129, .0074 and .0338, of optimizers and rates that
// are not told.
TEST_CASE("averaging and DiLoCo end far lower where workers meet often than where seldom") {
  const double averaging = loss_of_workers("local-sgd, inner_steps: 10");
  const double often = loss_of_workers("diloco, inner_steps: 10");
  const double seldom = loss_of_workers("diloco, inner_steps: 50");
  CHECK(averaging > loss_of("ddp"));
  CHECK(averaging < 0.4 * seldom);
  CHECK(often < 0.3 * seldom);
}

// Measured .0082 and .0088; published .0111 and .0114, of four fragments.
TEST_CASE("four bits cost streaming DiLoCo little") {
  const std::string fragments = "streaming-diloco, fragment_layers: 1, inner_steps: 20, overlap: 2";
  const double streaming = loss_of_workers(fragments + ", codec: {name: fp32}");
  CHECK(loss_of_workers(fragments + ", codec: {name: fp4}") == near(streaming, 0.15));
}

// Measured: .0140, .0152 and .0136 where .0157, .0167 and .0159 are published, of a rate not told;
// and .0149 without compression.
TEST_CASE("with SGD compressed gradients and pushing end as published, as all-reduced ones do") {
  const double plain = loss_with_momentum("ddp"), levels = loss_with_momentum("qsgd, levels: 15"),
               factors = loss_with_momentum("powersgd, rank: 2"),
               pushing = loss_with_momentum("sgp");
  CHECK(levels == near(0.0157, 0.2));
  CHECK(factors == near(0.0167, 0.2));
  CHECK(pushing == near(0.0159, 0.2));
  CHECK(unlearned(levels) == near(unlearned(plain), 0.2));
  CHECK(unlearned(factors) == near(unlearned(plain), 0.1));
  CHECK(unlearned(pushing) == near(unlearned(plain), 0.2));
}

// Measured .0154 and .0150 where .0186 is published of both.
TEST_CASE("with SGD gossip ends near what is published, and accelerated where it does plain") {
  const double pairs = loss_with_momentum("ad-psgd");
  CHECK(pairs == near(0.0186, 0.2));
  CHECK(loss_with_momentum("a2cid2") == near(pairs, 0.05));
}

}  // namespace orrery
