#include "algorithms/optimizers/optimizer_spec.hpp"

#include <fmt/format.h>

namespace orrery {

void describe(Fields<OptimizerSpec>& f) {
  f.field("name", &OptimizerSpec::name).one_of({"sgd", "momentum", "adamw"});
  f.field("lr", &OptimizerSpec::lr).at_least(0).doc("learning rate");
  f.field("weight_decay", &OptimizerSpec::weight_decay).at_least(0);
  f.field("momentum", &OptimizerSpec::momentum).between(0, 1).doc("of momentum; default 0.9");
  f.field("nesterov", &OptimizerSpec::nesterov).doc("of momentum; default false");
  f.field("beta1", &OptimizerSpec::beta1).between(0, 1).doc("of adamw; default 0.9");
  f.field("beta2", &OptimizerSpec::beta2).between(0, 1).doc("of adamw; default 0.999");
  f.field("epsilon", &OptimizerSpec::epsilon).positive().doc("of adamw; default 1e-8");
  f.field("warmup", &OptimizerSpec::warmup)
      .at_least(0)
      .doc("updates over which the learning rate rises in a line");
  f.field("cosine", &OptimizerSpec::cosine)
      .at_least(1)
      .doc(
          "updates, warmup included, until the learning rate has fallen to 0 along a cosine; "
          "absent: it stays");
  f.check([](const OptimizerSpec& o, const SectionProblems& p) {
    const auto only = [&](const char* key, bool given, const char* owner) {
      if (given && o.name != owner)
        p.add(key, fmt::format("{} has no {}", o.name, key),
              fmt::format("it belongs to {}", owner));
    };
    only("momentum", o.momentum.has_value(), "momentum");
    only("nesterov", o.nesterov.has_value(), "momentum");
    only("beta1", o.beta1.has_value(), "adamw");
    only("beta2", o.beta2.has_value(), "adamw");
    only("epsilon", o.epsilon.has_value(), "adamw");
    if (o.cosine && *o.cosine <= o.warmup)
      p.add("cosine", "the learning rate falls after it has risen", "use more than warmup");
  });
}

OptimizerOptions OptimizerSpec::options() const {
  const OptimizerOptions defaults;
  return {.name = name,
          .lr = lr,
          .momentum = momentum.value_or(defaults.momentum),
          .beta1 = beta1.value_or(defaults.beta1),
          .beta2 = beta2.value_or(defaults.beta2),
          .epsilon = epsilon.value_or(defaults.epsilon),
          .weight_decay = weight_decay,
          .nesterov = nesterov.value_or(false),
          .warmup = warmup,
          .cosine = cosine.value_or(0)};
}

}  // namespace orrery
