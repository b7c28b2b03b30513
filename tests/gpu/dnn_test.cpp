// Attention by cuDNN against the CPU's body: forward, then backward from what that left.
#include <cstdlib>

#include "backend/cuda/gpu/dnn.hpp"
#include "tests/gpu/gpu_run.hpp"

namespace orrery {
namespace {

// cuDNN for attention and nothing in its place.
class DnnLauncher final : public cuda::Launcher {
 public:
  void launch(CUstream_st* stream, const Kernel& kernel, std::span<const View> views) override {
    const bool done = kernel.op == Op::attention ? dnn_.attention(stream, kernel, views)
                                                 : dnn_.attention_backward(stream, kernel, views);
    if (!done) throw Error(Category::unavailable, "cuDNN has no plan for this attention");
  }

 private:
  cuda::Dnn dnn_;
};

bool dnn_here() {
  if (!gpu_here()) return false;
  if (!cuda::dnn_version().empty()) return true;
  MESSAGE("skipped: no cuDNN was found, or one too old");
  return false;
}

cuda::CudaOptions by_dnn() {
  cuda::CudaOptions options = on_gpus();
  options.launcher = [](int, const std::function<void(std::exception_ptr)>&) {
    return std::make_unique<DnnLauncher>();
  };
  return options;
}

struct AttentionCase {
  std::int64_t heads, kv_heads, sequence, size;
  AttentionPart which;
  bool packed;

  std::int64_t batch() const { return 2; }
  Kernel forward(Dtype t) const {
    return Kernel::attention(batch(), heads, kv_heads, sequence, size, which, t);
  }
  Kernel backward(Dtype t) const {
    return Kernel::attention_backward(batch(), heads, kv_heads, sequence, size, which, t);
  }
  std::int64_t q() const { return batch() * sequence * heads * size; }
  // Q, K and V, or their gradients; one operand or three.
  std::vector<OperandCase> projections(Dtype t) const {
    const std::int64_t kv = batch() * sequence * kv_heads * size;
    if (packed) return {{q() + 2 * kv, t}, {}, {}};
    return {{q(), t}, {kv, t}, {kv, t}};
  }
  std::vector<OperandCase> forward_operands(Dtype t) const {
    std::vector<OperandCase> operands = projections(t);
    operands.push_back({q(), t});
    operands.push_back({2 * batch() * heads * sequence, t});
    return operands;
  }
  // With the inputs, results and statistics of a forward pass.
  std::vector<OperandCase> backward_operands(Dtype t,
                                             const std::vector<std::vector<double>>& was) const {
    std::vector<OperandCase> operands = forward_operands(t);
    for (std::size_t i = 0; i < operands.size(); ++i) operands[i].values = was[i];
    operands.insert(operands.begin(), {q(), t});
    for (const OperandCase& gradient : projections(t)) operands.push_back(gradient);
    return operands;
  }
};

WorldOptions real() {
  WorldOptions options;
  options.real_values = true;
  options.bodies = &cpu_bodies();
  return options;
}

// Half a unit in the last place. Tensor cores take probabilities and their gradients in the
// operands' type: each of these is off by up to one of it, as are a group's gradients of keys and
// values before they are added up, and sums of them by a few.
double unit(Dtype t) { return t == Dtype::bf16 ? 0x1p-9 : 0x1p-12; }

void check_attention(const AttentionCase& c, Dtype t) {
  check_kernel(c.forward(t), c.forward_operands(t), 8 * unit(t), by_dnn());
  const auto was = after(*make_cpu_world(real()), c.forward(t), c.forward_operands(t));
  check_kernel(c.backward(t), c.backward_operands(t, was), 16 * unit(t), by_dnn());
}

}  // namespace

TEST_CASE("GPU: attention by cuDNN, forward and backward") {
  if (!dnn_here()) return;
  for (const Dtype t : {Dtype::bf16, Dtype::fp16}) {
    check_attention({4, 2, 70, 64, AttentionPart::causal, true}, t);
    check_attention({4, 4, 256, 128, AttentionPart::full, false}, t);
    check_attention({4, 1, 256, 128, AttentionPart::causal, false}, t);
  }
}

TEST_CASE("GPU: gradients by cuDNN repeat in bits where that is asked for") {
  if (!dnn_here()) return;
  const AttentionCase c{4, 2, 512, 128, AttentionPart::causal, true};
  const auto was =
      after(*make_cpu_world(real()), c.forward(Dtype::bf16), c.forward_operands(Dtype::bf16));
  const auto gradients = [&] {
    return after(*cuda::make_cuda_world(real(), by_dnn()), c.backward(Dtype::bf16),
                 c.backward_operands(Dtype::bf16, was));
  };
  setenv("ORRERY_REPEATABLE", "1", 1);
  const auto first = gradients(), second = gradients();
  check_kernel(c.backward(Dtype::bf16), c.backward_operands(Dtype::bf16, was),
               16 * unit(Dtype::bf16), by_dnn());
  unsetenv("ORRERY_REPEATABLE");
  CHECK(first[6] == second[6]);
}

}  // namespace orrery
