#include "calibration/device_operands.hpp"

#include <algorithm>

#include "calibration/kernel_points.hpp"

namespace orrery {

namespace {

constexpr std::int64_t most_places = 16, alignment = 256;  // bytes

std::int64_t rounded(std::int64_t elements, Dtype dtype) {
  const std::int64_t unit = alignment / size_of(dtype);
  return (elements + unit - 1) / unit * unit;
}

bool computes(Dtype dtype) {
  return dtype == Dtype::fp32 || dtype == Dtype::bf16 || dtype == Dtype::fp16;
}

void fill(Rank& rank, Stream& home, const Tensor& tensor) {
  const std::int64_t n = tensor.elements();
  const auto number = static_cast<std::uint64_t>(n);
  if (computes(tensor.dtype())) {
    home.launch(rank.prepare(Kernel::initialise(n, 0, 0.5, 1, number, tensor.dtype())), {tensor});
  } else if (rank.computes_values()) {
    std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes().value));
    if (tensor.dtype() == Dtype::fp64) {
      const std::vector<double> ones(static_cast<std::size_t>(n), 1);
      const auto from = std::as_bytes(std::span(ones));
      std::copy(from.begin(), from.end(), bytes.begin());
    }
    rank.write_bytes(tensor, bytes);
  }
}

}  // namespace

PlacedOperands::PlacedOperands(Rank& rank, Stream& home, const Kernel& kernel, Bytes memory)
    : kernel_(kernel) {
  const auto operands = operands_of(kernel);
  Bytes once{0};
  for (const auto& [elements, dtype] : operands) once += bytes_of(rounded(elements, dtype), dtype);
  places_ = std::clamp(memory.value / std::max<std::int64_t>(once.value, 1), std::int64_t{1},
                       most_places);
  for (const auto& [elements, dtype] : operands) {
    parts_.push_back({-1, elements, rounded(elements, dtype)});
    if (elements == 0) continue;
    parts_.back().slot = static_cast<int>(tensors_.size());
    tensors_.push_back(
        rank.allocate(home, Label::workspace, places_ * parts_.back().stride, dtype));
    fill(rank, home, tensors_.back());
    bound_.emplace_back(tensors_.back());
  }
}

void PlacedOperands::declare(Sequence& sequence) const {
  for (std::size_t i = 0; i < tensors_.size(); ++i) sequence.slot("operand " + std::to_string(i));
}

std::vector<SlotView> PlacedOperands::views(int call) const {
  std::vector<SlotView> views;
  for (const Part& part : parts_)
    views.push_back({part.slot, part.slot < 0 ? 0 : call % places_ * part.stride, part.elements});
  return views;
}

}  // namespace orrery
