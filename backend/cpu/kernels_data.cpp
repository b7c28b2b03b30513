// Tokens and initial values: whatever is indexed by sample, token or global element.
#include <cstring>

#include "backend/core/error.hpp"
#include "backend/core/philox.hpp"
#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

namespace {

std::int64_t checked_token(const char* op, std::int32_t token, std::int64_t vocabulary,
                           std::int64_t row) {
  if (token < 0 || token >= vocabulary)
    throw Error(Category::invalid_program,
                std::string(op) + ": token " + std::to_string(token) + " is outside the vocabulary")
        .with("row", std::to_string(row));
  return token;
}

}  // namespace

void embedding(const Kernel& kernel, const Operands& operands) {
  const auto [rows, cols, vocabulary, unused0, unused1, unused2] = kernel.dims;
  const std::int32_t* tokens = operands.int32(0, rows);
  const float* table = operands.fp32(1, vocabulary * cols);
  float* y = operands.fp32(2, rows * cols);
  for (std::int64_t row = 0; row < rows; ++row)
    std::memcpy(y + row * cols,
                table + checked_token("embedding", tokens[row], vocabulary, row) * cols,
                static_cast<std::size_t>(cols) * sizeof(float));
}

// Rows are added in order, so a token that occurs twice has one value.
void embedding_backward(const Kernel& kernel, const Operands& operands) {
  const auto [rows, cols, vocabulary, unused0, unused1, unused2] = kernel.dims;
  const std::int32_t* tokens = operands.int32(0, rows);
  const float* dy = operands.fp32(1, rows * cols);
  float* dtable = operands.fp32(2, vocabulary * cols);
  for (std::int64_t row = 0; row < rows; ++row) {
    float* to = dtable + checked_token("embedding_backward", tokens[row], vocabulary, row) * cols;
    for (std::int64_t i = 0; i < cols; ++i) to[i] += dy[row * cols + i];
  }
}

// Element i of tensor number t is number t * 2^40 + (global index of i) of the generator: every
// plan draws the same values.
void initialise(const Kernel& kernel, const Operands& operands) {
  const std::int64_t n = kernel.dims[0];
  float* y = operands.fp32(0, n);
  const Philox numbers(kernel.seed, Purpose::initial_values);
  const std::uint64_t first = (static_cast<std::uint64_t>(kernel.dims[2]) << 40) +
                              static_cast<std::uint64_t>(kernel.dims[1]);
  for (std::int64_t i = 0; i < n; ++i)
    y[i] = static_cast<float>(kernel.scalars[0] * static_cast<double>(numbers.normal(
                                                      first + static_cast<std::uint64_t>(i))));
}

// Sample s is `context` bytes of the text from a position drawn for s, or from s * stride; its
// targets are the bytes behind them.
void text_batch(const Kernel& kernel, const Operands& operands) {
  const auto [samples, context, per_sample, stride, unused0, unused1] = kernel.dims;
  const auto first = static_cast<std::uint64_t>(operands.scalar(0));
  std::int32_t* tokens = operands.int32(1, samples * context);
  std::int32_t* targets = operands.int32(2, samples * per_sample);
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
    for (std::int64_t i = 0; i <= context; ++i) {
      const auto byte = static_cast<std::int32_t>(static_cast<unsigned char>(
          text[static_cast<std::size_t>(from) + static_cast<std::size_t>(i)]));
      if (i < context) tokens[sample * context + i] = byte;
      const std::int64_t target = i - 1 - (context - per_sample);
      if (target >= 0) targets[sample * per_sample + target] = byte;
    }
  }
}

}  // namespace orrery::cpu
