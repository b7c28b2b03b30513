#include "backend/element.hpp"

#include <cmath>

#include "backend/core/error.hpp"
#include "backend/fp8.hpp"

namespace orrery {

namespace {

template <class T>
double as(const View& view, std::int64_t i) {
  return static_cast<double>(static_cast<const T*>(view.data)[i]);
}

}  // namespace

double element_of(const View& view, std::int64_t i) {
  switch (view.dtype) {
    case Dtype::fp32:
      return as<float>(view, i);
    case Dtype::fp64:
      return as<double>(view, i);
    case Dtype::int32:
      return as<std::int32_t>(view, i);
    case Dtype::int64:
      return as<std::int64_t>(view, i);
    case Dtype::uint8:
      return as<std::uint8_t>(view, i);
    case Dtype::bf16:
      return from_bf16(static_cast<const std::uint16_t*>(view.data)[i]);
    case Dtype::fp16:
      return from_fp16(static_cast<const std::uint16_t*>(view.data)[i]);
    case Dtype::fp8:
      return from_fp8(static_cast<const std::uint8_t*>(view.data)[i]);
    case Dtype::fp4:
      break;
  }
  throw Error(Category::invalid_program, "fp4 has no values");
}

void set_element(const View& view, std::int64_t i, double value) {
  switch (view.dtype) {
    case Dtype::fp32:
      static_cast<float*>(view.data)[i] = static_cast<float>(value);
      return;
    case Dtype::fp64:
      static_cast<double*>(view.data)[i] = value;
      return;
    case Dtype::int32:
      static_cast<std::int32_t*>(view.data)[i] = static_cast<std::int32_t>(std::llrint(value));
      return;
    case Dtype::int64:
      static_cast<std::int64_t*>(view.data)[i] = std::llrint(value);
      return;
    case Dtype::uint8:
      static_cast<std::uint8_t*>(view.data)[i] = static_cast<std::uint8_t>(std::llrint(value));
      return;
    case Dtype::bf16:
      static_cast<std::uint16_t*>(view.data)[i] = to_bf16(static_cast<float>(value));
      return;
    case Dtype::fp16:
      static_cast<std::uint16_t*>(view.data)[i] = to_fp16(static_cast<float>(value));
      return;
    case Dtype::fp8:
      static_cast<std::uint8_t*>(view.data)[i] = to_fp8(static_cast<float>(value));
      return;
    case Dtype::fp4:
      break;
  }
  throw Error(Category::invalid_program, "fp4 has no values");
}

}  // namespace orrery
