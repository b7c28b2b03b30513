#include <fmt/format.h>

#include "backend/core/real.hpp"
#include "scenarios/flop_rule.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

FlopRule rule_of(const MeasuredFile& file, const AliasTable& aliases,
                 std::vector<Assumption>& notes) {
  const std::string text = meaning(aliases.flop_rule, "flop_rule", file.repo, notes);
  for (const FlopRule rule :
       {FlopRule::full, FlopRule::megatron_causal, FlopRule::palm, FlopRule::six_n})
    if (text == name(rule)) return rule;
  throw NotScored(fmt::format("the aliases name no FLOP rule '{}'", text));
}

// FLOPs of a step as the source's TFLOP/s count them.
Flops counted(const std::string& definition, const CasePlan& plan, const ModelSpec& model,
              const std::string& recompute, FlopRule rule) {
  if (definition == "model") return flops_per_step(model, plan.sequence, plan.global_batch, rule);
  if (definition != "hardware")
    throw NotScored(definition.empty() ? "whether tflops_gpu counts recomputation is not stated"
                                       : fmt::format("tflops_def '{}' is not known", definition));
  if (recompute == "selective")
    throw NotScored("hardware TFLOP/s under selective recomputation say no time");
  return executed_flops_per_step(model, plan.sequence, plan.global_batch, rule,
                                 recompute == "full" ? Recomputed::layers : Recomputed::nothing);
}

}  // namespace

double measured_seconds(const MeasuredFile& file, const MeasuredCase& c, const CasePlan& plan,
                        const ModelSpec& model, const std::string& recompute,
                        const AliasTable& aliases, std::vector<Assumption>& notes) {
  const auto there = [](const MeasuredCase::Figure& figure) { return figure.value_or(0) > 0; };
  if (there(c.iter_s)) return *c.iter_s;
  if (there(c.iter_s_derived)) return *c.iter_s_derived;
  const double tokens = real(plan.global_batch) * real(plan.sequence), gpus = real(plan.gpus);
  if (there(c.tokens_s)) return tokens / *c.tokens_s;
  if (there(c.tokens_s_gpu)) return tokens / (*c.tokens_s_gpu * gpus);
  if (there(c.samples_s_gpu)) return real(plan.global_batch) / (*c.samples_s_gpu * gpus);
  if (there(c.tflops_gpu)) {
    const Flops flops =
        counted(word(c.tflops_def), plan, model, recompute, rule_of(file, aliases, notes));
    return flops.value / (*c.tflops_gpu * 1e12 * gpus);
  }
  if (there(c.mfu) && there(c.peak_tflops)) {
    const Flops flops = counted("model", plan, model, recompute, rule_of(file, aliases, notes));
    return flops.value / (*c.mfu * *c.peak_tflops * 1e12 * gpus);
  }
  throw NotScored("no time or rate of a step was printed");
}

}  // namespace orrery
