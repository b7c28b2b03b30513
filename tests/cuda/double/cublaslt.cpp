// The functions of cuBLASLt that backend/cuda/gpu/blas.cpp finds when it runs, on the host:
// column-major D = alpha op(A) op(B) + beta C, with a bias along the rows, by groups. Of fp32; or
// of operands in 8 bits, times a scale of each, where A is transposed and B is not, sizes are
// multiples of 16, and D is fp32 or bf16.
#include <cublasLt.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "backend/fp8.hpp"
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
  const void* bias = nullptr;
  const float *scale_a = nullptr, *scale_b = nullptr;
};

const Matrix& matrix_of(cublasLtMatrixLayout_t layout) {
  return *reinterpret_cast<const Matrix*>(layout);
}
const Product& product_of(cublasLtMatmulDesc_t description) {
  return *reinterpret_cast<const Product*>(description);
}

bool in_8_bits(const Matrix& m) { return m.type == CUDA_R_8F_E4M3 || m.type == CUDA_R_8F_E5M2; }

float get(cudaDataType_t type, const void* data, std::int64_t i) {
  switch (type) {
    case CUDA_R_8F_E4M3:
    case CUDA_R_8F_E5M2:
      return orrery::from_fp8(static_cast<const std::uint8_t*>(data)[i],
                              type == CUDA_R_8F_E4M3 ? orrery::Float8::e4m3 : orrery::Float8::e5m2);
    case CUDA_R_16BF:
      return orrery::from_bf16(static_cast<const std::uint16_t*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}
void put(cudaDataType_t type, void* data, std::int64_t i, float value) {
  if (type == CUDA_R_16BF)
    static_cast<std::uint16_t*>(data)[i] = orrery::to_bf16(value);
  else
    static_cast<float*>(data)[i] = value;
}

// op(M)(i, j) of a group.
float at(const Matrix& m, const void* data, std::int32_t transpose, std::int64_t i, std::int64_t j,
         std::int64_t group) {
  return get(m.type, data,
             group * m.stride + (transpose == CUBLAS_OP_T ? j + i * m.rows : i + j * m.rows));
}

bool has_fp8(const Product& p, const Matrix& a, const Matrix& b, const Matrix& d) {
  return in_8_bits(a) && in_8_bits(b) && (a.type != CUDA_R_8F_E5M2 || b.type != CUDA_R_8F_E5M2) &&
         p.transpose_a == CUBLAS_OP_T && p.transpose_b == CUBLAS_OP_N && a.rows % 16 == 0 &&
         d.rows % 16 == 0 && (d.type == CUDA_R_32F || d.type == CUDA_R_16BF);
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
  void* to =
      attribute == CUBLASLT_MATMUL_DESC_TRANSA         ? static_cast<void*>(&product->transpose_a)
      : attribute == CUBLASLT_MATMUL_DESC_TRANSB       ? static_cast<void*>(&product->transpose_b)
      : attribute == CUBLASLT_MATMUL_DESC_EPILOGUE     ? static_cast<void*>(&product->epilogue)
      : attribute == CUBLASLT_MATMUL_DESC_BIAS_POINTER ? static_cast<void*>(&product->bias)
      : attribute == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER ? static_cast<void*>(&product->scale_a)
      : attribute == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER ? static_cast<void*>(&product->scale_b)
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
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t description,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t, int wanted,
                                              cublasLtMatmulHeuristicResult_t found[], int* count) {
  *count = 0;
  if (matrix_of(a).type != CUDA_R_32F &&
      !has_fp8(product_of(description), matrix_of(a), matrix_of(b), matrix_of(d)))
    return CUBLAS_STATUS_NOT_SUPPORTED;
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
  orrery::cuda_double::append(stream, [=] {
    const std::int64_t depth = product.transpose_a == CUBLAS_OP_T ? ma.rows : ma.cols;
    float scales = scale;
    for (const float* each : {product.scale_a, product.scale_b})
      if (each != nullptr) scales *= *each;
    for (std::int64_t group = 0; group < md.groups; ++group)
      for (std::int64_t j = 0; j < md.cols; ++j)
        for (std::int64_t i = 0; i < md.rows; ++i) {
          const std::int64_t place = group * md.stride + j * md.rows + i;
          float sum = 0;
          for (std::int64_t k = 0; k < depth; ++k)
            sum += at(ma, a, product.transpose_a, i, k, group) *
                   at(mb, b, product.transpose_b, k, j, group);
          sum = scales * sum + (rest == 0 ? 0 : rest * get(md.type, c, place));
          if (product.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += get(md.type, product.bias, i);
          put(md.type, d, place, sum);
        }
  });
  return CUBLAS_STATUS_SUCCESS;
}

}  // extern "C"
