// The parameters of one rank's part of a model as flat buffers: their layout, initial values,
// gradients and optimizer state, and how these are divided over the ranks of a sharding.
//
// Values, gradients and each optimizer state are one tensor each; parameters and blocks are ranges
// of them. Whole, neighbouring blocks form groups. Under a sharding of n ranks each group is padded
// with zeros to a multiple of n elements, and rank i owns its i-th n-th: at most n - 1 elements per
// group are padding. Padding has gradient zero, stays zero and adds nothing to a norm.
//
// Experts that e of the n ranks divide already are the same on n / e ranks only, which divide them
// among each other. A block with such experts is a group of two parts: all else, padded in front,
// and the experts, padded behind, so that the block's own parameters lie side by side.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "algorithms/models/block.hpp"
#include "algorithms/models/pass_program.hpp"
#include "algorithms/optimizers/optimizer.hpp"
#include "algorithms/unit.hpp"

namespace orrery {

// What is divided, the stages of ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054, section 5): 1 the
// optimizer state, 2 the gradients too, 3 the parameters too. What is divided but not asked for
// here is whole on every rank.
struct Sharding {
  int stage = 0;   // 0: nothing is divided
  Axes over{};     // the ranks that divide it; of one rank: nothing is divided
  Bytes group{0};  // groups hold as many gradients as fit, from the last block on; 0: one block
  bool narrow = false;  // parameters are gathered in 8 bits (narrow_gather.hpp)
  bool gradients() const { return stage >= 2; }
  bool parameters() const { return stage >= 3; }
  // The ranks that divide what ranks of the expert axis hold alike, or the experts.
  Axes over_for(bool experts) const;
};

// Neighbouring parameters that the same ranks divide.
struct DividedPart {
  bool experts = false;                     // whom Sharding::over_for says who divides
  std::int64_t begin = 0, elements = 0;     // in the flat buffers, with padding
  std::int64_t shard_begin = 0, shard = 0;  // of what one rank owns, in buffers of shards

  std::size_t kind() const { return experts ? 1 : 0; }
};

// Blocks whose parameters are gathered and whose gradients are reduced at once. A whole that is
// divided comes and goes by the hands of the algorithm that divides it.
struct ParameterGroup {
  int first_block = 0, last_block = 0;   // [first, last), global numbers
  std::int64_t begin = 0, elements = 0;  // in the flat buffers, with padding
  std::vector<DividedPart> parts{};      // one, or two where experts are apart
  Tensor values{}, gradients{};          // whole; empty while not here
  bool shared = false;  // a block outside uses some of its parameters (a tied embedding)
};
inline Tensor part_of(const Tensor& whole, const ParameterGroup& group, const DividedPart& part) {
  return whole.slice(part.begin - group.begin, part.begin - group.begin + part.elements);
}

// Consecutive elements of the flat buffers, and where in the weights that a rank steps they lie.
struct OwnedRange {
  bool experts = false;  // of a part of experts
  std::int64_t begin = 0, own = 0, elements = 0;
};

struct FlatOptions {
  Dtype gradient_dtype = Dtype::fp32;
  std::optional<Dtype> value_dtype{};  // of shards of parameters; absent: the model's
  OptimizerOptions optimizer{};
  Sharding sharding{};
  bool keeps_optimizer = true;  // false: somebody else does
};

class FlatParameters {
 public:
  // Allocates on `home` and writes the initial values, which depend on the seed and the global
  // number of each parameter and element only. `blocks`: global numbers, ascending. The first
  // `copied` parameter elements of block `copied_block`, which another pipeline stage owns, come
  // before all others and count in no norm here.
  FlatParameters(Rank& rank, Stream& home, const Model& model, const std::vector<int>& blocks,
                 int copied_block, std::int64_t copied, const FlatOptions& options);

  const Sharding& sharding() const { return sharding_; }
  // Ranks that a part is divided over; of experts 1 where no ranks divide them.
  int ranks(bool experts) const { return owners_[experts ? 1 : 0].ranks; }
  int index(bool experts) const {
    return owners_[experts ? 1 : 0].index;
  }  // this rank's among them
  Dtype whole_dtype() const { return whole_dtype_; }
  Dtype gradient_dtype() const { return options_.gradient_dtype; }

  std::span<Parameter> parameters() { return parameters_; }
  std::span<const Parameter> parameters() const { return parameters_; }
  std::vector<ParameterGroup>& groups() { return groups_; }
  ParameterGroup& group_of(int block) { return groups_[places_[at(block)].group]; }
  // Calls f for the group of a block, and for the one that it shares parameters of.
  template <class F>
  void for_used(int block, F f) {
    f(group_of(block));
    const int with = places_[at(block)].shares_with;
    if (with >= 0) f(group_of(with));
  }
  // Of a block: empty while its group's whole is not here.
  Tensor values(int block) const { return own_of(block, &ParameterGroup::values); }
  Tensor gradients(int block) const { return own_of(block, &ParameterGroup::gradients); }
  Tensor values(int block, const Tensor& version) const {  // of a copy of all values
    return version.slice(places_[at(block)].begin, places_[at(block)].end);
  }
  // What this rank owns of a part: a slice of the whole buffer, or of the shards.
  Tensor value_shard(const DividedPart& part) const;
  Tensor gradient_shard(const DividedPart& part) const;
  // The flat buffer of all parameters, or of this rank's shards.
  const Tensor& all_values() const { return values_; }
  // The same in fp32: the optimizer's master copy where the parameters are narrower.
  const Tensor& weights() const {
    return optimizer_ && optimizer_->master() ? optimizer_->master() : values_;
  }
  // Whether `weights` are this rank's shards alone. They are not where a whole fp32 buffer is both
  // what is computed with and what is stepped.
  bool owns_weights() const { return divided() && weights().elements() == own_elements_; }
  // What of the flat buffers `weights` are, ascending: of this rank, or of the ranks whose place
  // among those that divide a part is `index`, modulo their number.
  std::vector<OwnedRange> owned(std::optional<int> index = {}) const;
  // Weights [begin, end) were changed: rounds them to the parameters' type, where that is narrower.
  void weights_changed(Stream& stream, std::int64_t begin, std::int64_t end);
  // The flat buffer of all gradients, where they are not divided.
  const Tensor& all_gradients() const { return gradients_; }

  // Where they are not divided. Those that the backward writes are left alone.
  void zero_gradients(Stream& stream);
  // sum += the squares of the gradients that this rank owns.
  void add_squares(Stream& stream, const Tensor& sum);
  Optimizer& optimizer() { return *optimizer_; }
  void begin_update(Stream& stream) { optimizer_->begin_step(stream); }  // counts the step
  // Updates what this rank owns of consecutive parameters, of a group.
  void update(Stream& stream, std::span<const Parameter> parameters, const Tensor& scale);
  void update(Stream& stream, const ParameterGroup& group, const Tensor& scale);
  void visit(Archive& archive);

 private:
  struct Place {
    std::size_t group = 0;
    std::int64_t begin = 0, end = 0;
    int shares_with = -1;
  };
  // Who divides a part.
  struct Owners {
    int ranks = 1, index = 0;
  };
  static std::size_t at(int block) { return static_cast<std::size_t>(block); }
  Tensor own_of(int block, Tensor ParameterGroup::*whole) const;
  const Owners& owners(const DividedPart& part) const { return owners_[part.kind()]; }
  std::int64_t first_own(const DividedPart& part) const {
    return part.begin + owners(part).index * part.shard;
  }
  bool divided() const { return sharding_.stage > 0; }
  void find_owners();
  // Elements of experts that ranks of the expert axis divide, which are the last of a block.
  std::int64_t divided_experts(const Block& block) const;
  void lay_out(const Model& model, const std::vector<int>& blocks, int copied_block);
  void gather_groups(const Model& model, const std::vector<int>& blocks, int copied_block);
  void add_part(ParameterGroup& group, bool experts, std::int64_t elements);
  void allocate(Stream& home);
  void add_parameters(Stream& home, const Model& model, int block);
  void initialise(Stream& home, const ParameterSpec& spec, const Parameter& parameter,
                  std::uint64_t number);
  void plan_zeroing();
  void zero_padding(Stream& home, std::int64_t begin, std::int64_t end);
  Tensor values_at(std::int64_t begin, std::int64_t own, std::int64_t elements) const;
  Tensor gradients_at(std::int64_t begin, std::int64_t own, std::int64_t elements) const;
  // Calls f(begin, own, elements) for each piece of the flat range [begin, end) that this rank
  // owns; `own` is its place in buffers of shards.
  template <class F>
  void for_own(std::int64_t begin, std::int64_t end, F f) const;

  Rank& rank_;
  FlatOptions options_;
  Sharding sharding_;
  std::array<Owners, 2> owners_{};  // of all but experts, of experts
  Dtype whole_dtype_, value_dtype_;
  std::int64_t copied_ = 0, elements_ = 0, own_elements_ = 0;
  std::vector<Parameter> parameters_;
  std::vector<ParameterGroup> groups_;
  std::vector<Place> places_;  // by global number of the block
  Tensor values_, gradients_;  // whole, or this rank's shards
  std::unique_ptr<Optimizer> optimizer_;
  PassProgram zeroing_;  // where some gradients are written: of the others
};

}  // namespace orrery
