#include "algorithms/flat_parameters.hpp"

#include <algorithm>

namespace orrery {

FlatParameters::FlatParameters(Rank& rank, Stream& home, const Model& model,
                               const std::vector<int>& blocks, int copied_block,
                               std::int64_t copied, const FlatOptions& options)
    : rank_(rank),
      options_(options),
      sharding_(options.sharding),
      whole_dtype_(model.dtype),
      value_dtype_(options.value_dtype.value_or(model.dtype)),
      copied_(copied),
      places_(model.blocks.size()) {
  parts_ = sharding_.stage > 0 ? rank.size(sharding_.over) : 1;
  if (parts_ > 1) {
    rank.channel(sharding_.over, "parameters");
    index_ = rank.part(sharding_.over);
  } else {
    sharding_ = {};
  }
  if (value_dtype_ != whole_dtype_ && !sharding_.parameters())
    throw Error(Category::config,
                "parameters that are computed with in another type must be divided over two or "
                "more ranks");
  lay_out(model, blocks, copied_block);
  allocate(home);
  if (copied > 0) add_parameters(home, model, copied_block);
  for (const int block : blocks) add_parameters(home, model, block);
  for (const ParameterGroup& group : groups_) zero_padding(home, group);
  if (!options.keeps_optimizer) return;
  optimizer_ = make_optimizer(options.optimizer, rank, home, elements_ / parts_, value_dtype_);
  for (const ParameterGroup& group : groups_)
    optimizer_->take_master(home, value_shard(group), group.shard_begin);
}

// Groups are filled from the last block on, as gradients become ready, and numbered from the first.
void FlatParameters::lay_out(const Model& model, const std::vector<int>& blocks, int copied_block) {
  const auto size = [&](int block) { return model.blocks[at(block)]->parameter_elements(); };
  std::vector<ParameterGroup> reversed;
  Bytes held;
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    const Bytes more = bytes_of(size(*block), options_.gradient_dtype);
    const bool neighbour = !reversed.empty() && reversed.back().first_block == *block + 1;
    if (neighbour && (parts_ == 1 || held + more <= sharding_.group)) {
      reversed.back().first_block = *block;
      held += more;
    } else {
      reversed.push_back({.first_block = *block, .last_block = *block + 1});
      held = more;
    }
  }
  if (copied_ > 0)
    reversed.push_back({.first_block = copied_block, .last_block = copied_block + 1});
  groups_.assign(reversed.rbegin(), reversed.rend());
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    ParameterGroup& group = groups_[g];
    group.begin = elements_;
    group.shard_begin = elements_ / parts_;
    for (int block = group.first_block; block < group.last_block; ++block) {
      const std::int64_t own = copied_ > 0 && g == 0 ? copied_ : size(block);
      places_[at(block)] = {g, elements_, elements_ + own, -1};
      elements_ += own;
    }
    elements_ += (parts_ - (elements_ - group.begin) % parts_) % parts_;
    group.elements = elements_ - group.begin;
    group.shard = group.elements / parts_;
  }
  for (const int block : blocks) {
    const int with = places_[at(block)].shares_with = model.blocks[at(block)]->shares_with();
    if (with >= 0) group_of(with).shared = true;
  }
}

void FlatParameters::allocate(Stream& home) {
  values_ = rank_.allocate(home, Label::parameters,
                           sharding_.parameters() ? elements_ / parts_ : elements_, value_dtype_,
                           {.name = "parameters"});
  gradients_ =
      rank_.allocate(home, Label::gradients, sharding_.gradients() ? elements_ / parts_ : elements_,
                     options_.gradient_dtype, {.name = "gradients"});
  for (ParameterGroup& group : groups_) {
    const std::int64_t end = group.begin + group.elements;
    if (!sharding_.parameters()) group.values = values_.slice(group.begin, end);
    if (!sharding_.gradients()) group.gradients = gradients_.slice(group.begin, end);
  }
}

void FlatParameters::add_parameters(Stream& home, const Model& model, int block) {
  const Place place = places_[at(block)];
  std::int64_t from = place.begin;
  for (std::size_t i = 0; from < place.end; ++i) {
    const ParameterSpec& spec = model.blocks[at(block)]->parameters()[i];
    Parameter p;
    p.name = "block." + std::to_string(block) + "." + spec.name;
    p.begin = from;
    p.elements = spec.elements;
    p.block = block;
    p.decay = spec.decay;
    p.rates = spec.rates;
    p.columns = spec.columns;
    for (const Axis axis : {Axis::tensor, Axis::expert})
      if (!spec.division.divides(axis)) p.replicated = p.replicated | axis;
    from += spec.elements;
    if (!sharding_.parameters()) p.value = values_.slice(p.begin, from);
    if (!sharding_.gradients()) p.gradient = gradients_.slice(p.begin, from);
    initialise(home, spec, p, static_cast<std::uint64_t>(block) * 64 + i);
    parameters_.push_back(std::move(p));
  }
}

void FlatParameters::initialise(Stream& home, const ParameterSpec& spec, const Parameter& p,
                                std::uint64_t number) {
  if (!sharding_.parameters()) return orrery::initialise(rank_, home, spec, number, p.value);
  for_own(p.begin, p.begin + p.elements, [&](std::int64_t from, std::int64_t own, std::int64_t n) {
    orrery::initialise(rank_, home, spec, number, values_at(from, own, n), from - p.begin);
  });
}

void FlatParameters::zero_padding(Stream& home, const ParameterGroup& group) {
  const std::int64_t begin = places_[at(group.last_block - 1)].end;
  const std::int64_t end = group.begin + group.elements;
  const auto write = [&](const Tensor& values) {
    home.launch(rank_.prepare(Kernel::fill(values.elements(), 0, value_dtype_)), {values});
  };
  if (begin == end) return;
  if (!sharding_.parameters()) return write(values_.slice(begin, end));
  for_own(begin, end, [&](std::int64_t from, std::int64_t own, std::int64_t n) {
    write(values_at(from, own, n));
  });
}

template <class F>
void FlatParameters::for_own(std::int64_t begin, std::int64_t end, F f) const {
  for (const ParameterGroup& group : groups_) {
    const std::int64_t mine = group.begin + index_ * group.shard;
    const std::int64_t from = std::max(begin, mine), to = std::min(end, mine + group.shard);
    if (from < to) f(from, group.shard_begin + from - mine, to - from);
  }
}

Tensor FlatParameters::values_at(std::int64_t begin, std::int64_t own,
                                 std::int64_t elements) const {
  const std::int64_t from = sharding_.parameters() ? own : begin;
  return values_.slice(from, from + elements);
}

Tensor FlatParameters::gradients_at(std::int64_t begin, std::int64_t own,
                                    std::int64_t elements) const {
  const std::int64_t from = sharding_.gradients() ? own : begin;
  return gradients_.slice(from, from + elements);
}

Tensor FlatParameters::part_of(int block, Tensor ParameterGroup::*whole) const {
  const Place& place = places_[at(block)];
  const ParameterGroup& group = groups_[place.group];
  return group.*whole ? (group.*whole).slice(place.begin - group.begin, place.end - group.begin)
                      : Tensor();
}

Tensor FlatParameters::value_shard(const ParameterGroup& group) const {
  return values_at(group.begin + index_ * group.shard, group.shard_begin, group.shard);
}

Tensor FlatParameters::gradient_shard(const ParameterGroup& group) const {
  return gradients_at(group.begin + index_ * group.shard, group.shard_begin, group.shard);
}

void FlatParameters::zero_gradients(Stream& stream) {
  if (sharding_.gradients()) return;
  stream.launch(rank_.prepare(Kernel::fill(gradients_.elements(), 0, options_.gradient_dtype)),
                {gradients_});
}

// Of n ranks with the same gradient each adds an n-th of its squares. Shards lie behind each other
// in buffers of their own, and in one whole buffer apart.
void FlatParameters::add_squares(Stream& stream, const Tensor& sum) {
  struct Piece {
    std::int64_t begin = 0, end = 0;
    int ranks = 1;
  };
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < parameters_.size();) {
    const std::int64_t begin = std::max(parameters_[i].begin, copied_);
    const int ranks = rank_.size(parameters_[i].replicated);
    while (i < parameters_.size() && rank_.size(parameters_[i].replicated) == ranks) ++i;
    const std::int64_t end = i < parameters_.size() ? parameters_[i].begin : elements_;
    for_own(begin, end, [&](std::int64_t from, std::int64_t own, std::int64_t n) {
      const std::int64_t at = sharding_.gradients() ? own : from;
      if (!pieces.empty() && pieces.back().end == at && pieces.back().ranks == ranks)
        pieces.back().end += n;
      else
        pieces.push_back({at, at + n, ranks});
    });
  }
  for (const Piece& piece : pieces)
    stream.launch(rank_.prepare(Kernel::sum_squares(piece.end - piece.begin,
                                                    options_.gradient_dtype, 1.0 / piece.ranks)),
                  {gradients_.slice(piece.begin, piece.end), sum});
}

void FlatParameters::update(Stream& stream, std::span<const Parameter> parameters,
                            const Tensor& scale) {
  for_alike(parameters, [&](std::int64_t begin, std::int64_t end, const UpdateRule& rule) {
    for_own(begin, end, [&](std::int64_t from, std::int64_t own, std::int64_t n) {
      optimizer_->update(stream, values_at(from, own, n), gradients_at(from, own, n), own, rule,
                         scale);
    });
  });
}

void FlatParameters::update(Stream& stream, const ParameterGroup& group, const Tensor& scale) {
  const auto behind = [](const Parameter& p, std::int64_t begin) { return p.begin < begin; };
  const auto from = std::lower_bound(parameters_.begin(), parameters_.end(), group.begin, behind);
  const auto to = std::lower_bound(from, parameters_.end(), group.begin + group.elements, behind);
  update(stream, std::span<const Parameter>(from, to), scale);
}

void FlatParameters::weights_changed(Stream& stream, std::int64_t begin, std::int64_t end) {
  const Tensor& from = weights();
  if (from.dtype() == value_dtype_) return;
  stream.launch(rank_.prepare(Kernel::cast(end - begin, from.dtype(), value_dtype_)),
                {from.slice(begin, end), values_.slice(begin, end)});
}

void FlatParameters::visit(Archive& archive) {
  archive.field("parameters", values_);
  if (optimizer_) optimizer_->visit(archive);
}

}  // namespace orrery
