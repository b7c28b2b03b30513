#include "backend/cpu/bodies.hpp"

#include <array>
#include <cmath>
#include <memory>
#include <new>

#include "backend/core/error.hpp"
#include "backend/cpu/products.hpp"
#include "backend/fp8.hpp"

namespace orrery {

namespace cpu {

namespace {

[[noreturn]] void refuse(const Kernel& kernel, const std::string& why) {
  throw Error(Category::invalid_program, std::string(name(kernel.op)) + ": " + why)
      .with("kernel", kernel.label);
}

}  // namespace

const View& Operands::any(std::size_t operand, std::int64_t elements) const {
  if (!has(operand)) refuse(kernel_, "operand " + std::to_string(operand) + " is missing");
  const View& view = views_[operand];
  if (view.elements < elements)
    refuse(kernel_, "operand " + std::to_string(operand) + " has " + std::to_string(view.elements) +
                        " elements of the " + std::to_string(elements) + " it needs");
  return view;
}

const View& Operands::need(std::size_t operand, std::int64_t elements, Dtype dtype) const {
  const View& view = any(operand, elements);
  if (view.dtype != dtype)
    refuse(kernel_, "operand " + std::to_string(operand) + " is " + name(view.dtype) + ", not " +
                        name(dtype));
  return view;
}

double Operands::scalar(std::size_t operand, std::int64_t element) const {
  if (!has(operand) || views_[operand].elements <= element)
    refuse(kernel_,
           "operand " + std::to_string(operand) + " has no element " + std::to_string(element));
  return element_of(views_[operand], element);
}

namespace {

// fp32 copies of a kernel's operands that are stored in another type. One per thread: buffers are
// kept for the next kernel.
class Expansion {
 public:
  // The views with every bf16, fp16, fp8 and fp64 operand replaced by an fp32 copy (not filled
  // where the kernel only writes).
  std::span<const View> expand(const Kernel& kernel, std::span<const View> views) {
    count_ = views.size();
    for (std::size_t i = 0; i < count_; ++i) {
      expanded_[i] = views[i];
      if (!stored(views[i])) continue;
      float* copy = buffer(i, views[i].elements);
      if (role_of(kernel.roles, i) != Role::write) expand_to_fp32(views[i], copy);
      expanded_[i] = {copy, views[i].elements, Dtype::fp32};
    }
    return {expanded_.data(), count_};
  }
  void round_back(const Kernel& kernel, std::span<const View> views) const {
    for (std::size_t i = 0; i < count_; ++i)
      if (stored(views[i]) && (static_cast<unsigned>(role_of(kernel.roles, i)) & 2U) != 0)
        round_from_fp32(static_cast<const float*>(expanded_[i].data), views[i]);
  }
  static bool stored(const View& view) {
    return view.data != nullptr && (view.dtype == Dtype::bf16 || view.dtype == Dtype::fp16 ||
                                    view.dtype == Dtype::fp8 || view.dtype == Dtype::fp64);
  }

 private:
  struct Release {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  float* buffer(std::size_t i, std::int64_t elements) {
    const auto wanted = static_cast<std::size_t>(elements);
    if (sizes_[i] < wanted) {
      buffers_[i].reset(
          static_cast<float*>(::operator new[](wanted * sizeof(float), std::align_val_t{64})));
      sizes_[i] = wanted;
    }
    return buffers_[i].get();
  }
  std::array<View, max_operands> expanded_;
  std::array<std::unique_ptr<float[], Release>, max_operands> buffers_;
  std::array<std::size_t, max_operands> sizes_{};
  std::size_t count_ = 0;
};

// Of pictures, and what is in no other list.
void compute_other(const Kernel& kernel, const Operands& operands) {
  switch (kernel.op) {
    case Op::convolution:
      return convolution(kernel, operands);
    case Op::convolution_input_gradient:
      return convolution_input_gradient(kernel, operands);
    case Op::convolution_weight_gradient:
      return convolution_weight_gradient(kernel, operands);
    case Op::batch_norm:
      return batch_norm(kernel, operands);
    case Op::batch_norm_backward:
      return batch_norm_backward(kernel, operands);
    case Op::residual_add_backward:
      return residual_add_backward(kernel, operands);
    case Op::max_pool:
      return max_pool(kernel, operands);
    case Op::max_pool_backward:
      return max_pool_backward(kernel, operands);
    case Op::average_pool:
      return average_pool(kernel, operands);
    case Op::average_pool_backward:
      return average_pool_backward(kernel, operands);
    case Op::picture_batch:
      return picture_batch(kernel, operands);
    default:
      if (is_fp8_cast(kernel)) return fp8_cast(operands);
      refuse(kernel, "timing model only, it has no values");
  }
}

void compute(const Kernel& kernel, const Operands& operands) {
  switch (kernel.op) {
    case Op::gemm:
      return gemm(kernel, operands);
    case Op::bias_activation:
      return bias_activation(kernel, operands);
    case Op::bias_activation_backward:
      return bias_activation_backward(kernel, operands);
    case Op::column_sum:
      return column_sum(kernel, operands);
    case Op::embedding:
      return embedding(kernel, operands);
    case Op::embedding_backward:
      return embedding_backward(kernel, operands);
    case Op::cross_entropy:
      return cross_entropy(kernel, operands);
    case Op::linear_combination:
      return linear_combination(kernel, operands);
    case Op::sum_squares:
      return sum_squares(kernel, operands);
    case Op::clip_scale:
      return clip_scale(kernel, operands);
    case Op::sgd:
      return sgd(kernel, operands);
    case Op::adamw:
      return adamw(kernel, operands);
    case Op::initialise:
      return initialise(kernel, operands);
    case Op::text_batch:
      return text_batch(kernel, operands);
    case Op::norm:
      return norm(kernel, operands);
    case Op::norm_backward:
      return norm_backward(kernel, operands);
    case Op::rotary:
      return rotary(kernel, operands);
    case Op::gated_activation:
      return gated_activation(kernel, operands);
    case Op::gated_activation_backward:
      return gated_activation_backward(kernel, operands);
    case Op::residual_add:
      return residual_add(kernel, operands);
    case Op::add_positions:
      return add_positions(kernel, operands);
    case Op::positions_backward:
      return positions_backward(kernel, operands);
    case Op::attention:
      return attention(kernel, operands);
    case Op::attention_backward:
      return attention_backward(kernel, operands);
    case Op::attention_merge:
      return attention_merge(kernel, operands);
    case Op::row_maximum:
      return row_maximum(kernel, operands);
    case Op::softmax_sums:
      return softmax_sums(kernel, operands);
    case Op::softmax_gradient:
      return softmax_gradient(kernel, operands);
    case Op::permute:
      return permute(kernel, operands);
    case Op::reorder:
      return reorder(kernel, operands);
    case Op::grouped_gemm:
      return grouped_gemm(kernel, operands);
    case Op::route:
      return route(kernel, operands);
    case Op::route_backward:
      return route_backward(kernel, operands);
    case Op::dispatch:
      return dispatch(kernel, operands);
    case Op::dispatch_backward:
      return dispatch_backward(kernel, operands);
    case Op::combine:
      return combine(kernel, operands);
    case Op::combine_backward:
      return combine_backward(kernel, operands);
    default:
      compute_other(kernel, operands);
  }
}

// Whole numbers and doubles (counts of samples, norms) are combined in double, not expanded to
// fp32.
bool combines_in_double(const Kernel& kernel, std::span<const View> views) {
  if (kernel.op != Op::linear_combination || views.size() < 2) return false;
  return size_of(views[1].dtype) == 8 || views[1].dtype == Dtype::int32 ||
         size_of(views[0].dtype) == 8;
}

class Bodies final : public KernelBodies {
 public:
  void run(const Kernel& kernel, std::span<const View> views) const override {
    if (kernel.op == Op::timed) return;
    if (kernel.op == Op::custom) return (*kernel.body)(views);
    if (views.size() > static_cast<std::size_t>(max_operands)) refuse(kernel, "too many operands");
    const Operands operands(kernel, views);
    if (kernel.op == Op::fill)
      return fill(operands.need(0, kernel.dims[0], kernel.dtype), kernel.scalars[0]);
    if (kernel.op == Op::cast) return run_cast(kernel, operands);
    bool plain = true;
    for (const View& view : views) plain = plain && !Expansion::stored(view);
    if (plain || combines_in_double(kernel, views)) return compute(kernel, operands);
    thread_local Expansion expansion;
    compute(kernel, Operands(kernel, expansion.expand(kernel, views)));
    expansion.round_back(kernel, views);
  }

 private:
  static void run_cast(const Kernel& kernel, const Operands& operands) {
    View from = operands.need(0, kernel.dims[0], static_cast<Dtype>(kernel.dims[1]));
    View to = operands.need(1, kernel.dims[0], kernel.dtype);
    from.elements = to.elements = kernel.dims[0];
    cast(from, to);
  }
};

}  // namespace

}  // namespace cpu

const KernelBodies& cpu_bodies() {
  static const cpu::Bodies bodies;
  return bodies;
}

}  // namespace orrery
