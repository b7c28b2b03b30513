#include "calibration/device_operands.hpp"

#include <algorithm>
#include <cstring>

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

bool written(const Kernel& kernel, std::size_t operand) {
  return role_of(kernel.roles, operand) != Role::read;
}

std::int64_t places_of(const Kernel& kernel, Bytes memory) {
  Bytes once{0};
  for (const auto& [elements, dtype] : operands_of(kernel))
    once += bytes_of(rounded(elements, dtype), dtype);
  return std::clamp(memory.value / std::max<std::int64_t>(once.value, 1), std::int64_t{1},
                    most_places);
}

// Where each operand lies at the first place, and what all take of each buffer.
using Lengths = std::map<std::pair<Dtype, bool>, std::int64_t>;
Lengths lengths_of(const Kernel& kernel) {
  Lengths lengths;
  const auto operands = operands_of(kernel);
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto& [elements, dtype] = operands[i];
    if (elements > 0 && computes(dtype))
      lengths[{dtype, written(kernel, i)}] += rounded(elements, dtype);
  }
  return lengths;
}

// Of the kernels that read tokens, and of no others.
std::int64_t tokens_of(const Kernel& kernel) {
  return kernel.op == Op::cross_entropy ? kernel.dims[1] : kernel.dims[2];
}

void fill_own(Rank& rank, const Tensor& tensor, std::int64_t vocabulary) {
  if (!rank.computes_values()) return;
  const auto n = static_cast<std::size_t>(tensor.elements());
  std::vector<std::byte> bytes(static_cast<std::size_t>(tensor.bytes().value));
  const auto put = [&](auto value_of) {
    for (std::size_t i = 0; i < n; ++i) {
      const auto value = value_of(i);
      std::memcpy(bytes.data() + i * sizeof value, &value, sizeof value);
    }
  };
  if (tensor.dtype() == Dtype::int32)
    put([&](std::size_t i) {  // Knuth's multiplicative hash, as a fraction of the vocabulary
      const std::uint64_t hash = static_cast<std::uint32_t>(i) * 2654435761U;
      return static_cast<std::int32_t>(hash * static_cast<std::uint64_t>(vocabulary) >> 32);
    });
  else
    put([](std::size_t) { return 1.0; });
  rank.write_bytes(tensor, bytes);
}

}  // namespace

OperandMemory::OperandMemory(Rank& rank, Stream& home, const std::vector<KernelPoint>& points,
                             Bytes memory)
    : rank_(rank), home_(home), memory_(memory) {
  Lengths most;
  for (const KernelPoint& point : points)
    for (const auto& [which, length] : lengths_of(point.kernel))
      most[which] = std::max(most[which], length * places_of(point.kernel, memory));
  std::uint64_t number = 0;
  for (const auto& [which, length] : most) {
    const Tensor tensor = rank.allocate(home, Label::workspace, length, which.first);
    home.launch(rank.prepare(Kernel::initialise(length, 0, 0.5, 1, ++number, which.first)),
                {tensor});
    buffers_.emplace(which, tensor);
  }
}

PlacedOperands::PlacedOperands(const OperandMemory& memory, const Kernel& kernel)
    : kernel_(kernel), places_(places_of(kernel, memory.memory())) {
  std::map<std::pair<Dtype, bool>, int> slots;
  Lengths used;
  const Lengths strides = lengths_of(kernel);
  const auto operands = operands_of(kernel);
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const auto& [elements, dtype] = operands[i];
    Part& part = parts_.emplace_back();
    if (elements == 0) continue;
    const std::pair which{dtype, written(kernel, i)};
    part.elements = elements;
    if (computes(dtype)) {
      const auto [slot, fresh] = slots.emplace(which, static_cast<int>(bound_.size()));
      if (fresh) bound_.emplace_back(memory.buffer(dtype, which.second));
      part.slot = slot->second;
      part.first = used[which];
      part.stride = strides.at(which);
      used[which] += rounded(elements, dtype);
    } else {
      part.slot = static_cast<int>(bound_.size());
      part.stride = rounded(elements, dtype);
      own_.push_back(
          memory.rank().allocate(memory.home(), Label::workspace, places_ * part.stride, dtype));
      fill_own(memory.rank(), own_.back(), tokens_of(kernel));
      bound_.emplace_back(own_.back());
    }
  }
}

void PlacedOperands::declare(Sequence& sequence) const {
  for (std::size_t i = 0; i < bound_.size(); ++i) sequence.slot("operand " + std::to_string(i));
}

std::vector<SlotView> PlacedOperands::views(int call) const {
  std::vector<SlotView> views;
  for (const Part& part : parts_)
    views.push_back(
        {part.slot, part.slot < 0 ? 0 : part.first + call % places_ * part.stride, part.elements});
  return views;
}

}  // namespace orrery
