// Recomputation: no bit changes; FLOPs and peaks do, by as much as is run again and not kept.
#include <cmath>

#include "tests/parity/small_transformers.hpp"
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

namespace {

// What the cost block of algorithms/models/every_second.hpp says, of one layer and micro-batch.
struct EverySecond {
  double flops;
  std::int64_t held, saved;  // bytes; saved: what is there between the passes without the policy
};
EverySecond every_second(const TransformerShape& s, int ranks = 1, bool sequence_parallel = false) {
  const std::int64_t n = std::int64_t{s.micro_batch} * s.sequence, h = s.hidden;
  const std::int64_t q = s.heads * s.head_size, k = s.kv_heads * s.head_size, f = s.ffn;
  const std::int64_t out = sequence_parallel ? 0 : q;
  const std::int64_t held = n * (2 * q + k + f + s.heads) / ranks;
  const std::int64_t divided = sequence_parallel ? ranks : 1;
  const std::int64_t all = n * (q + 2 * k + q + s.heads + 3 * f) / ranks + 3 * n * h / divided;
  return {2.0 * static_cast<double>(n * h * (k + out + f)) / ranks,
          4 * (held + (sequence_parallel ? n * h / ranks : 0)), 4 * all};
}

TransformerShape grouped_llama() {
  TransformerShape s = *transformer_case().transformer;
  s.heads = 4;
  s.kv_heads = 2;
  s.hidden = 24;
  s.ffn = 20;
  s.vocabulary = 512;  // the peak is in the head
  s.sequence = 8;
  return s;
}

TrainingCase with_every_second(TrainingCase c) {
  c.transformer->recompute_every_second = true;
  c.replica.recompute = Recompute::full;
  return c;
}

}  // namespace

TEST_CASE("every second product runs again, and the others' results are what is held") {
  TrainingCase c = transformer_case();
  c.transformer = grouped_llama();
  const Trained kept = train_on_cpu(c), again = train_on_cpu(with_every_second(c));
  for (std::size_t i = 0; i < kept.losses.size(); ++i)
    CHECK(std::fabs(again.losses[i] - kept.losses[i]) <= 1e-6 * kept.losses[i]);
  const EverySecond cost = every_second(*c.transformer);
  CHECK(flops(again) - flops(kept) == passes(c) * layers * cost.flops);
  // At the peak, in the head, no layer has been recomputed.
  CHECK(activations(kept) - activations(again) == layers * (cost.saved - cost.held));
  TrainingCase eager = with_every_second(c);
  eager.transformer->keeps_unread = true;  // the result of the last product of each layer
  const std::int64_t unread = 4 * std::int64_t{2} * c.transformer->sequence * c.transformer->hidden;
  const Trained more = train_on_cpu(eager);
  CHECK(more.losses == again.losses);
  CHECK(activations(more) - activations(again) == layers * unread);
}

TEST_CASE("every second product runs again on tensor ranks, tokens divided or not") {
  for (const bool sequence_parallel : {false, true}) {
    TrainingCase c = transformer_case();
    c.transformer = grouped_llama();
    c.transformer->sequence_parallel = sequence_parallel;
    c.tensor = 2;
    const Trained kept = train_on_cpu(c), again = train_on_cpu(with_every_second(c));
    for (std::size_t i = 0; i < kept.losses.size(); ++i)
      CHECK(std::fabs(again.losses[i] - kept.losses[i]) <= 1e-6 * kept.losses[i]);
    const EverySecond cost = every_second(*c.transformer, 2, sequence_parallel);
    CHECK(flops(again) - flops(kept) == 2 * passes(c) * layers * cost.flops);
    CHECK(activations(kept) - activations(again) == layers * (cost.saved - cost.held));
  }
}

TEST_CASE("every second product of a GPT with biases, side by side or not, runs again") {
  for (const bool parallel : {false, true}) {
    TrainingCase c = transformer_case();
    c.transformer = small_gpt();
    c.transformer->parallel_blocks = parallel;
    c.pipeline = 2;
    c.replica.schedule = "zb-h1";
    const Trained kept = train_on_cpu(c), again = train_on_cpu(with_every_second(c));
    for (std::size_t i = 0; i < kept.losses.size(); ++i)
      CHECK(std::fabs(again.losses[i] - kept.losses[i]) <= 1e-6 * kept.losses[i]);
  }
}

TEST_CASE("recomputation of every second product agrees in sim and on cpu") {
  TrainingCase c = transformer_case();
  c.transformer = grouped_llama();
  c.transformer->sequence_parallel = true;
  c.tensor = 2;
  c.pipeline = 2;
  c.steps = 50;
  check_worlds_agree(with_every_second(c));
}

// An eager loss holds three fp32 numbers per logit, a fused one the logits.
TEST_CASE("an eager or a compiled loss changes no bit and holds what it leaves behind") {
  for (const int tensor : {1, 2}) {
    TrainingCase c = transformer_case();
    c.tensor = tensor;
    const Trained fused = train_on_cpu(c);
    c.transformer->loss = LossMemory::eager;
    const Trained eager = train_on_cpu(c);
    CHECK(eager.losses == fused.losses);
    CHECK(eager.state == fused.state);
    const std::int64_t logits = 2 * sequence * 256 / tensor;
    CHECK((eager.report.ranks[0].peak - fused.report.ranks[0].peak).value ==
          logits * 4 * (tensor == 1 ? 2 : 3));
    c.transformer->loss = LossMemory::apart;
    const Trained apart = train_on_cpu(c);
    CHECK(apart.state == fused.state);
    CHECK((apart.report.ranks[0].peak - fused.report.ranks[0].peak).value == logits * 4);
  }
}

TEST_CASE("an eager loss in bf16 over tensor ranks agrees in sim and on cpu") {
  TrainingCase c = transformer_case();
  c.transformer->loss = LossMemory::eager;
  c.transformer->dtype = Dtype::bf16;
  c.tensor = 2;
  c.steps = 50;
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
