// Tokens and initial values: whatever is indexed by sample, token or global element.
#include <algorithm>
#include <cstring>

#include "backend/core/error.hpp"
#include "backend/core/philox.hpp"
#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

// The row of the table that a token has, or -1 where another part of the vocabulary has it.
std::int64_t table_row(const Kernel& kernel, std::int32_t token, std::int64_t row) {
  const std::int64_t vocabulary = kernel.dims[2], at = token - kernel.dims[3];
  if (at >= 0 && at < vocabulary) return at;
  if (kernel.dims[4] == 0)
    throw Error(Category::invalid_program, std::string(name(kernel.op)) + ": token " +
                                               std::to_string(token) + " is outside the vocabulary")
        .with("row", std::to_string(row));
  return -1;
}

}  // namespace

void embedding(const Kernel& kernel, const Operands& operands) {
  const auto [rows, cols, vocabulary, unused0, unused1, unused2] = kernel.dims;
  const std::int32_t* tokens = operands.int32(0, rows);
  const float* table = operands.fp32(1, vocabulary * cols);
  float* y = operands.fp32(2, rows * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = table_row(kernel, tokens[row], row);
    if (at >= 0)
      std::memcpy(y + row * cols, table + at * cols,
                  static_cast<std::size_t>(cols) * sizeof(float));
    else
      std::fill_n(y + row * cols, cols, 0.0F);
  }
}

// Rows are added in order, so a token that occurs twice has one value.
void embedding_backward(const Kernel& kernel, const Operands& operands) {
  const auto [rows, cols, vocabulary, unused0, unused1, unused2] = kernel.dims;
  const std::int32_t* tokens = operands.int32(0, rows);
  const float* dy = operands.fp32(1, rows * cols);
  float* dtable = operands.fp32(2, vocabulary * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t at = table_row(kernel, tokens[row], row);
    if (at < 0) continue;
    float* to = dtable + at * cols;
    for (std::int64_t i = 0; i < cols; ++i) to[i] += dy[row * cols + i];
  }
}

// Element i of tensor number t is number t * 2^40 + (global index of i) of the generator: every
// plan draws the same values.
void initialise(const Kernel& kernel, const Operands& operands) {
  const auto [rows, cols, number, stride, first, global_stride] = kernel.dims;
  float* y = operands.fp32(0, (rows - 1) * stride + cols);
  const Philox numbers(kernel.seed, Purpose::initial_values);
  const std::uint64_t base = static_cast<std::uint64_t>(number) << 40;
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t i = 0; i < cols; ++i)
      y[row * stride + i] = static_cast<float>(
          kernel.scalars[0] *
          static_cast<double>(
              numbers.normal(base + static_cast<std::uint64_t>(first + row * global_stride + i))));
}

// Sample s is `context` bytes of the text from a position drawn for s, or from s * stride; its
// targets are the bytes behind them.
void text_batch(const Kernel& kernel, const Operands& operands) {
  const auto [samples, context, per_sample, stride, unused0, unused1] = kernel.dims;
  const SequencePart part = kernel.part;
  const std::int64_t length = context / part.of, targets_each = per_sample / part.of;
  const auto first = static_cast<std::uint64_t>(operands.scalar(0));
  std::int32_t* tokens = operands.int32(1, samples * length);
  std::int32_t* targets = operands.int32(2, samples * targets_each);
  if (kernel.text == nullptr || kernel.text->size() <= static_cast<std::size_t>(context))
    throw Error(Category::invalid_program, "text_batch: the text must be longer than the context");
  const std::string& text = *kernel.text;
  const std::uint64_t places = text.size() - static_cast<std::uint64_t>(context);
  const Philox order(kernel.seed, Purpose::data_order);
  for (std::int64_t sample = 0; sample < samples; ++sample) {
    const std::uint64_t number = first + static_cast<std::uint64_t>(sample);
    const std::uint64_t from =
        stride > 0 ? number * static_cast<std::uint64_t>(stride) : order.below(number, places);
    if (from >= places)
      throw Error(Category::invalid_program,
                  "text_batch: sample " + std::to_string(number) + " lies behind the text's end");
    const auto byte = [&text, from](std::int64_t i) {
      return static_cast<std::int32_t>(static_cast<unsigned char>(
          text[static_cast<std::size_t>(from) + static_cast<std::size_t>(i)]));
    };
    for (std::int64_t i = 0; i < length; ++i)
      tokens[sample * length + i] = byte(part.position(i, length));
    for (std::int64_t i = 0; i < targets_each; ++i)
      targets[sample * targets_each + i] =
          byte(part.position(length - targets_each + i, length) + 1);
  }
}

}  // namespace orrery::cpu
