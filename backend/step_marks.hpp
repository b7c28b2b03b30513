// When the steps of a rank ended, and what its compute stream had spent its time on by then.
//
// There is one for each step of each rank, so they are kept as what each adds to the one before, in
// as many bytes as that takes: about 20 in place of 48. Every few steps one is kept whole, to begin
// from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <vector>

#include "backend/core/units.hpp"

namespace orrery {

// How a rank's compute stream spent its time, in the terms of a result's `time`.
struct TimeParts {
  Time compute, exposed_communication, bubble, overhead, idle;
  Time total() const { return compute + exposed_communication + bubble + overhead + idle; }
};

struct StepMark {
  Time at;          // since the start of the run
  TimeParts parts;  // cumulative until then
};

class StepMarks {
 public:
  class Iterator;

  StepMarks() = default;
  StepMarks(std::initializer_list<StepMark> marks) : StepMarks(marks.begin(), marks.end()) {}
  template <class Marks>
  StepMarks(Marks begin, Marks end) {
    for (; begin != end; ++begin) push_back(*begin);
  }

  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  void push_back(const StepMark& mark);
  // Of a step that may have one, or come before its turn: those between are all zero until set.
  void set(std::size_t step, const StepMark& mark);

  StepMark operator[](std::size_t step) const;
  StepMark at(std::size_t step) const;  // std::out_of_range where there is none
  StepMark front() const { return (*this)[0]; }
  StepMark back() const { return (*this)[size_ - 1]; }
  Iterator begin() const;
  Iterator end() const;
  // How many of them, which ascend, are at `time` or before.
  std::size_t until(Time time) const;

 private:
  static constexpr std::size_t apart = 16;  // those that are kept whole

  const std::uint8_t* whole_before(std::size_t step) const {
    return bytes_.data() + wholes_[step / apart];
  }

  std::uint32_t size_ = 0;
  std::vector<std::uint8_t> bytes_;
  std::vector<std::uint32_t> wholes_;  // where they begin in bytes_
};

// Marks are read one behind the other.
class StepMarks::Iterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = StepMark;
  using difference_type = std::ptrdiff_t;
  using pointer = const StepMark*;
  using reference = const StepMark&;

  const StepMark& operator*() const { return mark_; }
  const StepMark* operator->() const { return &mark_; }
  Iterator& operator++() {
    ++step_;
    read();
    return *this;
  }
  bool operator==(const Iterator& o) const { return step_ == o.step_; }

 private:
  friend class StepMarks;
  Iterator(const StepMarks& marks, std::size_t step) : marks_(&marks), step_(step) {}
  // That of step_, which comes next; of one that is kept whole, whatever came before.
  void read();

  const StepMarks* marks_;
  std::size_t step_;
  const std::uint8_t* next_ = nullptr;
  StepMark mark_;
};

inline StepMarks::Iterator StepMarks::end() const { return {*this, size_}; }

}  // namespace orrery
