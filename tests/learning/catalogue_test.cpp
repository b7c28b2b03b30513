// What averaging, delaying, compressing and gossiping cost on one regression: eight workers, a
// small network, AdamW or SGD with momentum, 3000 steps. Each loss stands beside the one published,
// of a teacher that is not: ours was found as teacher_regression.hpp says.
//
// Published are means of three seeds, or of how many is not told. By ours, one seed's loss may be
// half the mean or twice as high, and thrice where workers meet seldom or with SGD: there a mean of
// three has a standard error of 15 to 30 %. Ours are of three seeds, and of eight where those three
// would not tell.
//
// Most of a last loss is the noise of labels, which would hide much of what differs: what was not
// learned is about .0008 of DDP's .0058. Where that can tell, it is compared beside the loss.
#include "tests/learning/teacher_regression.hpp"
#include "tests/support/near.hpp"

namespace orrery {
namespace {

const std::string adamw = "optimizer: {name: adamw, lr: 1e-2, weight_decay: 0, cosine: 3000}";
const std::string momentum = "optimizer: {name: momentum, lr: 1e-2, weight_decay: 0, cosine: 3000}";
constexpr int many = 8;             // seeds
constexpr double published = 0.15;  // of a loss, and for its noise
constexpr std::int64_t early = 300;

double loss_of(const Regression& r, int seeds = 3) {
  double sum = 0;
  for (int seed = 1; seed <= seeds; ++seed) {
    const double loss = excess_loss(r, static_cast<std::uint64_t>(seed));
    MESSAGE(r.algorithm << ", seed " << seed << ": " << loss);
    sum += loss;
  }
  return noise_loss + sum / seeds;
}
Regression with(const std::string& optimizer, const std::string& head) {
  return {.algorithm = "{name: " + head + ", " + optimizer + "}"};
}
double loss_of(const std::string& head) { return loss_of(with(adamw, head)); }
double loss_of_whole_batches(const std::string& optimizer, const std::string& head, int seeds) {
  Regression r = with(optimizer, head);
  r.micro_batches = 1;
  return loss_of(r, seeds);
}
double loss_with_momentum(const std::string& head, int seeds = 3) {
  return loss_of_whole_batches(momentum, head, seeds);
}
// The workers' learning rate and the outer rate and momentum are not told. One choice of the three
// was found by search for the losses of averaging, DiLoCo and streaming DiLoCo at once; all else is
// as published, and AdamW with a cosine as above.
const std::string outer = ", outer_lr: 0.3, outer_momentum: 0.88";
double loss_of_workers(const std::string& head) {
  return loss_of_whole_batches(
      "inner: {optimizer: {name: adamw, lr: 9e-3, weight_decay: 0, cosine: 3000}}", head, many);
}
double loss_of_unlike(const std::string& head) {
  Regression r = with(adamw, head);
  r.unlike = 0.75;
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

// With offsets up to .75. Measured: .00568 and .00623; of twelve seeds .00566 and .00587.
TEST_CASE("on workers with unlike inputs DDP and ACCO end as low as published") {
  CHECK(loss_of_unlike("ddp") == near(0.00546, published));
  CHECK(loss_of_unlike("acco") == near(0.00569, published));
}

// Measured: .00629 and .00830; of twelve seeds .00592 and .00720. By offsets up to .5 delayed
// updates would lose too little (.0062 of sixteen seeds), by those up to 1 too much (.0087).
TEST_CASE("on workers with unlike inputs weight prediction and delayed updates end as published") {
  const double predicting = loss_of_unlike("weight-prediction"), delayed = loss_of_unlike("dpu");
  CHECK(predicting == near(0.00551, published));
  CHECK(delayed == near(0.00742, published));
  CHECK(unlearned(delayed) > 1.2 * unlearned(predicting));
}

// Measured: .0126, .0084 and .0342; of forty seeds .0117, .0079 and .0281. With AdamW's 1e-2 and
// the papers' outer rates, .7 and .4, and momentum, .9, they would be .0113, .0083 and .0440 of 24
// seeds, and streaming DiLoCo's .0087.
TEST_CASE("averaging and DiLoCo end as published, far lower where workers meet often") {
  const double averaging = loss_of_workers("local-sgd, inner_steps: 10");
  const double often = loss_of_workers("diloco, inner_steps: 10" + outer);
  const double seldom = loss_of_workers("diloco, inner_steps: 50" + outer);
  CHECK(averaging == near(0.0129, published));
  CHECK(often == near(0.0074, published));
  CHECK(seldom == near(0.0338, published));
  CHECK(often < averaging);
  CHECK(often < 0.3 * seldom);
}

// Measured: .0097 and .0105; of forty seeds .0097 without the four bits. Published are four
// fragments; here each of the two layers is one.
TEST_CASE("streaming DiLoCo ends as published, and four bits cost it little") {
  const std::string fragments =
      "streaming-diloco, fragment_layers: 1, inner_steps: 20, overlap: 2" + outer;
  const double streaming = loss_of_workers(fragments + ", codec: {name: fp32}");
  const double four_bits = loss_of_workers(fragments + ", codec: {name: fp4}");
  CHECK(streaming == near(0.0111, published));
  CHECK(four_bits == near(0.0114, published));
  CHECK(four_bits == near(streaming, 0.15));
}

// Of a rate not told, the usual 1e-2. Measured: .0141, .0152 and .0137; of eight seeds .0165, .0177
// and .0170; without compression .0149, .0174 of eight and .0163 of forty.
TEST_CASE("with SGD compressed gradients and pushing end as published, as all-reduced ones do") {
  const double plain = loss_with_momentum("ddp"), levels = loss_with_momentum("qsgd, levels: 15"),
               factors = loss_with_momentum("powersgd, rank: 2"),
               pushing = loss_with_momentum("sgp");
  CHECK(levels == near(0.0157, published));
  CHECK(factors == near(0.0167, published));
  CHECK(pushing == near(0.0159, published));
  CHECK(unlearned(levels) == near(unlearned(plain), 0.2));
  CHECK(unlearned(factors) == near(unlearned(plain), 0.1));
  CHECK(unlearned(pushing) == near(unlearned(plain), 0.2));
}

// Measured: .0174 and .0176; of three seeds .0144 and .0152.
TEST_CASE("with SGD gossip ends as published, and accelerated where it does plain") {
  const double pairs = loss_with_momentum("ad-psgd", many),
               accelerated = loss_with_momentum("a2cid2", many);
  CHECK(pairs == near(0.0186, published));
  CHECK(accelerated == near(0.0186, published));
  CHECK(accelerated == near(pairs, 0.05));
}

}  // namespace orrery
