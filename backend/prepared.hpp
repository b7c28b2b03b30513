// Kernels and sequences made ready once and shared by every rank of a kind.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "backend/kernel.hpp"

namespace orrery {

// A kernel that a world has priced (sim) or planned (cuda). Lives as long as the world; compare and
// store by address.
struct PreparedKernel {
  Kernel kernel;
  Cost cost;
  Time duration;  // sim: on an otherwise idle device
  Bytes workspace;
  std::uint32_t id = 0;  // dense, in order of preparation
};

// The handle that programs hold.
struct Prepared {
  const PreparedKernel* kernel = nullptr;
  std::uint32_t roles = 0;
  explicit operator bool() const { return kernel != nullptr; }
};

// Part of a sequence's bound operand: elements [begin, begin + elements) of slot `slot`. slot < 0:
// an operand left empty.
struct SlotView {
  int slot = -1;
  std::int64_t begin = 0, elements = 0;
};

// A block's kernels between two communications: built once per shape, shared by all ranks, launched
// as one operation. Its kernels run in order on one stream. Traces and values expand it; its
// duration is the sum of its kernels'.
class Sequence {
 public:
  struct Step {
    Prepared kernel;
    std::vector<SlotView> operands;
  };
  explicit Sequence(std::string name) : name_(std::move(name)) {}

  int slot(std::string
               slot_name);  // declares the next operand to be bound at launch; returns its number
  // Appends a kernel. Operands are slots (whole) or parts of slots.
  void add(Prepared kernel, std::vector<SlotView> operands);

  const std::string& name() const { return name_; }
  const std::vector<Step>& steps() const { return steps_; }
  const std::vector<std::string>& slots() const { return slots_; }
  std::uint32_t roles() const { return roles_; }  // union over the steps, per slot
  Time duration() const { return duration_; }
  const Cost& cost() const { return cost_; }
  // Of the kernels' durations, the root of the sum of squares over the sum: by how much independent
  // variations of its kernels average out. 1 for one kernel, 1/sqrt(k) for k equal ones.
  double unevenness() const;

 private:
  std::string name_;
  std::vector<Step> steps_;
  std::vector<std::string> slots_;
  std::uint32_t roles_ = 0;
  Time duration_;
  double squares_ = 0;  // of durations in picoseconds, summed
  Cost cost_;
};

// All that has been prepared for one kind of device. Thread-safe; addresses are stable.
class Catalogue {
 public:
  using Price = std::function<void(PreparedKernel&)>;  // fills duration and workspace
  explicit Catalogue(Price price) : price_(std::move(price)) {}
  Prepared prepare(const Kernel& kernel);
  // The sequence with this key, built by `build` on the first request. The key must determine the
  // sequence.
  const Sequence& sequence(const std::string& key, const std::function<void(Sequence&)>& build);

 private:
  Price price_;
  std::recursive_mutex mutex_;
  std::deque<PreparedKernel> kernels_;
  std::unordered_map<Kernel, const PreparedKernel*> by_kernel_;
  std::unordered_map<std::string, std::unique_ptr<Sequence>> sequences_;
};

}  // namespace orrery
