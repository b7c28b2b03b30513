#include "scenarios/check_pipeline.hpp"

#include <fmt/format.h>

#include "scenarios/replica_checks.hpp"

namespace orrery {

void check_layers(const Scenario& s, Problems& problems) {
  const ParallelSpec& p = s.parallel;
  const std::int64_t layers = s.model_spec.layers();
  const std::int64_t stages =
      p.pipeline == 1 ? 1 : p.pipeline * stages_per_device(p.schedule, p.chunks);
  if (p.layers.empty()) {
    if (layers % stages != 0)
      problems.add("parallel.pipeline",
                   fmt::format("{} layers of {} do not divide into {} stages", layers,
                               s.model_spec.name, stages),
                   nearest_divisors(layers, stages));
    return;
  }
  if (static_cast<std::int64_t>(p.layers.size()) != stages)
    problems.add("parallel.layers",
                 fmt::format("{} numbers of layers for {} stages", p.layers.size(), stages));
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < p.layers.size(); ++i) {
    sum += p.layers[i];
    if (p.layers[i] == 0 && i > 0 && i + 1 < p.layers.size())
      problems.add("parallel.layers", fmt::format("stage {} has no layer", i),
                   "only the first and the last, with embedding and head, can do without");
  }
  if (sum != layers)
    problems.add("parallel.layers", fmt::format("the stages have {} layers, but {} has {}", sum,
                                                s.model_spec.name, layers));
}

void check_schedule(const Scenario& s, Problems& problems, bool micro_batches_known) {
  const ParallelSpec& p = s.parallel;
  const bool drains = p.schedule != "pipedream" && p.schedule != "pipedream-2bw";
  if (!drains && p.pipeline > 1 && s.algorithm.name != "ddp" && s.algorithm.name != "none")
    problems.add("parallel.schedule",
                 fmt::format("not available yet: schedule {} under algorithm {}", p.schedule,
                             s.algorithm.name),
                 "use ddp or none");
  if (p.pipeline > 1) {
    PipelineShape shape = s.pipeline_shape();
    if (!micro_batches_known) shape.micro_batches = 4 * shape.devices;
    for (const Objection& o : objections(p.schedule, shape)) {
      const bool of_batch = o.about == "micro_batches";
      if (of_batch && !micro_batches_known) continue;
      problems.add(of_batch ? "data.global_batch" : "parallel." + o.about, o.text, o.advice);
    }
    return;
  }
  for (const auto& [path, given] : {std::pair{"parallel.chunks", p.chunks != 1},
                                    {"parallel.layers", !p.layers.empty()},
                                    {"parallel.activation_limit", p.activation_limit.has_value()},
                                    {"parallel.vertical_sync", p.vertical_sync}})
    if (given)
      problems.add(path, "a pipeline of one stage has no use for it",
                   "leave it out, or set parallel.pipeline");
}

}  // namespace orrery
