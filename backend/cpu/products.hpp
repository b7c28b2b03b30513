// What products are made of.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#include "backend/cpu/operands.hpp"

namespace orrery::cpu {

inline constexpr std::size_t alignment = 64;

inline bool aligned(const float* p) { return reinterpret_cast<std::uintptr_t>(p) % alignment == 0; }

// A buffer of this thread that grows and is kept.
class Scratch {
 public:
  float* take(std::int64_t elements) {
    const auto wanted = static_cast<std::size_t>(elements);
    if (size_ < wanted) {
      data_.reset(static_cast<float*>(
          ::operator new[](wanted * sizeof(float), std::align_val_t{alignment})));
      size_ = wanted;
    }
    return data_.get();
  }
  float* copy(const float* from, std::int64_t elements) {
    float* to = take(elements);
    std::memcpy(to, from, static_cast<std::size_t>(elements) * sizeof(float));
    return to;
  }

 private:
  struct Release {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{alignment}); }
  };
  std::unique_ptr<float[], Release> data_;
  std::size_t size_ = 0;
};

// C = op(A) op(B) (+ C when accumulating) (+ bias in every row), of fp32 numbers.
void multiply(const Kernel& kernel, const float* a, const float* b, float* c, const float* bias);
// One product, or several of a group, with operands rounded to fp8 (backend/fp8.hpp).
void multiply_in_fp8(const Kernel& kernel, const Operands& operands);
// Its cast, which finds the largest magnitude where that is wanted.
void fp8_cast(const Operands& operands);

}  // namespace orrery::cpu
