#include "scenarios/flop_rule.hpp"

#include "backend/core/real.hpp"

namespace orrery {

namespace {

// Multiply-adds of attention's two products for one token, in all layers, with the whole s^2.
double attention_multiply_adds(const ModelSpec& m, std::int64_t sequence) {
  if (m.kind != ModelKind::transformer) return 0;
  return real(m.transformer.attention_multiply_adds()) * real(sequence);
}

double layer_multiply_adds(const ModelSpec& m) {
  if (m.by_blocks()) return 0;
  if (m.kind == ModelKind::transformer) return real(m.transformer.layer_multiply_adds());
  return real(m.mlp.multiply_adds() - m.mlp.hidden * m.mlp.vocabulary);
}

// Keys, the output of attention where the MLP reads it and, where the activation has a gate, what
// it multiplies.
double every_second_multiply_adds(const TransformerSpec& t) {
  const std::int64_t keys = t.kv_heads * t.head_size;
  const std::int64_t out = t.parallel_blocks ? 0 : t.heads * t.head_size;
  return real(t.layers * t.hidden) * real(keys + out + (t.gated ? t.ffn : 0));
}

double head_multiply_adds(const ModelSpec& m) {
  if (m.by_blocks()) return 0;
  return m.kind == ModelKind::transformer ? real(m.transformer.head_multiply_adds())
                                          : real(m.mlp.hidden * m.mlp.vocabulary);
}

// Of a sample of a timing model, once: by all blocks, by the first, whose input's gradient nobody
// asks for, and by those that recomputation runs again.
struct ForwardFlops {
  Flops all{0}, first{0}, again{0};
};

ForwardFlops forward_flops(const ModelSpec& m) {
  const Model model =
      m.kind == ModelKind::resnet ? make_picture_network(m.resnet) : make_fno(m.fno);
  ForwardFlops f;
  f.first = model.blocks.front()->forward_flops();
  for (const auto& block : model.blocks) {
    f.all += block->forward_flops();
    if (block->saved_elements() > 0 && !block->computes_loss()) f.again += block->forward_flops();
  }
  return f;
}

}  // namespace

const char* name(FlopRule rule) {
  constexpr const char* names[]{"full", "megatron-causal", "palm", "6n"};
  return names[static_cast<std::size_t>(rule)];
}

Flops flops_per_token(const ModelSpec& m, std::int64_t sequence, FlopRule rule) {
  if (m.by_blocks() && (rule == FlopRule::full || rule == FlopRule::megatron_causal)) {
    const ForwardFlops forward = forward_flops(m);
    return forward.all * 3 - forward.first;
  }
  const double attention = 6.0 * attention_multiply_adds(m, sequence);
  const double gemms = 6.0 * (layer_multiply_adds(m) + head_multiply_adds(m));
  const double six_n = 6.0 * real(m.active_parameters());
  switch (rule) {
    case FlopRule::full:
      return Flops(gemms + attention);
    case FlopRule::megatron_causal:
      return Flops(gemms + 0.5 * attention);
    case FlopRule::palm:
      return Flops(six_n + attention);
    case FlopRule::six_n:
      return Flops(six_n);
  }
  return Flops(0);
}

std::int64_t tokens_per_step(const ModelSpec& m, std::int64_t sequence, std::int64_t global_batch) {
  return m.kind == ModelKind::transformer ? global_batch * sequence : global_batch;
}

Flops flops_per_step(const ModelSpec& m, std::int64_t sequence, std::int64_t global_batch,
                     FlopRule rule) {
  return flops_per_token(m, sequence, rule) * real(tokens_per_step(m, sequence, global_batch));
}

Flops executed_flops_per_step(const ModelSpec& m, std::int64_t sequence, std::int64_t global_batch,
                              FlopRule rule, Recomputed again) {
  const Flops once = flops_per_step(m, sequence, global_batch, rule);
  if (again == Recomputed::nothing) return once;
  const bool layers = again == Recomputed::layers;
  if (m.by_blocks()) return once + forward_flops(m).again * (layers ? real(global_batch) : 0.0);
  if (again == Recomputed::every_second_product)
    return once + Flops(2.0 * every_second_multiply_adds(m.transformer) *
                        real(tokens_per_step(m, sequence, global_batch)));
  const double half = rule == FlopRule::megatron_causal ? 0.5 : 1.0;
  const double multiply_adds =
      (layers ? layer_multiply_adds(m) : 0.0) + half * attention_multiply_adds(m, sequence);
  return once + Flops(2.0 * multiply_adds * real(tokens_per_step(m, sequence, global_batch)));
}

}  // namespace orrery
