// The functions of cuBLASLt that backend/cuda/gpu/blas.cpp finds when it runs, for fp32 on the
// host: column-major D = alpha op(A) op(B) + beta C, with a bias along the rows, by groups.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "tests/cuda/double/cuda_double.hpp"

namespace {

struct Matrix {
  cudaDataType_t type;
  std::int64_t rows, cols, stride;
  std::int32_t groups;
};

struct Product {
  std::int32_t transpose_a = CUBLAS_OP_N, transpose_b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const float* bias = nullptr;
};

const Matrix& matrix_of(cublasLtMatrixLayout_t layout) {
  return *reinterpret_cast<const Matrix*>(layout);
}
const Product& product_of(cublasLtMatmulDesc_t description) {
  return *reinterpret_cast<const Product*>(description);
}

// op(M)(i, j) of a group.
float at(const Matrix& m, const float* data, std::int32_t transpose, std::int64_t i, std::int64_t j,
         std::int64_t group) {
  return data[group * m.stride + (transpose == CUBLAS_OP_T ? j + i * m.rows : i + j * m.rows)];
}

}  // namespace

extern "C" {

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t* description, cublasComputeType_t,
                                        cudaDataType_t) {
  *description = reinterpret_cast<cublasLtMatmulDesc_t>(new Product);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t description) {
  delete reinterpret_cast<Product*>(description);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t description,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  auto* product = reinterpret_cast<Product*>(description);
  void* to = attribute == CUBLASLT_MATMUL_DESC_TRANSA   ? static_cast<void*>(&product->transpose_a)
             : attribute == CUBLASLT_MATMUL_DESC_TRANSB ? static_cast<void*>(&product->transpose_b)
             : attribute == CUBLASLT_MATMUL_DESC_EPILOGUE ? static_cast<void*>(&product->epilogue)
             : attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? static_cast<void*>(&product->bias)
                                                              : nullptr;
  if (to != nullptr) std::memcpy(to, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t* layout, cudaDataType_t type,
                                          std::uint64_t rows, std::uint64_t cols, std::int64_t) {
  *layout = reinterpret_cast<cublasLtMatrixLayout_t>(
      new Matrix{type, static_cast<std::int64_t>(rows), static_cast<std::int64_t>(cols), 0, 1});
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
  delete reinterpret_cast<Matrix*>(layout);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout,
                                                cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
  auto* matrix = reinterpret_cast<Matrix*>(layout);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT) std::memcpy(&matrix->groups, value, bytes);
  if (attribute == CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET)
    std::memcpy(&matrix->stride, value, bytes);
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t* preference) {
  *preference = nullptr;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t) {
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t,
                                                    cublasLtMatmulPreferenceAttributes_t,
                                                    const void*, std::size_t) {
  return CUBLAS_STATUS_SUCCESS;
}

// Two algorithms where more than one is wanted, so that one has to be chosen.
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t found[], int* count) {
  *count = 0;
  if (matrix_of(a).type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  *count = std::min(wanted, 2);
  for (int i = 0; i < *count; ++i) found[i].state = CUBLAS_STATUS_SUCCESS;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t description, const void* alpha,
                              const void* a, cublasLtMatrixLayout_t layout_a, const void* b,
                              cublasLtMatrixLayout_t layout_b, const void* beta, const void* c,
                              cublasLtMatrixLayout_t, void* d, cublasLtMatrixLayout_t layout_d,
                              const cublasLtMatmulAlgo_t*, void*, std::size_t,
                              cudaStream_t stream) {
  const Product product = product_of(description);
  const Matrix ma = matrix_of(layout_a), mb = matrix_of(layout_b), md = matrix_of(layout_d);
  const float scale = *static_cast<const float*>(alpha), rest = *static_cast<const float*>(beta);
  const auto *pa = static_cast<const float*>(a), *pb = static_cast<const float*>(b),
             *pc = static_cast<const float*>(c);
  auto* pd = static_cast<float*>(d);
  orrery::cuda_double::append(stream, [=] {
    const std::int64_t depth = product.transpose_a == CUBLAS_OP_T ? ma.rows : ma.cols;
    for (std::int64_t group = 0; group < md.groups; ++group)
      for (std::int64_t j = 0; j < md.cols; ++j)
        for (std::int64_t i = 0; i < md.rows; ++i) {
          const std::int64_t place = group * md.stride + j * md.rows + i;
          float sum = rest == 0 ? 0 : rest * pc[place];
          for (std::int64_t k = 0; k < depth; ++k)
            sum += scale * at(ma, pa, product.transpose_a, i, k, group) *
                   at(mb, pb, product.transpose_b, k, j, group);
          pd[place] = sum + (product.epilogue == CUBLASLT_EPILOGUE_BIAS ? product.bias[i] : 0);
        }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
