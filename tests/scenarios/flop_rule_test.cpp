#include "scenarios/flop_rule.hpp"

#include <doctest/doctest.h>

using namespace orrery;

namespace {

ModelSpec llama(std::int64_t h, std::int64_t layers, std::int64_t heads, std::int64_t kv,
                std::int64_t f, std::int64_t v) {
  ModelSpec m;
  m.transformer.hidden = h;
  m.transformer.layers = layers;
  m.transformer.heads = heads;
  m.transformer.kv_heads = kv;
  m.transformer.head_size = h / heads;
  m.transformer.ffn = f;
  m.transformer.vocabulary = v;
  return m;
}

// Multi-head attention, f = 4h, two matrices: the models of Korthikanti et al. 2022.
ModelSpec gpt(std::int64_t h, std::int64_t layers, std::int64_t heads) {
  ModelSpec m = llama(h, layers, heads, heads, 4 * h, 51200);
  m.transformer.gated = false;
  return m;
}

double per_token(const ModelSpec& m, std::int64_t s, FlopRule rule) {
  return flops_per_token(m, s, rule).value;
}

}  // namespace

TEST_CASE("FLOPs per token of Llama 3 8B at 8192 tokens and Llama 2 7B at 4096") {
  const ModelSpec three = llama(4096, 32, 32, 8, 14336, 128256),
                  two = llama(4096, 32, 32, 32, 11008, 32000);
  CHECK(per_token(three, 8192, FlopRule::megatron_causal) ==
        doctest::Approx(5.14704e10).epsilon(1e-6));
  CHECK(per_token(three, 8192, FlopRule::palm) == doctest::Approx(6.10665e10).epsilon(1e-6));
  CHECK(per_token(three, 8192, FlopRule::six_n) == doctest::Approx(4.81816e10).epsilon(1e-6));
  CHECK(per_token(two, 4096, FlopRule::megatron_causal) ==
        doctest::Approx(4.28637e10).epsilon(1e-6));
  CHECK(per_token(two, 4096, FlopRule::palm) == doctest::Approx(4.68729e10).epsilon(1e-6));
  CHECK(per_token(two, 4096, FlopRule::six_n) == doctest::Approx(4.04305e10).epsilon(1e-6));
}

TEST_CASE(
    "the full rule is 72 B L s h^2 (1 + s/6h + V/12hL) for the models of Korthikanti et al. 2022") {
  struct Row {
    std::int64_t h, layers, heads, batch;
    double flops;
  };
  for (const Row& r :
       {Row{6144, 48, 64, 4, 1.14356e15}, Row{12288, 96, 96, 64, 1.41092e17},
        Row{20480, 105, 128, 280, 1.85223e18}, Row{25600, 128, 160, 512, 6.42588e18}}) {
    const ModelSpec m = gpt(r.h, r.layers, r.heads);
    const double s = 2048, h = static_cast<double>(r.h), l = static_cast<double>(r.layers),
                 b = static_cast<double>(r.batch);
    const double closed = 72 * b * l * s * h * h * (1 + s / (6 * h) + 51200 / (12 * h * l));
    CHECK(flops_per_step(m, 2048, r.batch, FlopRule::full).value ==
          doctest::Approx(closed).epsilon(1e-12));
    CHECK(flops_per_step(m, 2048, r.batch, FlopRule::full).value ==
          doctest::Approx(r.flops).epsilon(1e-5));
    const double again = 96 * b * l * s * h * h * (1 + s / (6 * h) + 51200 / (16 * h * l));
    CHECK(executed_flops_per_step(m, 2048, r.batch, FlopRule::full, Recomputed::layers).value ==
          doctest::Approx(again).epsilon(1e-12));
    CHECK(executed_flops_per_step(m, 2048, r.batch, FlopRule::full, Recomputed::nothing).value ==
          doctest::Approx(closed).epsilon(1e-12));
  }
}

TEST_CASE("an MLP counts its GEMMs per sample") {
  ModelSpec m;
  m.kind = ModelKind::mlp;
  m.mlp = {16, 16, 128, 4, 256};
  const double gemms = 256 * 128 + 3 * 128 * 128 + 128 * 256;
  CHECK(flops_per_step(m, 16, 10, FlopRule::full).value == 6 * gemms * 10);
  CHECK(tokens_per_step(m, 16, 10) == 10);
  CHECK(executed_flops_per_step(m, 16, 10, FlopRule::full, Recomputed::layers).value ==
        (6 * gemms + 2 * (gemms - 128 * 256)) * 10);
}

TEST_CASE("rules have the names of scenarios") {
  CHECK(std::string(name(FlopRule::megatron_causal)) == "megatron-causal");
  CHECK(std::string(name(FlopRule::six_n)) == "6n");
}

TEST_CASE(
    "every second product of Llama 3 8B is keys, the output of attention and the ungated half") {
  const ModelSpec m = llama(4096, 32, 32, 8, 14336, 128256);
  const double again = 2.0 * 32 * 4096 * (1024 + 4096 + 14336);
  CHECK(
      executed_flops_per_step(m, 8192, 2, FlopRule::full, Recomputed::every_second_product).value ==
      flops_per_step(m, 8192, 2, FlopRule::full).value + again * 2 * 8192);
}
