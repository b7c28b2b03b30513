// cuDNN's graph API for what is needed of it: tensors, products, element-wise operations and
// sums, and a plan that computes a graph of them in one fused kernel or a few.
//
// A graph is built once, without values. The tensors of its ends are in memory and have numbers
// (`uid`), by which the plan is told their addresses; those between never exist.
#pragma once

#include <cudnn.h>

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "backend/cuda/gpu/libraries.hpp"

namespace orrery::cuda::dnn {

// The library's functions that are called here. Error{unavailable} without the library, or where it
// is older than 9.10.2, which has errors in attention.
struct Functions {
  Functions();
  Library library{"libcudnn.so." + std::to_string(CUDNN_MAJOR)};
#define ORRERY_FUNCTION(name) \
  decltype(&::name) name = reinterpret_cast<decltype(&::name)>(library.function(#name))
  ORRERY_FUNCTION(cudnnGetVersion);
  ORRERY_FUNCTION(cudnnGetLastErrorString);
  ORRERY_FUNCTION(cudnnCreate);
  ORRERY_FUNCTION(cudnnDestroy);
  ORRERY_FUNCTION(cudnnSetStream);
  ORRERY_FUNCTION(cudnnBackendCreateDescriptor);
  ORRERY_FUNCTION(cudnnBackendDestroyDescriptor);
  ORRERY_FUNCTION(cudnnBackendSetAttribute);
  ORRERY_FUNCTION(cudnnBackendGetAttribute);
  ORRERY_FUNCTION(cudnnBackendFinalize);
  ORRERY_FUNCTION(cudnnBackendExecute);
#undef ORRERY_FUNCTION
  // Error{unavailable} with the call and cuDNN's own words, unless it succeeded.
  void check(cudnnStatus_t status, const char* call) const;
};

// One of cuDNN's descriptors: attributes are set, then it is finished and changes no more.
class Descriptor {
 public:
  Descriptor(const Functions& functions, cudnnBackendDescriptorType_t type);
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::int64_t count,
           const void* values);
  void set(cudnnBackendAttributeName_t name, const Descriptor& value);
  void set(cudnnBackendAttributeName_t name, std::int64_t value);
  void set(cudnnBackendAttributeName_t name, bool value);
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value);
  void finish();
  // What finishing says, for what may not be supported.
  cudnnStatus_t try_finish();
  // Up to `room` values; how many there are.
  std::int64_t get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                   std::int64_t room, void* values) const;
  cudnnBackendDescriptor_t raw() const { return raw_.get(); }

 private:
  struct Destroy {
    const Functions* functions;
    void operator()(void* raw) const { functions->cudnnBackendDestroyDescriptor(raw); }
  };
  const Functions* functions_;
  std::unique_ptr<void, Destroy> raw_;
};

// Numbers and addresses of a graph's tensors in memory.
using Tensors = std::vector<std::pair<std::int64_t, void*>>;

constexpr std::int64_t alignment = 16;  // of those addresses, in bytes

// A finished graph that can run, on the GPU for which it was made, from one thread at a time.
class Plan {
 public:
  Plan(const Functions& functions, Descriptor plan, std::vector<std::int64_t> constant_uids,
       std::vector<float> constants);
  std::int64_t workspace_bytes() const { return workspace_; }
  // Enqueues on the handle's stream.
  void run(cudnnHandle_t handle, const Tensors& tensors, void* workspace) const;

 private:
  const Functions* functions_;
  Descriptor plan_;
  std::vector<std::int64_t> constant_uids_;
  std::vector<float> constants_;
  std::int64_t workspace_;
};

using Extents = std::array<std::int64_t, 4>;

// Elements from one number of each extent to the next, where the last lies densest.
Extents dense(const Extents& extents);

class Graph {
 public:
  // A tensor of the graph.
  struct Tensor {
    std::size_t at = 0;
    Extents extents{}, strides{};
  };

  explicit Graph(const Functions& functions) : functions_(&functions) {}

  Tensor in_memory(std::int64_t uid, cudnnDataType_t type, const Extents& extents,
                   const Extents& strides);
  Tensor between(cudnnDataType_t type, const Extents& extents, const Extents& strides);
  Tensor between(cudnnDataType_t type, const Extents& extents) {
    return between(type, extents, dense(extents));
  }
  Tensor constant(float value);

  // c = a b in the last two extents, for each of the first two; fewer heads of b serve groups of
  // those of a.
  void multiply(const Tensor& a, const Tensor& b, const Tensor& c);
  // y = mode(x), computed in fp32.
  void apply(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& y);
  // y = mode(x, b); the shorter extents of b, all 1, are repeated.
  void apply(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b, const Tensor& y,
             cudnnDataType_t arithmetic = CUDNN_DATA_FLOAT);
  // y = x where `which`, else otherwise.
  void select(const Tensor& which, const Tensor& x, const Tensor& otherwise, const Tensor& y);
  // y = the index of each element of x along an extent.
  void index(std::int64_t extent, const Tensor& x, const Tensor& y);
  // y = x summed, or its largest, over the extents of which y has only 1 or fewer.
  void reduce(cudnnReduceTensorOp_t operation, const Tensor& x, const Tensor& y);
  // y = x with other extents and strides.
  void reshape(const Tensor& x, const Tensor& y);

  // The first plan that cuDNN's heuristics propose and that can be made, for a handle's GPU or for
  // a described one; the other is null. Null when there is none.
  std::unique_ptr<Plan> plan(cudnnHandle_t handle, const Descriptor* gpu);

 private:
  Tensor add(std::int64_t uid, cudnnDataType_t type, const Extents& extents, const Extents& strides,
             bool is_virtual, bool by_value);
  // Adds an operation whose attributes are descriptors.
  using Place = std::pair<cudnnBackendAttributeName_t, const Descriptor*>;
  void operate(cudnnBackendDescriptorType_t kind, std::initializer_list<Place> places);
  void apply(Descriptor pointwise, std::span<const cudnnBackendAttributeName_t> places,
             std::initializer_list<const Tensor*> tensors);
  Descriptor pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t arithmetic);

  const Functions* functions_;
  std::vector<Descriptor> tensors_, operations_, parts_;
  std::vector<std::int64_t> constant_uids_;
  std::vector<float> constants_;
};

}  // namespace orrery::cuda::dnn
