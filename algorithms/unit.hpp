// What sharding and synchronisation act on: units of work, parameters, buckets and hooks.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "algorithms/models/parametrisation.hpp"
#include "backend/axes.hpp"
#include "backend/tensor.hpp"

namespace orrery {

// One block's part of a pass over one micro-batch. `next` is the unit of the pass with parameters
// that follows in issue order, null at the end of the step.
struct Unit {
  int chunk = 0;  // of the pipeline stage's device
  int block = 0;  // global number
  int micro_batch = 0;
  bool last_micro_batch = false;  // of this block in this step
  const Unit* next = nullptr;
};

// backward_weight: where a pipeline schedule divides the backward, the gradients of the parameters,
// some time after Pass::backward. It adds to the gradients and reads no parameters.
enum class Pass : std::uint8_t { forward, recompute, backward, backward_weight };

// One parameter of this rank. `replicated`: the axes over which it is the same on every rank, so
// that norms count it once.
struct Parameter {
  std::string_view name;                 // within its block, which keeps it: "weight"
  std::int64_t begin = 0, elements = 0;  // place in the replica's flat buffers, whole
  int block = 0;
  bool decay = true;
  std::int64_t columns = 0;  // of a matrix, stored by rows; 0: not a matrix
  Axes replicated;
  // Whose ranks have different rows of it as a matrix, or different columns; as a vector, `rows`.
  Axes rows_over, columns_over;
  RateFactors rates{};
  bool written = false, product = false;  // as in ParameterSpec
};

// What an optimizer has to know of a parameter.
struct UpdateRule {
  bool decay = false;  // subject to weight decay
  RateFactors rates{};
  bool operator==(const UpdateRule&) const = default;
};
inline UpdateRule rule_of(const Parameter& p) { return {p.decay, p.rates}; }

// Calls f(begin, end, rule) for runs of neighbouring parameters that are updated alike.
template <class F>
void for_alike(std::span<const Parameter> parameters, F f) {
  for (std::size_t i = 0; i < parameters.size();) {
    const std::int64_t begin = parameters[i].begin;
    const UpdateRule rule = rule_of(parameters[i]);
    std::int64_t end = begin;
    for (; i < parameters.size() && parameters[i].begin == end && rule_of(parameters[i]) == rule;
         ++i)
      end += parameters[i].elements;
    f(begin, end, rule);
  }
}

// Neighbouring parameters whose gradients are reduced together: a slice of the flat gradient
// buffer.
struct Bucket {
  Tensor gradients;
  int first_block = 0;  // complete when the backward of this block is
  std::vector<std::size_t> parameters;
  Axes over;  // whose ranks hold the same parameters, among the gradient axes
};

// Hooks through which parameters are sharded and gradients synchronised. Called while a pass is
// issued, not while it runs.
class ShardingHooks {
 public:
  virtual ~ShardingHooks() = default;
  virtual void before(const Unit&, Pass) {}
  virtual void after(const Unit&, Pass) {}
  // The backward of a unit is issued, with the gradients of its parameters.
  virtual void gradients_accumulated(const Unit&) {}
  // Likewise, and it was the last micro-batch of the step. Units get ready in reverse order of
  // their parameters (Replica::parameters), whatever the pipeline schedule; `next` is null. A unit
  // whose parameters another pipeline stage uses too is ready once all parts of its gradient are
  // added, on all its stages.
  virtual void gradients_ready(const Unit&) {}
};

}  // namespace orrery
