// What layers keep for their backward: the formulas and figures of Korthikanti et al. 2022,
// "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198), table 2 and
// figure 1.
#include <doctest/doctest.h>

#include "algorithms/models/transformer.hpp"
#include "algorithms/pipeline/timeline.hpp"

namespace orrery {
namespace {

// A GPT of the paper: sequences of 2,048 tokens, 4 h wide MLPs, 8 tensor ranks, 16 bits.
struct Gpt {
  int layers, hidden, heads, micro_batch;
  int pipeline, chunks;  // stages, and parts of the model on each
  int micro_batches;
};
constexpr Gpt gpt_22b{48, 6144, 64, 4, 1, 1, 1}, gpt_175b{96, 12288, 96, 1, 8, 3, 64},
    gpt_530b{105, 20480, 128, 1, 35, 3, 280}, gpt_1t{128, 25600, 160, 1, 64, 1, 512};

TransformerShape shape_of(const Gpt& g, int tensor) {
  return {.layers = 1,
          .hidden = g.hidden,
          .heads = g.heads,
          .kv_heads = g.heads,
          .head_size = g.hidden / g.heads,
          .ffn = 4 * g.hidden,
          .vocabulary = 51200,
          .gated = false,
          .activation = Activation::gelu,
          .rotary = false,
          .learned_positions = 2048,
          .norm_bias = true,
          .qkv_bias = true,
          .output_bias = true,
          .mlp_bias = true,
          .sequence = 2048,
          .micro_batch = g.micro_batch,
          .tensor = tensor,
          .stored_attention = true,
          .dropout = true};
}

// Of one layer and micro-batch: its input and what it keeps.
double layer_bytes(const TransformerShape& shape) {
  const Model model = make_transformer(shape);
  const Block& layer = *model.blocks[1];
  return 2.0 * static_cast<double>(layer.output_elements() + layer.saved_elements() +
                                   layer.kept_elements());
}

// What the first stage holds of all micro-batches that the schedule has under way there.
double stage_gib(const Gpt& g, bool sequence_parallel, bool selective) {
  TransformerShape shape = shape_of(g, 8);
  shape.sequence_parallel = sequence_parallel;
  shape.recompute_attention = selective;
  PipelineShape pipeline{g.pipeline, g.micro_batches};
  pipeline.chunks = g.chunks;
  const auto schedule = make_schedule(g.chunks > 1 ? "interleaved-1f1b" : "1f1b", pipeline);
  return layer_bytes(shape) * g.layers / schedule->stages * peak_activations(*schedule)[0] /
         (1 << 30);
}

}  // namespace

TEST_CASE("a layer keeps s b h (34 + 5 a s / h) bytes, divided by tensor and sequence ranks") {
  for (const Gpt& g : {gpt_22b, gpt_175b}) {
    const std::int64_t s = 2048, sbh = s * g.micro_batch * g.hidden,
                       scores = 5 * s * s * g.micro_batch * g.heads;
    const auto bytes = [](const TransformerShape& shape) {
      return static_cast<std::int64_t>(layer_bytes(shape));
    };
    CHECK(bytes(shape_of(g, 1)) == 34 * sbh + scores);
    for (int t : {2, 4, 8}) {
      TransformerShape shape = shape_of(g, t);
      CHECK(bytes(shape) == 10 * sbh + (24 * sbh + scores) / t);
      shape.recompute_attention = true;
      CHECK(bytes(shape) == 10 * sbh + 24 * sbh / t);
      shape.sequence_parallel = true;
      CHECK(bytes(shape) == 34 * sbh / t);
      shape.recompute_attention = false;
      CHECK(bytes(shape) == (34 * sbh + scores) / t);
    }
  }
}

TEST_CASE("under 1F1B the first stage holds all layers once, interleaved (p-1)/(p v) times more") {
  for (const Gpt& g : {gpt_175b, gpt_530b, gpt_1t}) {
    PipelineShape pipeline{g.pipeline, g.micro_batches};
    pipeline.chunks = g.chunks;
    const auto schedule = make_schedule(g.chunks > 1 ? "interleaved-1f1b" : "1f1b", pipeline);
    const double more = g.chunks > 1 ? (g.pipeline - 1.0) / (g.pipeline * g.chunks) : 0.0;
    CHECK(peak_activations(*schedule)[0] / schedule->stages ==
          doctest::Approx(1 + more).epsilon(1e-12));
  }
}

TEST_CASE("stage 1 holds 59.25, 66.84, 114.02, 131.25 GiB with tensor parallelism alone") {
  CHECK(stage_gib(gpt_22b, false, false) == 59.25);
  CHECK(stage_gib(gpt_175b, false, false) == 66.84375);
  CHECK(stage_gib(gpt_530b, false, false) == doctest::Approx(114.0234375).epsilon(1e-12));
  CHECK(stage_gib(gpt_1t, false, false) == 131.25);
}

TEST_CASE("stage 1 holds 9.56, 12.35, 23.08, 26.56 GiB with sequence parallelism and selective") {
  CHECK(stage_gib(gpt_22b, true, true) == 9.5625);
  CHECK(stage_gib(gpt_175b, true, true) == 12.3515625);
  CHECK(stage_gib(gpt_530b, true, true) == doctest::Approx(23.076171875).epsilon(1e-12));
  CHECK(stage_gib(gpt_1t, true, true) == 26.5625);
}

}  // namespace orrery
