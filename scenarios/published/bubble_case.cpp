// The bubble rate of a pipeline, by the times of its stages that the same source prints.
#include <fmt/format.h>

#include <cstdlib>

#include "algorithms/pipeline/timeline.hpp"
#include "scenarios/published/not_scored.hpp"
#include "scenarios/published/prediction.hpp"

namespace orrery {

namespace {

// The stage times of the case's model, at the number of micro-batches nearest to the case's.
const MeasuredCase& stage_times(const MeasuredFile& file, const MeasuredCase& c) {
  const MeasuredCase* best = nullptr;
  const auto distance = [&](const MeasuredCase& p) {
    return std::llabs(p.num_microbatches.value_or(0) - *c.num_microbatches);
  };
  for (const MeasuredCase& p : file.cases) {
    const bool whole = p.t_fwd_s && p.t_bwd_input_s && p.t_bwd_weight_s;
    if (p.kind != "stage_time" || word(p.model) != word(c.model) || !whole) continue;
    if (best == nullptr || distance(p) < distance(*best)) best = &p;
  }
  if (best == nullptr) throw NotScored("no stage times of this model were printed");
  return *best;
}

int limit_in_devices(const MeasuredCase& c) {
  return word(c.pp_schedule).starts_with("ZB-2p") ? 2 : 1;
}

}  // namespace

// 1 - m (F + Bi + W) / the longest span of a device from its first task to its last, as Qi et al.
// 2024 (arXiv 2401.10241, section 5.3) count it.
void predict_bubble(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                    const Machines&, Prediction& out) {
  if (!c.bubble_rate || !c.pp || !c.num_microbatches)
    throw NotScored("rate, stages or micro-batches are not stated");
  const MeasuredCase& profile = stage_times(file, c);
  const std::string schedule =
      meaning(aliases.pp_schedule, "pp_schedule", word(c.pp_schedule), out.assumptions);
  PipelineShape shape{static_cast<int>(*c.pp), static_cast<int>(*c.num_microbatches)};
  if (schedule == "interleaved-1f1b") {
    if (!c.vpp && !profile.layers) throw NotScored("the chunks per device are not stated");
    shape.chunks = static_cast<int>(c.vpp ? *c.vpp : (*profile.layers + *c.pp - 1) / *c.pp);
    if (!c.vpp)
      out.assumptions.push_back(
          {"vpp", std::to_string(shape.chunks), "a layer per chunk: the source prints no number"});
  }
  if (schedule == "zb-auto") {
    if (!profile.hidden || !profile.heads || !profile.seq_len)
      throw NotScored("the sizes of the model are not stated");
    shape.activation_limit = static_cast<int>(*c.pp) * limit_in_devices(c);
    shape.times = {*profile.t_fwd_s, *profile.t_bwd_input_s, *profile.t_bwd_weight_s,
                   profile.t_comm_s.value_or(0)};
    // Of a layer's 34 s b h + 5 a s^2 b bytes 32 s b h wait for the weight gradients (section 2).
    const auto h = static_cast<double>(*profile.hidden);
    shape.for_weights =
        32 * h / (34 * h + 5.0 * static_cast<double>(*profile.heads * *profile.seq_len));
  }
  const auto plan = make_schedule(schedule, shape);
  const double parts = plan->stages / shape.devices;
  const TaskTimes stage{*profile.t_fwd_s / parts, *profile.t_bwd_input_s / parts,
                        *profile.t_bwd_weight_s / parts, profile.t_comm_s.value_or(0)};
  const double ideal =
      shape.micro_batches * parts * (stage.forward + stage.backward_input + stage.backward_weight);
  out.unit = "share of the step";
  out.measured = *c.bubble_rate;
  out.predicted = 1 - ideal / lay_out(*plan, {stage}).longest_span();
}

}  // namespace orrery
