#include "backend/cuda/gpu/profile.hpp"

#include "backend/core/error.hpp"

#if __has_include(<cupti.h>)
#include <cupti.h>
#include <cxxabi.h>

#include <cstdlib>
#include <initializer_list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/cuda/gpu/libraries.hpp"
#endif

namespace orrery::cuda {

#if __has_include(<cupti.h>)

namespace {

// Records of calls come too, as only these carry the regions: a kernel and the call that launched
// it have one correlation number.
constexpr std::initializer_list<CUpti_ActivityKind> kinds{CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION,
                                                          CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL,
                                                          CUPTI_ACTIVITY_KIND_MEMCPY,
                                                          CUPTI_ACTIVITY_KIND_MEMSET,
                                                          CUPTI_ACTIVITY_KIND_RUNTIME,
                                                          CUPTI_ACTIVITY_KIND_DRIVER};
constexpr std::size_t buffer_bytes = 8 << 20;
constexpr CUpti_ExternalCorrelationKind ours = CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0;

std::string library_name() { return "libcupti.so." + std::to_string(CUPTI_API_VERSION / 10000); }

// "void scale<float>(int)" of "_Z5scaleIfEvi".
std::string readable(const char* name) {
  if (name == nullptr) return "a kernel without a name";
  int failed = 0;
  char* const text = abi::__cxa_demangle(name, nullptr, nullptr, &failed);
  std::string found = failed == 0 ? text : name;
  std::free(text);
  return found;
}

class Cupti final : public Profiler {
 public:
  Cupti() : library_(library_name()) {
    const std::lock_guard lock(current_mutex);
    if (current != nullptr) throw Error(Category::unavailable, "CUPTI is in use already");
    load(push_, "cuptiActivityPushExternalCorrelationId");
    load(pop_, "cuptiActivityPopExternalCorrelationId");
    load(next_, "cuptiActivityGetNextRecord");
    load(flush_, "cuptiActivityFlushAll");
    load(disable_, "cuptiActivityDisable");
    decltype(&cuptiActivityRegisterCallbacks) listen = nullptr;
    decltype(&cuptiActivityEnable) enable = nullptr;
    load(listen, "cuptiActivityRegisterCallbacks");
    load(enable, "cuptiActivityEnable");
    check(listen(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
    current = this;
    try {
      for (const CUpti_ActivityKind kind : kinds) check(enable(kind), "cuptiActivityEnable");
    } catch (...) {
      end();
      throw;
    }
  }
  ~Cupti() override {
    flush_(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);
    const std::lock_guard lock(current_mutex);
    end();
  }

  void enter(std::uint64_t region) override { check(push_(ours, region), "CUPTI's push"); }
  void leave() override {
    std::uint64_t region = 0;
    pop_(ours, &region);
  }

  std::vector<GpuActivity> take() override {
    check(flush_(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "cuptiActivityFlushAll");
    const std::lock_guard lock(mutex_);
    std::vector<GpuActivity> all;
    for (Ran& ran : ran_)
      if (const auto region = region_of_.find(ran.correlation); region != region_of_.end())
        all.push_back({region->second, std::move(ran.name), ran.length});
    ran_.clear();
    region_of_.clear();
    return all;
  }

 private:
  struct Ran {
    std::uint32_t correlation = 0;
    std::string name;
    Time length;
  };

  template <class Function>
  void load(Function& function, const char* name) const {
    function = reinterpret_cast<Function>(library_.function(name));
  }
  void check(CUptiResult result, const char* call) const {
    if (result == CUPTI_SUCCESS) return;
    const char* text = nullptr;
    decltype(&cuptiGetResultString) describe = nullptr;
    load(describe, "cuptiGetResultString");
    describe(result, &text);
    throw Error(Category::unavailable,
                std::string(call) + ": " + (text != nullptr ? text : std::to_string(result)));
  }
  void end() {
    for (const CUpti_ActivityKind kind : kinds) disable_(kind);
    current = nullptr;
  }

  // CUPTI calls these from threads of its own, also when the profiler has gone.
  static void CUPTIAPI give_buffer(std::uint8_t** buffer, std::size_t* size, std::size_t* records) {
    *buffer =
        static_cast<std::uint8_t*>(std::aligned_alloc(ACTIVITY_RECORD_ALIGNMENT, buffer_bytes));
    *size = *buffer != nullptr ? buffer_bytes : 0;
    *records = 0;  // as many as fit
  }
  static void CUPTIAPI take_buffer(CUcontext, std::uint32_t, std::uint8_t* buffer, std::size_t,
                                   std::size_t valid) {
    {
      const std::lock_guard lock(current_mutex);
      if (current != nullptr) current->read(buffer, valid);
    }
    std::free(buffer);
  }

  void read(std::uint8_t* buffer, std::size_t valid) {
    const std::lock_guard lock(mutex_);
    CUpti_Activity* record = nullptr;
    while (valid > 0 && next_(buffer, valid, &record) == CUPTI_SUCCESS) note(*record);
  }
  void note(const CUpti_Activity& record) {
    const auto ran = [this](const auto& activity, std::string name) {
      if (activity.end > activity.start)  // nanoseconds; both are 0 where they are not known
        ran_.push_back({activity.correlationId, std::move(name),
                        Time((activity.end - activity.start) * 1000)});
    };
    switch (record.kind) {
      case CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION: {
        const auto& of = reinterpret_cast<const CUpti_ActivityExternalCorrelation&>(record);
        if (of.externalKind == ours) region_of_[of.correlationId] = of.externalId;
        return;
      }
      case CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL: {
        const auto& kernel = reinterpret_cast<const CUpti_ActivityKernel10&>(record);
        return ran(kernel, readable(kernel.name));
      }
      case CUPTI_ACTIVITY_KIND_MEMCPY:
        return ran(reinterpret_cast<const CUpti_ActivityMemcpy6&>(record), "copy");
      case CUPTI_ACTIVITY_KIND_MEMSET:
        return ran(reinterpret_cast<const CUpti_ActivityMemset4&>(record), "set memory");
      default:
        return;
    }
  }

  inline static std::mutex current_mutex;
  inline static Cupti* current = nullptr;  // CUPTI's callbacks carry nothing of ours

  const Library library_;
  decltype(&cuptiActivityPushExternalCorrelationId) push_ = nullptr;
  decltype(&cuptiActivityPopExternalCorrelationId) pop_ = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_ = nullptr;
  decltype(&cuptiActivityFlushAll) flush_ = nullptr;
  decltype(&cuptiActivityDisable) disable_ = nullptr;
  std::mutex mutex_;
  std::vector<Ran> ran_;
  std::unordered_map<std::uint32_t, std::uint64_t> region_of_;  // by correlation
};

}  // namespace

std::unique_ptr<Profiler> make_cupti_profiler() { return std::make_unique<Cupti>(); }

#else

std::unique_ptr<Profiler> make_cupti_profiler() {
  throw Error(Category::unavailable, "cupti.h was not found when this was built");
}

#endif

}  // namespace orrery::cuda
