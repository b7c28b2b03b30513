#include "algorithms/models/block.hpp"

#include <algorithm>

namespace orrery {

namespace {

// Elements [begin, end) of a part divided by columns: rows that are whole at once, the first and
// the last one by itself where they are not.
struct ColumnsWriter {
  Rank& rank;
  Stream& stream;
  const ParameterSpec& spec;
  std::uint64_t number;
  const Tensor& values;
  std::int64_t begin, index, width, base;

  void rows(std::int64_t from, std::int64_t to, std::int64_t left, std::int64_t right) const {
    if (from >= to) return;
    std::int64_t at = 0;
    for (const Division::Columns& c : spec.division.columns) {
      const std::int64_t low = std::max(left, at), high = std::min(right, at + c.count);
      if (low < high)
        stream.launch(
            rank.prepare(Kernel::initialise_columns(
                to - from, high - low, width,
                base + from * spec.division.global_columns + c.first + index * c.count + low - at,
                spec.division.global_columns, spec.deviation, rank.seed(), number, values.dtype())),
            {values.slice(from * width + low - begin, (to - 1) * width + high - begin)});
      at += c.count;
    }
  }
};

}  // namespace

void initialise(Rank& rank, Stream& stream, const ParameterSpec& spec, std::uint64_t number,
                const Tensor& values, std::int64_t first) {
  const std::int64_t n = values.elements(), end = first + n;
  if (spec.deviation == 0)
    return stream.launch(rank.prepare(Kernel::fill(n, spec.mean, values.dtype())), {values});
  const Division& d = spec.division;
  const auto place = [&rank](bool divided, Axis axis) {
    return divided && rank.computes_values() ? rank.coordinate(axis) : 0;
  };
  const std::int64_t index = place(d.rows > 0, d.axis);
  const std::int64_t base = d.run * place(d.run > 0, Axis::expert);
  if (d.columns.empty())
    return stream.launch(
        rank.prepare(Kernel::initialise(n, base + index * spec.elements + first, spec.deviation,
                                        rank.seed(), number, values.dtype())),
        {values});
  const std::int64_t width = spec.elements / d.rows, row = first / width, last = (end - 1) / width;
  const ColumnsWriter write{rank, stream, spec, number, values, first, index, width, base};
  if (row == last) return write.rows(row, row + 1, first - row * width, end - row * width);
  const std::int64_t whole = first == row * width ? row : row + 1;
  const std::int64_t behind = end == (last + 1) * width ? last + 1 : last;
  write.rows(row, whole, first - row * width, width);
  write.rows(whole, behind, 0, width);
  write.rows(behind, last + 1, 0, end - last * width);
}

namespace {
std::int64_t elements_of(const std::vector<ParameterSpec>& specs) {
  std::int64_t total = 0;
  for (const ParameterSpec& p : specs) total += p.elements;
  return total;
}
}  // namespace

std::int64_t Block::parameter_elements() const { return elements_of(parameters_); }
std::int64_t Block::state_elements() const { return elements_of(state_); }

Kernel Model::batch_kernel(std::uint64_t seed, std::shared_ptr<const std::string> data,
                           std::int64_t stride) const {
  if (picture > 0)
    return Kernel::picture_batch(micro_batch, picture, seed, std::move(data), dtype, stride > 0);
  return Kernel::text_batch(micro_batch, tokens_per_sample, seed, std::move(data),
                            targets_per_sample, stride, part);
}

std::int64_t Model::parameter_elements() const {
  std::int64_t total = 0;
  for (const auto& block : blocks) total += block->parameter_elements();
  return total;
}

Flops Model::flops_per_micro_batch() const {
  Flops total{0};
  for (const auto& block : blocks) total += block->forward_flops() + block->backward_flops();
  return total;
}

}  // namespace orrery
