// Recomputation: no bit changes; FLOPs and peaks do, by as much as is run again and not kept.
#include <cmath>

#include "tests/parity/worlds_agree.hpp"

namespace orrery {
namespace {

constexpr int layers = 4, sequence = 6, heads = 2, head_size = 4;

TrainingCase transformer_case() {
  TrainingCase c;
  c.transformer = TransformerShape{.layers = layers,
                                   .hidden = heads * head_size,
                                   .heads = heads,
                                   .kv_heads = heads,
                                   .head_size = head_size,
                                   .ffn = 16,
                                   .vocabulary = 256,
                                   .sequence = sequence,
                                   .micro_batch = 2,
                                   .dtype = Dtype::fp32};
  c.replica.optimizer = {.name = "adamw", .lr = 3e-3};
  c.steps = 3;
  return c;
}

double flops(const Trained& trained) {
  double sum = 0;
  for (const RankReport& rank : trained.report.ranks) sum += rank.matrix_flops.value;
  return sum;
}

std::int64_t activations(const Trained& trained) {
  return trained.report.ranks[0].peak_by_label[static_cast<std::size_t>(Label::activations)].value;
}

// Of one layer and micro-batch, forward.
double layer_flops() {
  const double tokens = 2 * sequence, h = heads * head_size;
  const double attention = 4.0 * tokens * sequence * h;
  return 2 * tokens * (4 * h * h + 3 * h * 16) + attention;
}

double passes(const TrainingCase& c) {
  return static_cast<double>(c.steps * c.replica.micro_batches * c.data);
}

}  // namespace

TEST_CASE("layers that are listed run again, the others do not") {
  TrainingCase c = transformer_case();
  const Trained kept = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  const Trained all = train_on_cpu(c);
  c.replica.recompute_blocks = {2, 3};
  const Trained two = train_on_cpu(c);
  for (const Trained* run : {&all, &two}) {
    CHECK(run->losses == kept.losses);
    CHECK(run->state == kept.state);
  }
  CHECK(flops(all) - flops(kept) == passes(c) * layers * layer_flops());
  CHECK(flops(two) - flops(kept) == passes(c) * 2 * layer_flops());
  CHECK(activations(all) < activations(two));
  CHECK(activations(two) < activations(kept));
}

TEST_CASE("of the micro-batches under way, as many as are told keep everything") {
  TrainingCase c = transformer_case();
  c.pipeline = 2;  // 1F1B: two under way on the first stage, one on the last
  const Trained kept = train_on_cpu(c);
  c.replica.recompute = Recompute::full;
  const Trained none = train_on_cpu(c);
  c.replica.stored_micro_batches = 1;
  const Trained one = train_on_cpu(c);
  c.replica.stored_micro_batches = 2;
  const Trained both = train_on_cpu(c);
  for (const Trained* run : {&none, &one, &both}) CHECK(run->state == kept.state);
  CHECK(flops(both) == flops(kept));
  CHECK(activations(both) == activations(kept));
  CHECK(activations(none) < activations(one));
  CHECK(activations(one) < activations(both));
  // The last stage stores all; on the first, which starts with two under way, every other one.
  CHECK(flops(one) - flops(kept) == passes(c) / 2 * layers / 2 * layer_flops());
}

TEST_CASE("selective recomputation runs attention's two products again and keeps nothing of them") {
  TrainingCase c = transformer_case();
  c.replica.micro_batches = 1;
  const Trained kept = train_on_cpu(c);
  c.transformer->recompute_attention = true;
  const Trained again = train_on_cpu(c);
  CHECK(again.losses == kept.losses);
  CHECK(again.state == kept.state);
  const double attention = 4.0 * 2 * sequence * sequence * heads * head_size;
  CHECK(flops(again) - flops(kept) == passes(c) * layers * attention);
  // An fp32 statistic of each query and head. At the peak, in the head, none is there again.
  CHECK(activations(kept) - activations(again) == layers * 2 * sequence * heads * 4);
}

TEST_CASE("selective recomputation changes no bit where sequences or the backward are divided") {
  TrainingCase c = transformer_case();
  c.transformer->sequence = 8;
  const auto same = [](TrainingCase plan) {
    const Trained kept = train_on_cpu(plan);
    plan.transformer->recompute_attention = true;
    CHECK(train_on_cpu(plan).state == kept.state);
  };
  TrainingCase divided = c;
  divided.context = 2;
  for (const ContextAlgorithm algorithm :
       {ContextAlgorithm::ring, ContextAlgorithm::ulysses, ContextAlgorithm::all_gather}) {
    divided.transformer->context_algorithm = algorithm;
    same(divided);
  }
  c.pipeline = 2;
  c.replica.schedule = "zb-h1";
  same(c);
}

TEST_CASE("selective recomputation agrees in sim and on cpu") {
  TrainingCase c = transformer_case();
  c.transformer->recompute_attention = true;
  c.steps = usual_steps;
  check_worlds_agree(c);
}

TEST_CASE("recomputation of some micro-batches agrees in sim and on cpu") {
  TrainingCase c = transformer_case();
  c.pipeline = 2;
  c.replica.recompute = Recompute::full;
  c.replica.stored_micro_batches = 1;
  c.steps = usual_steps;
  check_worlds_agree(c);
}

}  // namespace orrery
