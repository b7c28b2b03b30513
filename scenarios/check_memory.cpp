#include "scenarios/check_memory.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/core/text.hpp"
#include "scenarios/replica_checks.hpp"

namespace orrery {

void check_memory(Scenario& s, Problems& problems) {
  const Node& r = s.memory.recompute;
  if (r.is_list()) {
    for (const auto layer : read<std::vector<std::int64_t>>(r, problems))
      s.recompute_layers.push_back(static_cast<int>(std::clamp<std::int64_t>(layer, -1, 1 << 20)));
    s.recompute = !s.recompute_layers.empty();
  } else if (const std::vector<std::string> names{"none", "selective", "full"};
             r.is_scalar() && std::find(names.begin(), names.end(), r.text) != names.end()) {
    s.recompute = r.text == "full";
    s.recompute_attention = r.text == "selective";
  } else {
    problems.add("memory.recompute",
                 fmt::format("memory.recompute: {} is not one of {}, and no list", kind_text(r),
                             join(names, ", ")),
                 r.is_scalar() ? did_you_mean(r.text, names) : "");
  }
  if (s.memory.stored_micro_batches && !s.recompute)
    problems.add("memory.stored_micro_batches", "nothing is recomputed that could be kept",
                 "set memory.recompute to full or a list");
  if (s.algorithm.plan.open_ended && (!s.recompute_layers.empty() || s.memory.stored_micro_batches))
    refuse(problems, "memory", "recomputation in part with steps of as many samples as they like",
           "set memory.recompute to none or full");
}

void check_precision(const Scenario& s, Problems& problems) {
  const PrecisionSpec& p = s.precision;
  for (const auto& [path, type] : {std::pair{"precision.parameters", p.parameters},
                                   {"precision.activations", p.activations},
                                   {"precision.reduction", p.reduction},
                                   {"precision.master", p.master}})
    if (type == Dtype::fp8)
      refuse(problems, path, fmt::format("{} as a type of what is stored", name(type)),
             "use fp32, bf16 or fp16; precision.products takes fp8");
  if (p.activations != p.parameters && !s.algorithm.plan.sharding.parameters())
    refuse(problems, "precision.activations",
           "activations of another type than parameters that are not gathered for each pass",
           fmt::format("use {}, or algorithm fsdp", name(p.parameters)));
  if (p.master != Dtype::fp32)
    refuse(problems, "precision.master", "an optimizer state below fp32", "use fp32");
}

void check_inside_layers(Scenario& s, Problems& problems) {
  const std::int64_t layers = s.model_spec.layers();
  std::vector<int>& listed = s.recompute_layers;
  std::sort(listed.begin(), listed.end());
  listed.erase(std::unique(listed.begin(), listed.end()), listed.end());
  for (const int layer : listed)
    if (layer < 0 || layer >= layers)
      problems.add("memory.recompute", fmt::format("{} has layers 0 to {}, none with number {}",
                                                   s.model_spec.name, layers - 1, layer));
  if (s.model_spec.kind == ModelKind::transformer) return;
  const std::string& name = s.model_spec.name;
  if (s.recompute_attention)
    problems.add("memory.recompute", fmt::format("{} has no attention to compute again", name),
                 "use none or full");
  if (s.memory.attention == AttentionKind::stored)
    problems.add("memory.attention", fmt::format("{} has no attention", name), "leave it out");
  if (s.memory.dropout)
    refuse(problems, "memory.dropout", fmt::format("dropout in {}", name), "leave it out");
  if (s.precision.products != Products::as_stored)
    refuse(problems, "precision.products", fmt::format("fp8 products of {}", name), "leave it out");
}

}  // namespace orrery
