#include "backend/reference_collectives.hpp"

#include <algorithm>
#include <cstring>

namespace orrery {

namespace {

float load(const View& view, std::int64_t i) {
  switch (view.dtype) {
    case Dtype::fp32:
      return static_cast<const float*>(view.data)[i];
    case Dtype::bf16:
      return from_bf16(static_cast<const std::uint16_t*>(view.data)[i]);
    case Dtype::fp16:
      return from_fp16(static_cast<const std::uint16_t*>(view.data)[i]);
    default:
      throw Error(Category::invalid_program,
                  std::string("a reduction of ") + name(view.dtype) + " is not defined");
  }
}

void store(std::byte* to, Dtype dtype, std::int64_t i, float value) {
  switch (dtype) {
    case Dtype::bf16:
      reinterpret_cast<std::uint16_t*>(to)[i] = to_bf16(value);
      return;
    case Dtype::fp16:
      reinterpret_cast<std::uint16_t*>(to)[i] = to_fp16(value);
      return;
    default:
      reinterpret_cast<float*>(to)[i] = value;
  }
}

template <class T>
T combine(T a, T b, Reduce reduce) {
  return reduce == Reduce::max ? std::max(a, b) : static_cast<T>(a + b);
}

template <class T>
void fold_as(std::span<const View> inputs, std::int64_t begin, std::int64_t count, Reduce reduce,
             std::byte* to) {
  T* out = reinterpret_cast<T*>(to);
  for (std::int64_t i = 0; i < count; ++i) {
    T sum = static_cast<const T*>(inputs[0].data)[begin + i];
    for (std::size_t member = 1; member < inputs.size(); ++member)
      sum = combine(sum, static_cast<const T*>(inputs[member].data)[begin + i], reduce);
    out[i] = reduce == Reduce::mean ? static_cast<T>(sum / static_cast<T>(inputs.size())) : sum;
  }
}

// Elements [begin, begin + count) of the sum, mean or maximum over all inputs.
std::vector<std::byte> fold(std::span<const View> inputs, std::int64_t begin, std::int64_t count,
                            Reduce reduce) {
  const Dtype dtype = inputs[0].dtype;
  std::vector<std::byte> result(static_cast<std::size_t>(bytes_of(count, dtype).value));
  switch (dtype) {
    case Dtype::fp32:
      fold_as<float>(inputs, begin, count, reduce, result.data());
      return result;
    case Dtype::fp64:
      fold_as<double>(inputs, begin, count, reduce, result.data());
      return result;
    case Dtype::int32:
      fold_as<std::int32_t>(inputs, begin, count, reduce, result.data());
      return result;
    case Dtype::int64:
      fold_as<std::int64_t>(inputs, begin, count, reduce, result.data());
      return result;
    default:
      break;
  }
  const float scale = reduce == Reduce::mean ? static_cast<float>(inputs.size()) : 1.0F;
  for (std::int64_t i = 0; i < count; ++i) {
    float sum = load(inputs[0], begin + i);
    for (std::size_t member = 1; member < inputs.size(); ++member)
      sum = combine(sum, load(inputs[member], begin + i), reduce);
    store(result.data(), dtype, i, reduce == Reduce::mean ? sum / scale : sum);
  }
  return result;
}

std::vector<std::byte> bytes_of_view(const View& view) {
  std::vector<std::byte> copy(static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value));
  if (!copy.empty()) std::memcpy(copy.data(), view.data, copy.size());
  return copy;
}

// Member i receives part i of every input, in group order.
std::vector<std::byte> transpose_part(std::span<const View> inputs, std::size_t part) {
  std::vector<std::byte> result;
  for (const View& view : inputs) {
    const std::size_t size =
        static_cast<std::size_t>(bytes_of(view.elements, view.dtype).value) / inputs.size();
    const auto* from = static_cast<const std::byte*>(view.data) + part * size;
    result.insert(result.end(), from, from + size);
  }
  return result;
}

}  // namespace

std::vector<std::vector<std::byte>> collective_result(const Communication& operation,
                                                      std::span<const View> inputs) {
  std::vector<std::vector<std::byte>> results(inputs.size());
  const auto members = static_cast<std::int64_t>(inputs.size());
  switch (operation.kind) {
    case Collective::all_reduce:
      results[0] = fold(inputs, 0, operation.elements, operation.reduce);
      break;
    case Collective::reduce_scatter:
      for (std::int64_t i = 0; i < members; ++i)
        results[static_cast<std::size_t>(i)] = fold(inputs, i * (operation.elements / members),
                                                    operation.elements / members, operation.reduce);
      break;
    case Collective::all_gather:
      for (const View& view : inputs) {
        const auto part = bytes_of_view(view);
        results[0].insert(results[0].end(), part.begin(), part.end());
      }
      break;
    case Collective::broadcast:
      results[0] = bytes_of_view(inputs[static_cast<std::size_t>(operation.root)]);
      break;
    case Collective::all_to_all:
      for (std::size_t i = 0; i < inputs.size(); ++i) results[i] = transpose_part(inputs, i);
      break;
    case Collective::send:
    case Collective::receive:
      results[1] = bytes_of_view(inputs[0]);
      break;
    case Collective::exchange:
      results[0] = bytes_of_view(inputs[1]);
      results[1] = bytes_of_view(inputs[0]);
      break;
  }
  return results;
}

std::span<const std::byte> result_for(const Communication& operation,
                                      const std::vector<std::vector<std::byte>>& results,
                                      int part) {
  switch (operation.kind) {
    case Collective::all_reduce:
    case Collective::all_gather:
    case Collective::broadcast:
      return results[0];
    default:
      return results[static_cast<std::size_t>(part)];
  }
}

}  // namespace orrery
