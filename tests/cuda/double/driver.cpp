// A double of CUDA's driver for libraries that compile and load kernels: loading succeeds, so that
// it shows what they would run, and everything else fails.
extern "C" {

constexpr int success = 0, no_device = 100;

#define ORRERY_FAILS(name) \
  int name() { return no_device; }
ORRERY_FAILS(cuCtxGetCurrent)
ORRERY_FAILS(cuCtxGetDevice)
ORRERY_FAILS(cuCtxGetLimit)
ORRERY_FAILS(cuCtxPopCurrent)
ORRERY_FAILS(cuCtxPushCurrent)
ORRERY_FAILS(cuDeviceGet)
ORRERY_FAILS(cuDeviceGetAttribute)
ORRERY_FAILS(cuDeviceGetCount)
ORRERY_FAILS(cuDevicePrimaryCtxRelease)
ORRERY_FAILS(cuDevicePrimaryCtxReset)
ORRERY_FAILS(cuDevicePrimaryCtxRetain)
ORRERY_FAILS(cuDriverGetVersion)
ORRERY_FAILS(cuFuncGetAttribute)
ORRERY_FAILS(cuFuncSetAttribute)
ORRERY_FAILS(cuGetErrorName)
ORRERY_FAILS(cuGetErrorString)
ORRERY_FAILS(cuInit)
ORRERY_FAILS(cuKernelGetAttribute)
ORRERY_FAILS(cuLaunchCooperativeKernel)
ORRERY_FAILS(cuLaunchKernel)
ORRERY_FAILS(cuLaunchKernelEx)
ORRERY_FAILS(cuLibraryLoadFromFile)
ORRERY_FAILS(cuLinkAddData)
ORRERY_FAILS(cuLinkAddData_v2)
ORRERY_FAILS(cuLinkAddFile_v2)
ORRERY_FAILS(cuLinkComplete)
ORRERY_FAILS(cuLinkCreate)
ORRERY_FAILS(cuLinkCreate_v2)
ORRERY_FAILS(cuLinkDestroy)
ORRERY_FAILS(cuMemcpyDtoH_v2)
ORRERY_FAILS(cuModuleGetFunction)
ORRERY_FAILS(cuModuleGetGlobal_v2)
ORRERY_FAILS(cuModuleLoadData)
ORRERY_FAILS(cuModuleLoadDataEx)
ORRERY_FAILS(cuModuleLoadFatBinary)
ORRERY_FAILS(cuModuleUnload)
ORRERY_FAILS(cuOccupancyMaxActiveBlocksPerMultiprocessor)
ORRERY_FAILS(cuOccupancyMaxPotentialClusterSize)
ORRERY_FAILS(cuStreamGetCtx)
ORRERY_FAILS(cuStreamSynchronize)
ORRERY_FAILS(cuTensorMapEncodeTiled)

int cuLibraryLoadData(const void** library) {
  static const char loaded = 0;
  *library = &loaded;
  return success;
}
int cuLibraryGetKernel(const void** kernel) {
  static const char found = 0;
  *kernel = &found;
  return success;
}
int cuKernelSetAttribute() { return success; }
int cuLibraryUnload() { return success; }
}
