// MFU and HFU of published training runs, by the code that fills a result.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include "platforms/cluster.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/flop_rule.hpp"
#include "tests/scenarios/megatron_configs.hpp"

using namespace orrery;

namespace {

const std::string root = ORRERY_SOURCE_DIR;
constexpr std::int64_t sequence = 2048;

// Korthikanti et al. 2022 (arXiv 2205.05198), table 5: seconds per iteration on A100, with
// selective recomputation and sequence parallelism.
struct Run {
  const char* model;
  int gpus;
  std::int64_t batch;
  double seconds;
  const char *mfu, *hfu;
};
const Run runs[]{{"megatron-22b", 8, 4, 1.10, "41.65 %", "43.81 %"},
                 {"megatron-175b", 64, 64, 13.75, "51.39 %", "52.77 %"},
                 {"megatron-530b", 280, 280, 37.83, "56.05 %", "56.96 %"},
                 {"megatron-1t", 512, 512, 71.49, "56.27 %", "57.01 %"}};

std::string percent(const std::optional<double>& part) {
  REQUIRE(part.has_value());
  return fmt::format("{:.2f} %", 100 * *part);
}

// The result of one step of `seconds` in which all ranks together ran `executed`.
cli::Result result_of(const ModelSpec& model, const Run& run, Flops executed) {
  const Cluster cluster(read_platform(PlatformFolder(root), "selene-a100"), run.gpus);
  cli::ResultInput in;
  in.ranks = run.gpus;
  in.tokens_per_step = tokens_per_step(model, sequence, run.batch);
  in.flops_per_step = flops_per_step(model, sequence, run.batch, FlopRule::full);
  in.full_flops_per_step = in.flops_per_step;
  in.peak = cluster.peak(Dtype::bf16);
  CHECK(in.peak->value == run.gpus * 312e12);
  RunReport report;
  report.ranks.resize(static_cast<std::size_t>(run.gpus));
  for (RankReport& rank : report.ranks) {
    rank.steps = {{to_time(Seconds(run.seconds)), {}}};
    rank.matrix_flops = executed * (1.0 / run.gpus);
  }
  return cli::make_result(std::move(in), report);
}

// What these runs executed by the paper's count (its appendix A), which takes attention, run
// forwards once more, for as much as a whole forward and backward of it: s/3h in place of s/6h.
Flops executed_selectively(const ModelSpec& model, const Run& run) {
  const double s = sequence, b = static_cast<double>(run.batch),
               h = static_cast<double>(model.transformer.hidden),
               l = static_cast<double>(model.transformer.layers),
               v = static_cast<double>(model.transformer.vocabulary);
  return Flops(72 * b * l * s * h * h * (1 + s / (3 * h) + v / (12 * h * l)));
}

}  // namespace

TEST_CASE("MFU and HFU of the runs of Korthikanti et al. 2022 come out to the second decimal") {
  for (const Run& run : runs) {
    CAPTURE(run.model);
    for (const ModelSpec& model : {read_model(run.model, root), megatron_from_config(run.model)}) {
      const cli::Result result = result_of(model, run, executed_selectively(model, run));
      CHECK(percent(result.mfu) == run.mfu);
      CHECK(percent(result.hfu) == run.hfu);
    }
  }
}

TEST_CASE("HFU is MFU without recomputation, and a third more of every layer with all of it") {
  for (const Run& run : runs) {
    const ModelSpec model = read_model(run.model, root);
    const auto executed = [&](Recomputed again) {
      return executed_flops_per_step(model, sequence, run.batch, FlopRule::full, again);
    };
    const cli::Result none = result_of(model, run, executed(Recomputed::nothing));
    CHECK(*none.hfu == doctest::Approx(*none.mfu).epsilon(1e-12));
    const cli::Result full = result_of(model, run, executed(Recomputed::layers));
    const double s = sequence, h = static_cast<double>(model.transformer.hidden),
                 l = static_cast<double>(model.transformer.layers), v = 51200;
    const double ratio =
        96 * (1 + s / (6 * h) + v / (16 * l * h)) / (72 * (1 + s / (6 * h) + v / (12 * l * h)));
    CHECK(*full.hfu / *full.mfu == doctest::Approx(ratio).epsilon(1e-12));
  }
}

TEST_CASE("MFU by another rule counts other FLOPs; HFU adds the same recomputation to it") {
  const ModelSpec model = read_model("llama-3-8b", root);
  for (const FlopRule rule : {FlopRule::megatron_causal, FlopRule::palm, FlopRule::six_n}) {
    cli::ResultInput in;
    in.ranks = 1;
    in.flops_per_step = flops_per_step(model, 8192, 1, rule);
    in.full_flops_per_step = flops_per_step(model, 8192, 1, FlopRule::full);
    in.peak = FlopsPerSecond(312e12);
    RunReport report;
    report.ranks.resize(1);
    report.ranks[0].steps = {{to_time(Seconds(10)), {}}};
    report.ranks[0].matrix_flops =
        executed_flops_per_step(model, 8192, 1, FlopRule::full, Recomputed::layers);
    const Flops again = report.ranks[0].matrix_flops - in.full_flops_per_step;
    const double model_flops = in.flops_per_step.value;
    const cli::Result result = cli::make_result(std::move(in), report);
    CHECK(*result.mfu == doctest::Approx(model_flops / 312e13).epsilon(1e-12));
    CHECK(*result.hfu == doctest::Approx((model_flops + again.value) / 312e13).epsilon(1e-12));
  }
}
