// The functions of CUPTI that backend/cuda/gpu/profile.cpp finds when it runs. Each region that is
// entered gives one kernel of 2 us, called `scale<float>(int)`, and a call that is in no region's
// correlation; all come with the next flush, in buffers of the caller's.
#include <cupti.h>

#include <cstring>
#include <mutex>
#include <vector>

namespace {

std::mutex mutex;
CUpti_BuffersCallbackRequestFunc request = nullptr;
CUpti_BuffersCallbackCompleteFunc complete = nullptr;
std::vector<std::uint64_t> regions;
std::uint32_t correlation = 0;
int enabled = 0;

std::size_t size_of(const CUpti_Activity& record) {
  switch (record.kind) {
    case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION:
      return sizeof(CUpti_ActivityExternalCorrelation);
    case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL:
      return sizeof(CUpti_ActivityKernel10);
    default:
      return sizeof(CUpti_ActivityAPI);
  }
}

template <class Record>
void append(std::uint8_t*& to, const Record& record) {
  std::memcpy(to, &record, sizeof record);
  to += sizeof record;
}

// The kernel comes before the call that launched it: as CUPTI may write them to different buffers.
void append_region(std::uint8_t*& to, std::uint64_t region) {
  CUpti_ActivityKernel10 kernel{};
  kernel.kind = CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL;
  kernel.correlationId = ++correlation;
  kernel.start = 1000;
  kernel.end = 3000;
  kernel.name = "_Z5scaleIfEvi";
  append(to, kernel);
  CUpti_ActivityExternalCorrelation of{};
  of.kind = CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION;
  of.externalKind = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;
  of.externalId = region;
  of.correlationId = correlation;
  append(to, of);
  CUpti_ActivityAPI call{};
  call.kind = CUPTI_ACTIVITY_KIND_RUNTIME;
  call.correlationId = correlation;
  append(to, call);
  kernel.correlationId = ++correlation;  // one that nobody's region holds
  append(to, kernel);
}

}  // namespace

extern "C" {

CUptiResult cuptiActivityRegisterCallbacks(CUpti_BuffersCallbackRequestFunc requested,
                                           CUpti_BuffersCallbackCompleteFunc completed) {
  request = requested;
  complete = completed;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityEnable(CUpti_ActivityKind) {
  ++enabled;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityDisable(CUpti_ActivityKind) {
  --enabled;
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityPushExternalCorrelationId(CUpti_ExternalCorrelationKind,
                                                   std::uint64_t region) {
  const std::lock_guard lock(mutex);
  if (enabled > 0) regions.push_back(region);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityPopExternalCorrelationId(CUpti_ExternalCorrelationKind, std::uint64_t*) {
  return CUPTI_SUCCESS;
}
CUptiResult cuptiActivityFlushAll(std::uint32_t) {
  const std::lock_guard lock(mutex);
  for (const std::uint64_t region : regions) {
    std::uint8_t* buffer = nullptr;
    std::size_t size = 0, records = 0;
    request(&buffer, &size, &records);
    std::uint8_t* end = buffer;
    append_region(end, region);
    complete(nullptr, 0, buffer, size, static_cast<std::size_t>(end - buffer));
  }
  regions.clear();
  return CUPTI_SUCCESS;
}
// As CUPTI's, it is told of the record before, or null for the first.
CUptiResult cuptiActivityGetNextRecord(std::uint8_t* buffer, std::size_t valid,
                                       CUpti_Activity** record) {
  std::uint8_t* next = buffer;
  if (*record != nullptr) next = reinterpret_cast<std::uint8_t*>(*record) + size_of(**record);
  if (next >= buffer + valid) return CUPTI_ERROR_MAX_LIMIT_REACHED;
  *record = reinterpret_cast<CUpti_Activity*>(next);
  return CUPTI_SUCCESS;
}
CUptiResult cuptiGetResultString(CUptiResult, const char** text) {
  *text = "an error";
  return CUPTI_SUCCESS;
}

}  // extern "C"
