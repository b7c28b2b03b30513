#include "scenarios/replica_checks.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>

namespace orrery {

namespace {

class Checks {
 public:
  Checks(const Scenario& s, Problems& problems)
      : p_(s.parallel), t_(s.model_spec.transformer), s_(s), problems_(problems) {}

  void tensor() const {
    const std::int64_t parts = p_.tensor;
    divide("parallel.tensor", t_.heads, parts, "attention heads");
    divide("parallel.tensor", t_.kv_heads, parts, "heads of keys and values");
    if (t_.mixture_layers() < t_.layers)
      divide("parallel.tensor", t_.ffn, parts, "columns of the MLP");
    if (t_.experts > 0) {
      divide("parallel.tensor", t_.expert_ffn, parts, "columns of an expert");
      divide("parallel.tensor", t_.shared_ffn, parts, "columns of the shared experts");
    }
    if (t_.vocabulary % parts != 0)
      problems_.add("parallel.tensor",
                    fmt::format("{} tokens of the vocabulary of {} do not divide over {} GPUs",
                                t_.vocabulary, s_.model_spec.name, parts),
                    fmt::format("pad the model's vocabulary, for instance to {}",
                                (t_.vocabulary + 128 * parts - 1) / (128 * parts) * 128 * parts));
  }
  void context() const {
    const bool ulysses = p_.context_algorithm == ContextAlgorithm::ulysses;
    const std::int64_t parts = ulysses ? p_.context : 2 * p_.context;
    if (s_.data.sequence && *s_.data.sequence % parts != 0)
      problems_.add("parallel.context",
                    fmt::format("{} tokens of a sequence do not divide into {} parts",
                                *s_.data.sequence, parts),
                    "use another sequence, or fewer GPUs");
    if (s_.memory.attention == AttentionKind::stored)
      problems_.add("memory.attention",
                    "attention that stores its scores needs whole sequences on one GPU",
                    "use fused, or parallel.context 1");
    if (!ulysses) return;
    const std::int64_t all = p_.tensor * p_.context;
    divide("parallel.context", t_.heads, all, "attention heads");
    divide("parallel.context", t_.kv_heads, all, "heads of keys and values");
  }
  void experts() const {
    if (p_.expert > 1 && t_.experts == 0)
      return problems_.add("parallel.expert",
                           fmt::format("{} has no experts to divide", s_.model_spec.name), "use 1");
    if (p_.expert > 1) divide("parallel.expert", t_.experts, p_.expert, "experts");
    if (p_.expert == 1 && s_.experts.imbalance != 1)
      problems_.add(
          "experts.imbalance",
          "a GPU that holds all experts has the work of all tokens, however they are spread",
          "leave it out, or divide the experts by parallel.expert");
    if (t_.experts > 0 && s_.run.values == RunValues::real && !s_.experts.capacity_factor)
      problems_.add(
          "run.values", "not available yet: values of experts without a capacity",
          fmt::format("set experts.capacity_factor; {:g} drops no token",
                      static_cast<double>(t_.experts) / static_cast<double>(t_.experts_per_token)));
  }
  void fp8_tokens() const {
    const char* const path = "parallel.sequence_gather";
    if (!p_.sequence_parallel || p_.tensor == 1)
      problems_.add(path, "tokens are gathered where sequence parallelism divides them, only",
                    "leave it out, or set parallel.sequence_parallel and parallel.tensor");
    if (s_.precision.products != Products::fp8_tensor)
      problems_.add(path, "one scale for all tokens is that of products in fp8-tensor",
                    "leave it out, or set precision.products to fp8-tensor");
    if (t_.experts > 0 || t_.latent())
      refuse(problems_, path,
             fmt::format("tokens in fp8 for {}", t_.latent() ? "latent attention" : "experts"),
             "leave it out");
  }
  void sequence() const {
    const std::int64_t parts = p_.tensor * p_.context;
    if (s_.data.sequence && *s_.data.sequence % parts != 0)
      problems_.add("parallel.sequence_parallel",
                    fmt::format("{} tokens of a sequence do not divide over {} GPUs",
                                *s_.data.sequence, parts),
                    "use false, or another sequence");
  }

 private:
  void divide(const char* path, std::int64_t size, std::int64_t parts, const char* what) const {
    if (size % parts != 0)
      problems_.add(path,
                    fmt::format("{} {} of {} do not divide over {} GPUs", size, what,
                                s_.model_spec.name, parts),
                    nearest_divisors(size, parts));
  }

  const ParallelSpec& p_;
  const TransformerSpec& t_;
  const Scenario& s_;
  Problems& problems_;
};

}  // namespace

void refuse(Problems& problems, const char* path, const std::string& what,
            const std::string& advice) {
  problems.add(path, fmt::format("not available yet: {}", what), advice);
}

std::string nearest_divisors(std::int64_t n, std::int64_t wanted) {
  std::int64_t below = 1, above = n;
  for (std::int64_t d = 1; d <= n / d; ++d) {
    if (n % d != 0) continue;
    for (const std::int64_t each : {d, n / d}) {
      if (each <= wanted) below = std::max(below, each);
      if (each >= wanted) above = std::min(above, each);
    }
  }
  return below == above ? fmt::format("use {}", below) : fmt::format("use {} or {}", below, above);
}

bool workers_come_and_go(const Scenario& s) {
  const Node* const members = s.algorithm.options.find("members");
  const Node* const quorum = s.algorithm.options.find("quorum");
  return (members != nullptr && !members->children.empty()) ||
         (quorum != nullptr && !quorum->is_null());
}

void check_evaluation(const Scenario& s, Problems& problems) {
  if (!s.data.evaluate_every) return;
  const ParallelSpec& p = s.parallel;
  if (s.run.values != RunValues::real)
    problems.add("data.evaluate_every", "virtual values have no loss",
                 "set run.values to real, or value_model.evaluate_every");
  else if (s.data.held_out == 0)
    problems.add("data.evaluate_every", "nothing is held out to evaluate on", "set data.held_out");
  if (p.tensor * p.context * p.pipeline * p.expert > 1 || s.algorithm.plan.sharding.parameters())
    refuse(problems, "data.evaluate_every", "the mean of replicas that are divided over ranks",
           "use data parallelism with whole parameters, or leave it out");
  if (workers_come_and_go(s))
    refuse(problems, "data.evaluate_every", "the mean of workers that come and go",
           "leave it out, or let all stay");
  for (const Refusal& refusal : find_algorithm(s.algorithm.name)->refuses)
    if (refusal.what == "evaluate_every")
      problems.add("data.evaluate_every",
                   fmt::format("not with {}: {}", s.algorithm.name, refusal.reason),
                   "leave it out; the model at the end is evaluated all the same");
}

void check_inside_replica(const Scenario& s, Problems& problems) {
  const ParallelSpec& p = s.parallel;
  if (p.sequence_parallel && p.tensor == 1)
    problems.add("parallel.sequence_parallel",
                 "sequence parallelism divides tokens over a tensor group, but tensor is 1",
                 "use false, or several GPUs along parallel.tensor");
  const bool transformer = s.model_spec.kind == ModelKind::transformer;
  for (const auto& [path, size, what] : {std::tuple{"parallel.tensor", p.tensor, "tensor"},
                                         {"parallel.context", p.context, "context"},
                                         {"parallel.expert", p.expert, "expert"}})
    if (size > 1 && !transformer)
      problems.add(path,
                   fmt::format("not available yet: {} parallelism of {}", what, s.model_spec.name),
                   "use 1");
  const bool narrow = p.sequence_gather == SequenceGather::fp8;
  if (narrow && !transformer)
    refuse(problems, "parallel.sequence_gather",
           fmt::format("tokens of {} in fp8", s.model_spec.name), "leave it out");
  if (!transformer) return;
  const Checks checks(s, problems);
  if (narrow) checks.fp8_tokens();
  checks.experts();
  if (p.tensor > 1) checks.tensor();
  if (p.context > 1) checks.context();
  if (p.tensor > 1 && p.sequence_parallel) checks.sequence();
}

}  // namespace orrery
