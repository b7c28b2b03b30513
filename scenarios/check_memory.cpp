#include "scenarios/check_memory.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "backend/core/text.hpp"
#include "scenarios/replica_checks.hpp"

namespace orrery {

namespace {

// What a layer must be for every second of its products to run again (every_second.hpp).
void check_every_second(const Scenario& s, Problems& problems) {
  const TransformerSpec& t = s.model_spec.transformer;
  const auto refuse_with = [&](bool there, const char* path, const char* what) {
    if (there)
      refuse(problems, path, fmt::format("every second product again, with {}", what),
             "set memory.recompute to none or full");
  };
  refuse_with(t.experts > 0, "memory.recompute", "experts");
  refuse_with(t.latent(), "memory.recompute", "latent attention");
  refuse_with(t.qk_norm, "memory.recompute", "norms of queries and keys");
  refuse_with(t.reversible, "memory.recompute", "reversible layers");
  refuse_with(s.memory.attention == AttentionKind::stored, "memory.attention", "stored scores");
  refuse_with(s.memory.dropout, "memory.dropout", "dropout");
}

}  // namespace

void check_memory(Scenario& s, Problems& problems) {
  const Node& r = s.memory.recompute;
  if (r.is_list()) {
    for (const auto layer : read<std::vector<std::int64_t>>(r, problems))
      s.recompute_layers.push_back(static_cast<int>(std::clamp<std::int64_t>(layer, -1, 1 << 20)));
    s.recompute = !s.recompute_layers.empty();
  } else if (const std::vector<std::string> names{"none", "selective", "every-second-product",
                                                  "full"};
             r.is_scalar() && std::find(names.begin(), names.end(), r.text) != names.end()) {
    s.recompute_every_second = r.text == "every-second-product";
    s.recompute = r.text == "full" || s.recompute_every_second;
    s.recompute_attention = r.text == "selective";
  } else {
    problems.add("memory.recompute",
                 fmt::format("memory.recompute: {} is not one of {}, and no list", kind_text(r),
                             join(names, ", ")),
                 r.is_scalar() ? did_you_mean(r.text, names) : "");
  }
  if (s.memory.stored_micro_batches && !s.recompute)
    problems.add("memory.stored_micro_batches", "nothing is recomputed that could be kept",
                 "set memory.recompute to full, every-second-product or a list");
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
  if (s.algorithm.plan.sharding.narrow && p.parameters != Dtype::fp32)
    refuse(problems, "algorithm.gather",
           fmt::format("fp8 from parameters that are stored in {}", name(p.parameters)),
           "set precision.parameters to fp32");
  if (p.master != Dtype::fp32)
    refuse(problems, "precision.master", "a master copy below fp32", "use fp32");
  if (p.moments != Dtype::fp32 && s.algorithm.plan.owns_optimizer)
    refuse(problems, "precision.moments", "narrow moments of an algorithm's own optimizer",
           "use fp32");
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
  const std::string& name = s.model_spec.name;
  if (s.model_spec.kind == ModelKind::transformer) {
    if (s.recompute_every_second) check_every_second(s, problems);
    return;
  }
  if (s.recompute_every_second)
    problems.add("memory.recompute",
                 fmt::format("{} has no layers with products of known order", name),
                 "use none or full");
  if (s.recompute_attention)
    problems.add("memory.recompute", fmt::format("{} has no attention to compute again", name),
                 "use none or full");
  if (s.memory.attention == AttentionKind::stored)
    problems.add("memory.attention", fmt::format("{} has no attention", name), "leave it out");
  if (s.memory.dropout)
    refuse(problems, "memory.dropout", fmt::format("dropout in {}", name), "leave it out");
  if (s.precision.products != Products::as_stored)
    refuse(problems, "precision.products", fmt::format("narrow products of {}", name),
           "leave it out");
  if (s.algorithm.plan.sharding.narrow)
    refuse(problems, "algorithm.gather", fmt::format("fp8 parameters of {}", name), "leave it out");
}

}  // namespace orrery
