#include <fmt/format.h>

#include <algorithm>

#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

std::int64_t degree(const MeasuredCase::Count& given) {
  return std::max<std::int64_t>(given.value_or(1), 1);
}

// Sequences that a replica computes per step, over `parts`, when that is whole.
std::optional<std::int64_t> part(std::int64_t whole, std::int64_t parts) {
  if (parts <= 0 || whole <= 0 || whole % parts != 0) return std::nullopt;
  return whole / parts;
}

std::int64_t micro_batch(const MeasuredFile& file, const MeasuredCase& c, const CasePlan& plan,
                         std::vector<Assumption>& notes) {
  if (c.micro_batch.value_or(0) > 0) return *c.micro_batch;
  for (const MeasuredCase::Count& count : {c.num_microbatches, c.grad_accum})
    if (const auto size = part(plan.global_batch, count.value_or(0) * plan.data)) return *size;
  for (const MeasuredCase::Count& local : {c.local_batch, c.batch_per_dp})
    if (local.value_or(0) > 0 && plan.pipeline == 1) {
      note(notes, "micro_batch", std::to_string(*local), "the whole batch of a replica at once");
      return *local;
    }
  if (file.repo == "pytorch/torchtitan")
    if (const auto size = part(plan.global_batch, plan.pipeline * plan.data)) {
      note(notes, "micro_batch", std::to_string(*size),
           "the source's default, as many micro-batches as stages "
           "(torchtitan/parallelisms/pipelining_utils.py)");
      return *size;
    }
  note(notes, "micro_batch", "1", "the source does not print it");
  return 1;
}

}  // namespace

CasePlan case_plan(const MeasuredFile& file, const MeasuredCase& c,
                   std::vector<Assumption>& notes) {
  CasePlan plan;
  plan.tensor = degree(c.tp);
  plan.pipeline = degree(c.pp);
  plan.context = degree(c.cp);
  plan.expert = degree(c.ep);
  plan.chunks = degree(c.vpp);
  if (!c.tp && !c.pp && !c.dp && word(c.sharding).empty() && c.gpus.value_or(1) > 1)
    throw NotScored("how the GPUs share the work is not stated");
  const std::int64_t one_model = plan.tensor * plan.pipeline * plan.context;
  const std::int64_t given = c.gpus.value_or(0);
  if (given == 0 && c.dp.value_or(0) == 0) throw NotScored("the number of GPUs is not stated");
  plan.gpus = given > 0 ? given : one_model * degree(c.dp);
  plan.data = plan.gpus / one_model;
  if (plan.data * one_model != plan.gpus || (c.dp.value_or(0) > 0 && *c.dp != plan.data))
    throw NotScored("tp x pp x cp x dp is not the number of GPUs");
  plan.sequence = c.seq_len.value_or(0);
  plan.global_batch = c.global_batch.value_or(0);
  const std::int64_t steps = std::max(c.grad_accum.value_or(0), c.num_microbatches.value_or(0));
  if (plan.global_batch == 0 && c.micro_batch.value_or(0) > 0 && steps > 0)
    plan.global_batch = *c.micro_batch * steps * plan.data;
  if (plan.global_batch == 0)
    for (const MeasuredCase::Count& local : {c.local_batch, c.batch_per_dp})
      if (local.value_or(0) > 0 && plan.global_batch == 0) plan.global_batch = *local * plan.data;
  if (plan.global_batch == 0) throw NotScored("the batch of a step is not stated");
  plan.micro_batch = micro_batch(file, c, plan, notes);
  return plan;
}

}  // namespace orrery
