#include "algorithms/optimizers/optimizer.hpp"

#include <cmath>
#include <numbers>

namespace orrery {

double schedule_multiplier(const OptimizerOptions& options, std::int64_t t) {
  if (t <= options.warmup) return static_cast<double>(t) / static_cast<double>(options.warmup);
  if (options.cosine == 0) return 1;
  const double done = static_cast<double>(t - options.warmup) /
                      static_cast<double>(options.cosine - options.warmup);
  return done >= 1 ? 0 : (1 + std::cos(std::numbers::pi * done)) / 2;
}

Optimizer::Optimizer(const OptimizerOptions& options, Rank& rank, Stream& home,
                     std::int64_t elements, Dtype dtype)
    : options_(options),
      rank_(rank),
      home_(home),
      elements_(elements),
      dtype_(dtype),
      step_(rank.allocate(home, Label::optimizer, 2, Dtype::fp64,
                          {.values = Values::always, .name = "optimizer.step"})) {
  if (size_of(dtype) < 4)
    master_ =
        rank.allocate(home, Label::optimizer, elements, Dtype::fp32, {.name = "optimizer.master"});
}

Tensor Optimizer::state(const char* name) {
  const std::string full_name = std::string("optimizer.") + name;
  Tensor zeros =
      rank_.allocate(home_, Label::optimizer, elements_, options_.moments, {.name = full_name});
  home_.launch(rank_.prepare(Kernel::fill(elements_, 0, options_.moments)), {zeros});
  states_.emplace_back(name, zeros);
  return zeros;
}

Tensor Optimizer::part(const Tensor& whole, std::int64_t begin, std::int64_t size) const {
  return whole ? whole.slice(begin, begin + size) : Tensor();
}

void Optimizer::begin_step(Stream& stream) {
  ++steps_;
  stream.upload(step_, {static_cast<double>(steps_), schedule_multiplier(options_, steps_)});
}

void Optimizer::take_master(Stream& stream, const Tensor& values, std::int64_t begin) {
  const std::int64_t n = values.elements();
  if (master_)
    stream.launch(rank_.prepare(Kernel::cast(n, dtype_, Dtype::fp32)),
                  {values, part(master_, begin, n)});
}

Tensor Optimizer::state_of(std::string_view name) const {
  for (const auto& [each, tensor] : states_)
    if (each == name) return tensor;
  return {};
}

void Optimizer::visit(Archive& archive) {
  const Archive::Scope scope(archive, "optimizer");
  archive.field("steps", steps_);
  if (master_) archive.field("master", master_);
  for (auto& [name, tensor] : states_) archive.field(name, tensor);
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerOptions& options, Rank& rank, Stream& home,
                                          std::int64_t elements, Dtype dtype) {
  if (options.name == "adamw") return make_adamw(options, rank, home, elements, dtype);
  if (options.name == "sgd" || options.name == "momentum")
    return make_sgd(options, rank, home, elements, dtype);
  throw Error(Category::config, "unknown optimizer '" + options.name + "'");
}

}  // namespace orrery
