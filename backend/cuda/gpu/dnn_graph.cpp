#include "backend/cuda/gpu/dnn_graph.hpp"

#include <utility>

#include "backend/core/error.hpp"

namespace orrery::cuda::dnn {

namespace {

constexpr std::size_t oldest = 91002;         // as cudnnGetVersion() says it
constexpr std::int64_t own_uids = 1'000'000;  // from here on, of tensors without a caller's number
constexpr std::int64_t proposals = 16;

}  // namespace

Functions::Functions() {
  const std::size_t version = cudnnGetVersion();
  if (version < oldest)
    throw Error(Category::unavailable, "cuDNN is too old: 9.10.2 is needed")
        .with("version", std::to_string(version))
        .with("library", library.path());
}

void Functions::check(cudnnStatus_t status, const char* call) const {
  if (status == CUDNN_STATUS_SUCCESS) return;
  std::array<char, 512> words{};
  cudnnGetLastErrorString(words.data(), words.size());
  throw Error(Category::unavailable,
              std::string(call) + ": cuDNN status " + std::to_string(static_cast<int>(status)))
      .with("cuDNN says", std::string(words.data()));
}

Descriptor::Descriptor(const Functions& functions, cudnnBackendDescriptorType_t type)
    : functions_(&functions), raw_(nullptr, Destroy{&functions}) {
  cudnnBackendDescriptor_t raw = nullptr;
  functions.check(functions.cudnnBackendCreateDescriptor(type, &raw),
                  "cudnnBackendCreateDescriptor");
  raw_.reset(raw);
}

void Descriptor::set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                     std::int64_t count, const void* values) {
  functions_->check(functions_->cudnnBackendSetAttribute(raw(), name, type, count, values),
                    "cudnnBackendSetAttribute");
}
void Descriptor::set(cudnnBackendAttributeName_t name, const Descriptor& value) {
  cudnnBackendDescriptor_t other = value.raw();
  set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &other);
}
void Descriptor::set(cudnnBackendAttributeName_t name, std::int64_t value) {
  set(name, CUDNN_TYPE_INT64, 1, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, bool value) {
  set(name, CUDNN_TYPE_BOOLEAN, 1, &value);
}
void Descriptor::set(cudnnBackendAttributeName_t name, cudnnDataType_t value) {
  set(name, CUDNN_TYPE_DATA_TYPE, 1, &value);
}

cudnnStatus_t Descriptor::try_finish() { return functions_->cudnnBackendFinalize(raw()); }
void Descriptor::finish() { functions_->check(try_finish(), "cudnnBackendFinalize"); }

std::int64_t Descriptor::get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
                             std::int64_t room, void* values) const {
  std::int64_t count = 0;
  functions_->check(functions_->cudnnBackendGetAttribute(raw(), name, type, room, &count, values),
                    "cudnnBackendGetAttribute");
  return count;
}

Plan::Plan(const Functions& functions, Descriptor plan, std::vector<std::int64_t> constant_uids,
           std::vector<float> constants)
    : functions_(&functions),
      plan_(std::move(plan)),
      constant_uids_(std::move(constant_uids)),
      constants_(std::move(constants)),
      workspace_(0) {
  plan_.get(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1, &workspace_);
}

void Plan::run(cudnnHandle_t handle, const Tensors& tensors, void* workspace) const {
  std::vector<std::int64_t> uids;
  std::vector<const void*> data;
  for (const auto& [uid, address] : tensors) {
    uids.push_back(uid);
    data.push_back(address);
  }
  for (std::size_t i = 0; i < constants_.size(); ++i) {
    uids.push_back(constant_uids_[i]);
    data.push_back(&constants_[i]);
  }
  const auto count = static_cast<std::int64_t>(uids.size());
  Descriptor pack(*functions_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, uids.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count, data.data());
  pack.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace);
  pack.finish();
  functions_->check(functions_->cudnnBackendExecute(handle, plan_.raw(), pack.raw()),
                    "cudnnBackendExecute");
}

Extents dense(const Extents& extents) {
  Extents strides{};
  std::int64_t next = 1;
  for (std::size_t i = extents.size(); i-- > 0;) {
    strides[i] = next;
    next *= extents[i];
  }
  return strides;
}

Graph::Tensor Graph::add(std::int64_t uid, cudnnDataType_t type, const Extents& extents,
                         const Extents& strides, bool is_virtual, bool by_value) {
  Descriptor tensor(*functions_, CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  tensor.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, uid);
  tensor.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type);
  tensor.set(CUDNN_ATTR_TENSOR_DIMENSIONS, CUDNN_TYPE_INT64, 4, extents.data());
  tensor.set(CUDNN_ATTR_TENSOR_STRIDES, CUDNN_TYPE_INT64, 4, strides.data());
  tensor.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, alignment);
  tensor.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, is_virtual);
  tensor.set(CUDNN_ATTR_TENSOR_IS_BY_VALUE, by_value);
  tensor.finish();
  tensors_.push_back(std::move(tensor));
  return {tensors_.size() - 1, extents, strides};
}

Graph::Tensor Graph::in_memory(std::int64_t uid, cudnnDataType_t type, const Extents& extents,
                               const Extents& strides) {
  return add(uid, type, extents, strides, false, false);
}
Graph::Tensor Graph::between(cudnnDataType_t type, const Extents& extents, const Extents& strides) {
  return add(own_uids + static_cast<std::int64_t>(tensors_.size()), type, extents, strides, true,
             false);
}
Graph::Tensor Graph::constant(float value) {
  const std::int64_t uid = own_uids + static_cast<std::int64_t>(tensors_.size());
  constant_uids_.push_back(uid);
  constants_.push_back(value);
  return add(uid, CUDNN_DATA_FLOAT, {1, 1, 1, 1}, {1, 1, 1, 1}, false, true);
}

void Graph::multiply(const Tensor& a, const Tensor& b, const Tensor& c) {
  Descriptor& product = parts_.emplace_back(*functions_, CUDNN_BACKEND_MATMUL_DESCRIPTOR);
  product.set(CUDNN_ATTR_MATMUL_COMP_TYPE, CUDNN_DATA_FLOAT);
  product.finish();
  operate(CUDNN_BACKEND_OPERATION_MATMUL_DESCRIPTOR,
          {{CUDNN_ATTR_OPERATION_MATMUL_DESC, &product},
           {CUDNN_ATTR_OPERATION_MATMUL_ADESC, &tensors_[a.at]},
           {CUDNN_ATTR_OPERATION_MATMUL_BDESC, &tensors_[b.at]},
           {CUDNN_ATTR_OPERATION_MATMUL_CDESC, &tensors_[c.at]}});
}

void Graph::operate(cudnnBackendDescriptorType_t kind, std::initializer_list<Place> places) {
  Descriptor operation(*functions_, kind);
  for (const auto& [attribute, what] : places) operation.set(attribute, *what);
  operation.finish();
  operations_.push_back(std::move(operation));
}

Descriptor Graph::pointwise(cudnnPointwiseMode_t mode, cudnnDataType_t arithmetic) {
  Descriptor made(*functions_, CUDNN_BACKEND_POINTWISE_DESCRIPTOR);
  made.set(CUDNN_ATTR_POINTWISE_MODE, CUDNN_TYPE_POINTWISE_MODE, 1, &mode);
  made.set(CUDNN_ATTR_POINTWISE_MATH_PREC, arithmetic);
  return made;
}

void Graph::apply(Descriptor pointwise, std::span<const cudnnBackendAttributeName_t> places,
                  std::initializer_list<const Tensor*> tensors) {
  pointwise.finish();
  parts_.push_back(std::move(pointwise));
  Descriptor operation(*functions_, CUDNN_BACKEND_OPERATION_POINTWISE_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_POINTWISE_PW_DESCRIPTOR, parts_.back());
  auto place = places.begin();
  for (const Tensor* tensor : tensors) operation.set(*place++, tensors_[tensor->at]);
  operation.finish();
  operations_.push_back(std::move(operation));
}

void Graph::apply(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& y) {
  constexpr std::array places{CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                              CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
  apply(pointwise(mode, CUDNN_DATA_FLOAT), places, {&x, &y});
}
void Graph::apply(cudnnPointwiseMode_t mode, const Tensor& x, const Tensor& b, const Tensor& y,
                  cudnnDataType_t arithmetic) {
  constexpr std::array places{CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                              CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
                              CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
  apply(pointwise(mode, arithmetic), places, {&x, &b, &y});
}
void Graph::select(const Tensor& which, const Tensor& x, const Tensor& otherwise, const Tensor& y) {
  constexpr std::array places{
      CUDNN_ATTR_OPERATION_POINTWISE_XDESC, CUDNN_ATTR_OPERATION_POINTWISE_BDESC,
      CUDNN_ATTR_OPERATION_POINTWISE_TDESC, CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
  apply(pointwise(CUDNN_POINTWISE_BINARY_SELECT, CUDNN_DATA_FLOAT), places,
        {&x, &otherwise, &which, &y});
}
void Graph::index(std::int64_t extent, const Tensor& x, const Tensor& y) {
  constexpr std::array places{CUDNN_ATTR_OPERATION_POINTWISE_XDESC,
                              CUDNN_ATTR_OPERATION_POINTWISE_YDESC};
  Descriptor along = pointwise(CUDNN_POINTWISE_GEN_INDEX, CUDNN_DATA_FLOAT);
  along.set(CUDNN_ATTR_POINTWISE_AXIS, extent);
  apply(std::move(along), places, {&x, &y});
}

void Graph::reduce(cudnnReduceTensorOp_t operator_, const Tensor& x, const Tensor& y) {
  Descriptor& reduction = parts_.emplace_back(*functions_, CUDNN_BACKEND_REDUCTION_DESCRIPTOR);
  reduction.set(CUDNN_ATTR_REDUCTION_OPERATOR, CUDNN_TYPE_REDUCTION_OPERATOR_TYPE, 1, &operator_);
  reduction.set(CUDNN_ATTR_REDUCTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  reduction.finish();
  operate(CUDNN_BACKEND_OPERATION_REDUCTION_DESCRIPTOR,
          {{CUDNN_ATTR_OPERATION_REDUCTION_DESC, &reduction},
           {CUDNN_ATTR_OPERATION_REDUCTION_XDESC, &tensors_[x.at]},
           {CUDNN_ATTR_OPERATION_REDUCTION_YDESC, &tensors_[y.at]}});
}

void Graph::reshape(const Tensor& x, const Tensor& y) {
  operate(CUDNN_BACKEND_OPERATION_RESHAPE_DESCRIPTOR,
          {{CUDNN_ATTR_OPERATION_RESHAPE_XDESC, &tensors_[x.at]},
           {CUDNN_ATTR_OPERATION_RESHAPE_YDESC, &tensors_[y.at]}});
}

std::unique_ptr<Plan> Graph::plan(cudnnHandle_t handle, const Descriptor* gpu) {
  std::vector<cudnnBackendDescriptor_t> operations;
  for (const Descriptor& operation : operations_) operations.push_back(operation.raw());
  Descriptor graph(*functions_, CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
            static_cast<std::int64_t>(operations.size()), operations.data());
  if (handle != nullptr) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
  if (graph.try_finish() != CUDNN_STATUS_SUCCESS) return nullptr;

  Descriptor heuristics(*functions_, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristics.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode);
  if (gpu != nullptr) heuristics.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *gpu);
  if (heuristics.try_finish() != CUDNN_STATUS_SUCCESS) return nullptr;

  std::vector<Descriptor> configurations;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < proposals; ++i)
    raw.push_back(
        configurations.emplace_back(*functions_, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).raw());
  const std::int64_t count = heuristics.get(CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                            CUDNN_TYPE_BACKEND_DESCRIPTOR, proposals, raw.data());
  for (std::int64_t i = 0; i < count && i < proposals; ++i) {
    Descriptor plan(*functions_, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
    if (handle != nullptr)
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &handle);
    if (gpu != nullptr) plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *gpu);
    plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configurations[static_cast<std::size_t>(i)]);
    if (plan.try_finish() == CUDNN_STATUS_SUCCESS)
      return std::make_unique<Plan>(*functions_, std::move(plan), constant_uids_, constants_);
  }
  return nullptr;
}

}  // namespace orrery::cuda::dnn
