// Where the time of a compute stream goes: by operation, by kernel, by kind of kernel.
//
// Every world keeps this table for each rank. Times are those that count as TimeParts::compute, so
// the rows sum to it, but for an operation under way where a step ends on another stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/core/units.hpp"
#include "backend/kernel.hpp"
#include "backend/prepared.hpp"

namespace orrery {

// Kinds of kernels in a table of times.
enum class WorkClass : std::uint8_t {
  gemm,  // convolutions too
  attention,
  norm,
  elementwise,
  cross_entropy,
  embedding,
  optimizer,  // with the norm of gradients and their clipping
  copy,       // moves values and changes none
  other,
  undivided,  // a sequence whose kernels were not told apart
};
inline constexpr int work_class_count = 10;
const char* name(WorkClass);
WorkClass class_of(Op);

// A kernel on the compute stream, per run; over the steps from the second on, or the only one.
struct WorkRow {
  std::string operation;  // of which it is part: the name of a sequence, else its own label
  std::string kernel;     // its label; that of an undivided sequence is empty
  WorkClass kind = WorkClass::other;
  std::uint64_t calls = 0;
  Time time;
  bool operator==(const WorkRow&) const = default;
};

// An operation of a stream, or a kernel of one.
struct WorkItem {
  enum class Kind : std::uint8_t { kernel, sequence, copy, upload };
  Kind kind = Kind::kernel;
  std::int32_t step = -1;      // of a sequence; -1: all of them
  const void* what = nullptr;  // PreparedKernel or Sequence

  static WorkItem of(const PreparedKernel& kernel) { return {Kind::kernel, -1, &kernel}; }
  static WorkItem of(const Sequence& sequence) { return {Kind::sequence, -1, &sequence}; }
  static WorkItem of(const Sequence& sequence, std::size_t step) {
    return {Kind::sequence, static_cast<std::int32_t>(step), &sequence};
  }
  static WorkItem copy() { return {Kind::copy, -1, nullptr}; }
  static WorkItem upload() { return {Kind::upload, -1, nullptr}; }
  bool operator==(const WorkItem&) const = default;
};
// What a row says of it, without calls and time.
WorkRow row_of(const WorkItem& item);

// Adds up what a rank's compute stream does. From one thread at a time.
class WorkTimes {
 public:
  void add(const WorkItem& item, Time time) {
    Sum& sum = now_[item];
    ++sum.calls;
    sum.time += time;
  }
  // A step has ended with what was added last.
  void step_ended();
  // In the order of operations and kernels. A sequence that was added as a whole is divided in
  // proportion to the prices of its kernels, where the world has priced them.
  std::vector<WorkRow> rows() const;

 private:
  struct Sum {
    std::uint64_t calls = 0;
    Time time;
  };
  struct Hash {
    std::size_t operator()(const WorkItem& item) const {
      return std::hash<const void*>()(item.what) * 31 +
             static_cast<std::size_t>(item.step + 1) * 4 + static_cast<std::size_t>(item.kind);
    }
  };
  using Sums = std::unordered_map<WorkItem, Sum, Hash>;

  Sums now_;  // since the last end of a step
  Sums counted_;
  std::int64_t steps_ = 0;
};

}  // namespace orrery
