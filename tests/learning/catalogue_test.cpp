// What averaging, delaying, compressing and gossiping cost on one regression: eight workers, a
// small network, AdamW or SGD with momentum, 3000 steps. How low a loss is depends on the teacher,
// so what is held here is how losses stand to each other, within one family of optimizers.
//
// Losses are excesses over the noise of labels, which would hide most of what differs, and means of
// three seeds: of one seed they are up to a half higher or lower. Bands are about three standard
// errors of such a mean, by the spread of ratios within a seed.
#include "tests/learning/teacher_regression.hpp"
#include "tests/support/near.hpp"

namespace orrery {
namespace {

const std::string adamw = "optimizer: {name: adamw, lr: 1e-2, cosine: 3000}";
const std::string momentum = "optimizer: {name: momentum, lr: 0.05, cosine: 3000}";
constexpr std::uint64_t seeds = 3;

double loss_of(const std::string& head, const std::string& optimizer, double unlike = 0,
               std::int64_t stop_after = -1) {
  Regression r;
  r.algorithm = "{name: " + head + ", " + optimizer + "}";
  r.unlike = unlike;
  r.stop_after = stop_after;
  double sum = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    const double loss = excess_loss(r, seed);
    MESSAGE(r.algorithm << ", seed " << seed << ": " << loss);
    sum += loss;
  }
  return sum / seeds;
}
double loss_of_workers(const std::string& head) { return loss_of(head, "inner: {" + adamw + "}"); }

}  // namespace

// Weight prediction is 3 to 7 % behind, in every seed; 1-bit Adam from 2 % ahead to 20 % behind.
TEST_CASE(
    "with AdamW ACCO ends as low as DDP, weight prediction within 10 % and 1-bit Adam within 30, "
    "delayed updates higher") {
  const double ddp = loss_of("ddp", adamw);
  CHECK(loss_of("acco", adamw) == near(ddp, 0.05));
  CHECK(loss_of("weight-prediction", adamw) == near(ddp, 0.1));
  CHECK(loss_of("onebit-adam, freeze_step: 600", adamw) == near(ddp, 0.3));
  CHECK(loss_of("dpu", adamw) > 1.2 * ddp);
}

TEST_CASE("after a tenth of the steps delayed updates are far behind DDP, and ACCO is not behind") {
  constexpr std::int64_t early = 300;
  const double ddp = loss_of("ddp", adamw, 0, early);
  CHECK(loss_of("dpu", adamw, 0, early) > 1.3 * ddp);
  CHECK(loss_of("acco", adamw, 0, early) == near(ddp, 0.03));
}

// ACCO is not as low as DDP here: in two seeds of three it is 1.6 and 1.7 times as high, which is
// 7 and 8 % of a loss with the noise of its labels.
TEST_CASE(
    "on workers with unlike inputs ACCO and weight prediction are behind DDP by less than its "
    "loss, and delayed updates far behind both") {
  constexpr double unlike = 0.5;
  const double ddp = loss_of("ddp", adamw, unlike), acco = loss_of("acco", adamw, unlike),
               predicting = loss_of("weight-prediction", adamw, unlike),
               delayed = loss_of("dpu", adamw, unlike);
  CHECK(acco < 2 * ddp);
  CHECK(predicting < 2 * ddp);
  CHECK(acco < 0.75 * delayed);
  CHECK(predicting < 0.75 * delayed);
  CHECK(delayed > 1.5 * ddp);
}

// Four bits are from 15 % ahead to 20 % behind.
TEST_CASE(
    "DiLoCo is ahead of averaging, behind where workers meet seldom, and four bits cost little") {
  const double averaging = loss_of_workers("local-sgd, inner_steps: 10");
  const double often = loss_of_workers("diloco, inner_steps: 10");
  const double seldom = loss_of_workers("diloco, inner_steps: 50");
  const std::string fragments = "streaming-diloco, fragment_layers: 1, inner_steps: 20, overlap: 2";
  const double streaming = loss_of_workers(fragments + ", codec: {name: fp32}");
  CHECK(often < 0.75 * streaming);
  CHECK(streaming < seldom);
  CHECK(often < 0.6 * averaging);
  CHECK(averaging < seldom);
  CHECK(loss_of_workers(fragments + ", codec: {name: fp4}") == near(streaming, 0.3));
}

// Fifteen levels are 2 to 10 % behind, pushing from 5 % ahead to 4 % behind.
TEST_CASE("with SGD compressed gradients and pushing end as low as all-reduced gradients") {
  const double plain = loss_of("ddp", momentum);
  CHECK(loss_of("qsgd, levels: 15", momentum) == near(plain, 0.15));
  CHECK(loss_of("powersgd, rank: 2", momentum) == near(plain, 0.03));
  CHECK(loss_of("sgp", momentum) == near(plain, 0.1));
}

// In one seed gossip is 24 % ahead of all-reduced gradients, in one 15 % behind.
TEST_CASE("with SGD gossip ends near all-reduced gradients, and accelerated where it does plain") {
  const double plain = loss_of("ddp", momentum), pairs = loss_of("ad-psgd", momentum);
  CHECK(pairs == near(plain, 0.3));
  CHECK(loss_of("a2cid2", momentum) == near(pairs, 0.05));
}

}  // namespace orrery
