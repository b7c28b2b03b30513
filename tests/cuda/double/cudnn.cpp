// The functions of cuDNN that backend/cuda/gpu/dnn_graph.cpp finds when it runs: descriptors that
// take any attributes, one proposal for every graph, plans that need no workspace. Nothing is
// computed. How many plans a thread has finished and run, it may ask for.
#include <cudnn.h>

#include <cstdint>
#include <cstring>

#include "tests/cuda/double/cuda_double.hpp"

namespace {

struct Descriptor {
  cudnnBackendDescriptorType_t type;
  bool finished = false;
};

Descriptor& of(cudnnBackendDescriptor_t raw) { return *static_cast<Descriptor*>(raw); }

}  // namespace

extern "C" {

std::size_t cudnnGetVersion() { return CUDNN_VERSION; }
void cudnnGetLastErrorString(char* message, std::size_t size) {
  std::strncpy(message, "an error of the double", size);
}
cudnnStatus_t cudnnCreate(cudnnHandle_t* handle) {
  *handle = nullptr;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnDestroy(cudnnHandle_t) { return CUDNN_STATUS_SUCCESS; }
cudnnStatus_t cudnnSetStream(cudnnHandle_t, cudaStream_t) { return CUDNN_STATUS_SUCCESS; }

cudnnStatus_t cudnnBackendCreateDescriptor(cudnnBackendDescriptorType_t type,
                                           cudnnBackendDescriptor_t* descriptor) {
  *descriptor = new Descriptor{type};
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendDestroyDescriptor(cudnnBackendDescriptor_t descriptor) {
  delete static_cast<Descriptor*>(descriptor);
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendSetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t, cudnnBackendAttributeType_t,
                                       std::int64_t, const void*) {
  return of(descriptor).finished ? CUDNN_STATUS_BAD_PARAM : CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendGetAttribute(cudnnBackendDescriptor_t descriptor,
                                       cudnnBackendAttributeName_t name,
                                       cudnnBackendAttributeType_t, std::int64_t,
                                       std::int64_t* count, void* values) {
  if (!of(descriptor).finished) return CUDNN_STATUS_BAD_PARAM;
  *count = 1;
  if (name == CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE) *static_cast<std::int64_t*>(values) = 0;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendFinalize(cudnnBackendDescriptor_t descriptor) {
  of(descriptor).finished = true;
  if (of(descriptor).type == CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)
    ++orrery::cuda_double::plans_of_this_thread().made;
  return CUDNN_STATUS_SUCCESS;
}
cudnnStatus_t cudnnBackendExecute(cudnnHandle_t, cudnnBackendDescriptor_t plan,
                                  cudnnBackendDescriptor_t pack) {
  if (!of(plan).finished || !of(pack).finished) return CUDNN_STATUS_BAD_PARAM;
  ++orrery::cuda_double::plans_of_this_thread().run;
  return CUDNN_STATUS_SUCCESS;
}

}  // extern "C"
