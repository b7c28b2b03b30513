#include "algorithms/flat_parameters.hpp"

#include <algorithm>

#include "backend/core/sha256.hpp"

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
  find_owners();
  if (value_dtype_ != whole_dtype_ && !sharding_.parameters())
    throw Error(Category::config,
                "parameters that are computed with in another type must be divided over two or "
                "more ranks");
  lay_out(model, blocks, copied_block);
  allocate(home);
  std::size_t most = 0;  // of a copied block only the first are here
  if (copied > 0) most += model.blocks[at(copied_block)]->parameters().size();
  for (const int block : blocks) most += model.blocks[at(block)]->parameters().size();
  parameters_.reserve(most);
  if (copied > 0) add_parameters(home, model, copied_block);
  for (const int block : blocks) add_parameters(home, model, block);
  for (const ParameterGroup& group : groups_) {
    zero_padding(home, group.begin, places_[at(group.first_block)].begin);
    zero_padding(home, places_[at(group.last_block - 1)].end, group.begin + group.elements);
  }
  if (!sharding_.gradients()) plan_zeroing();
  if (!options.keeps_optimizer) return;
  optimizer_ = make_optimizer(options.optimizer, rank, home, own_elements_, value_dtype_);
  for (const ParameterGroup& group : groups_)
    for (const DividedPart& part : group.parts)
      optimizer_->take_master(home, value_shard(part), part.shard_begin);
}

Axes Sharding::over_for(bool experts) const {
  Axes same;
  for (const Axis axis : {Axis::context, Axis::shard, Axis::replicate})
    if (over.contains(axis)) same = same | axis;
  return experts ? same : over;
}

void FlatParameters::find_owners() {
  if (sharding_.stage == 0 || rank_.size(sharding_.over) == 1) {
    sharding_ = {};
    return;
  }
  for (const bool experts : {false, true}) {
    const Axes over = sharding_.over_for(experts);
    if ((experts && rank_.size(Axis::expert) == 1) || rank_.size(over) == 1) continue;
    rank_.channel(over, experts ? "expert parameters" : "parameters");
    owners_[experts ? 1 : 0] = {rank_.size(over), rank_.part(over)};
  }
}

std::int64_t FlatParameters::divided_experts(const Block& block) const {
  std::int64_t elements = 0;
  if (!divided() || rank_.size(Axis::expert) == 1) return 0;
  for (const ParameterSpec& spec : block.parameters()) {
    if (spec.division.divides(Axis::expert))
      elements += spec.elements;
    else if (elements > 0)
      throw Error(Category::invalid_program, "a block's experts are its last parameters");
  }
  return elements;
}

// Groups are filled from the last block on, as gradients become ready, and numbered from the first.
void FlatParameters::gather_groups(const Model& model, const std::vector<int>& blocks,
                                   int copied_block) {
  std::vector<ParameterGroup> reversed;
  Bytes held;
  bool alone = false;  // the last group takes no other block
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    const Block& its = *model.blocks[at(*block)];
    const Bytes more = bytes_of(its.parameter_elements(), options_.gradient_dtype);
    const bool neighbour = !reversed.empty() && reversed.back().first_block == *block + 1;
    const bool apart = divided_experts(its) > 0;
    const bool fits = !divided() || (!alone && !apart && held + more <= sharding_.group);
    if (neighbour && fits) {
      reversed.back().first_block = *block;
      held += more;
    } else {
      reversed.push_back({.first_block = *block, .last_block = *block + 1});
      held = more;
    }
    alone = apart;
  }
  if (copied_ > 0)
    reversed.push_back({.first_block = copied_block, .last_block = copied_block + 1});
  groups_.assign(reversed.rbegin(), reversed.rend());
}

void FlatParameters::add_part(ParameterGroup& group, bool experts, std::int64_t elements) {
  const std::int64_t n = ranks(experts), shard = (elements + n - 1) / n;
  group.parts.push_back({experts, elements_, n * shard, own_elements_, shard});
  elements_ += n * shard;
  own_elements_ += shard;
}

void FlatParameters::lay_out(const Model& model, const std::vector<int>& blocks, int copied_block) {
  gather_groups(model, blocks, copied_block);
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    ParameterGroup& group = groups_[g];
    group.begin = elements_;
    std::int64_t all = 0, experts = 0;
    for (int block = group.first_block; block < group.last_block; ++block) {
      const bool copy = copied_ > 0 && g == 0;
      const std::int64_t own = copy ? copied_ : model.blocks[at(block)]->parameter_elements();
      places_[at(block)] = {g, group.begin + all, group.begin + all + own, -1};
      all += own;
      if (!copy) experts += divided_experts(*model.blocks[at(block)]);
    }
    add_part(group, false, all - experts);
    if (experts > 0) {
      Place& place = places_[at(group.first_block)];
      const std::int64_t padding = group.parts[0].elements - (all - experts);
      place.begin += padding;
      place.end += padding;
      add_part(group, true, experts);
    }
    group.elements = elements_ - group.begin;
  }
  for (const int block : blocks) {
    const int with = places_[at(block)].shares_with = model.blocks[at(block)]->shares_with();
    if (with >= 0) group_of(with).shared = true;
  }
}

void FlatParameters::allocate(Stream& home) {
  values_ =
      rank_.allocate(home, Label::parameters, sharding_.parameters() ? own_elements_ : elements_,
                     value_dtype_, {.name = "parameters"});
  gradients_ =
      rank_.allocate(home, Label::gradients, sharding_.gradients() ? own_elements_ : elements_,
                     options_.gradient_dtype, {.name = "gradients"});
  for (ParameterGroup& group : groups_) {
    const std::int64_t end = group.begin + group.elements;
    if (!sharding_.parameters()) group.values = values_.slice(group.begin, end);
    if (!sharding_.gradients()) group.gradients = gradients_.slice(group.begin, end);
  }
}

namespace {
// Of a row of several matrices' columns the whole is divided by rows.
void tell_division(const ParameterSpec& spec, Parameter& p) {
  const Division& d = spec.division;
  if (d.run > 0) p.rows_over = Axis::expert;
  if (d.rows == 0) return;
  const bool by_columns =
      spec.columns > 1 && !d.columns.empty() && spec.elements / d.rows == spec.columns;
  Axes& over = by_columns ? p.columns_over : p.rows_over;
  over = over | d.axis;
}
}  // namespace

void FlatParameters::add_parameters(Stream& home, const Model& model, int block) {
  const Place place = places_[at(block)];
  std::int64_t from = place.begin;
  for (std::size_t i = 0; from < place.end; ++i) {
    const ParameterSpec& spec = model.blocks[at(block)]->parameters()[i];
    Parameter p;
    p.name = spec.name;
    p.begin = from;
    p.elements = spec.elements;
    p.block = block;
    p.decay = spec.decay;
    p.rates = spec.rates;
    p.written = spec.written;
    p.product = spec.product;
    p.columns = spec.columns;
    for (const Axis axis : {Axis::tensor, Axis::expert})
      if (!spec.division.divides(axis) && !sharding_.over.contains(axis))
        p.replicated = p.replicated | axis;
    tell_division(spec, p);
    from += spec.elements;
    initialise(home, spec, p, static_cast<std::uint64_t>(block) * 64 + i);
    parameters_.push_back(p);
  }
}

void FlatParameters::initialise(Stream& home, const ParameterSpec& spec, const Parameter& p,
                                std::uint64_t number) {
  const std::int64_t end = p.begin + p.elements;
  if (!sharding_.parameters())
    return orrery::initialise(rank_, home, spec, number, values_.slice(p.begin, end));
  for_own(p.begin, end, [&](std::int64_t from, std::int64_t own, std::int64_t n) {
    orrery::initialise(rank_, home, spec, number, values_at(from, own, n), from - p.begin);
  });
}

void FlatParameters::zero_padding(Stream& home, std::int64_t begin, std::int64_t end) {
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
  for (const ParameterGroup& group : groups_)
    for (const DividedPart& part : group.parts) {
      const std::int64_t mine = first_own(part);
      const std::int64_t from = std::max(begin, mine), to = std::min(end, mine + part.shard);
      if (from < to) f(from, part.shard_begin + from - mine, to - from);
    }
}

std::vector<OwnedRange> FlatParameters::owned(std::optional<int> index) const {
  if (!owns_weights()) return {{false, 0, 0, elements_}};
  std::vector<OwnedRange> ranges;
  for (const ParameterGroup& group : groups_)
    for (const DividedPart& part : group.parts) {
      const Owners& of = owners(part);
      const std::int64_t owner = index ? *index % of.ranks : of.index;
      ranges.push_back(
          {part.experts, part.begin + owner * part.shard, part.shard_begin, part.shard});
    }
  return ranges;
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

Tensor FlatParameters::own_of(int block, Tensor ParameterGroup::*whole) const {
  const Place& place = places_[at(block)];
  const ParameterGroup& group = groups_[place.group];
  return group.*whole ? (group.*whole).slice(place.begin - group.begin, place.end - group.begin)
                      : Tensor();
}

Tensor FlatParameters::value_shard(const DividedPart& part) const {
  return values_at(first_own(part), part.shard_begin, part.shard);
}

Tensor FlatParameters::gradient_shard(const DividedPart& part) const {
  return gradients_at(first_own(part), part.shard_begin, part.shard);
}

// What lies between gradients that are written, in one operation however many ranges that are. Its
// key is shown in tables of times, so the ranges are in it as a fingerprint.
void FlatParameters::plan_zeroing() {
  if (std::none_of(parameters_.begin(), parameters_.end(), [](const auto& p) { return p.written; }))
    return;
  const int gradients = zeroing_.tensor("gradients");
  std::string ranges;
  const auto zero = [&](std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    zeroing_.add(rank_.prepare(Kernel::fill(end - begin, 0, options_.gradient_dtype)),
                 {{gradients, begin, end - begin}});
    ranges += std::to_string(begin) + "-" + std::to_string(end) + " ";
  };
  std::int64_t from = 0;
  for (const Parameter& p : parameters_) {
    if (!p.written) continue;
    zero(from, p.begin);
    from = p.begin + p.elements;
  }
  zero(from, elements_);
  zeroing_.build(rank_, std::string("zero_gradients ") + name(options_.gradient_dtype) + " " +
                            sha256_hex(ranges).substr(0, 12));
}

void FlatParameters::zero_gradients(Stream& stream) {
  if (sharding_.gradients()) return;
  if (zeroing_.built()) return zeroing_.run(stream, {gradients_});
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
  const auto round = [&](std::int64_t own, std::int64_t at, std::int64_t n) {
    stream.launch(rank_.prepare(Kernel::cast(n, from.dtype(), value_dtype_)),
                  {from.slice(own, own + n), values_.slice(at, at + n)});
  };
  if (!divided() || sharding_.parameters()) return round(begin, begin, end - begin);
  for (const ParameterGroup& group : groups_)
    for (const DividedPart& part : group.parts) {
      const std::int64_t own = std::max(begin, part.shard_begin);
      const std::int64_t n = std::min(end, part.shard_begin + part.shard) - own;
      if (n > 0) round(own, first_own(part) + own - part.shard_begin, n);
    }
}

void FlatParameters::visit(Archive& archive) {
  archive.field("parameters", values_);
  if (optimizer_) optimizer_->visit(archive);
}

}  // namespace orrery
