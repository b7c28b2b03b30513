#include "backend/step_marks.hpp"

#include <algorithm>
#include <array>
#include <stdexcept>

namespace orrery {

namespace {

// What a mark is told by: its parts, and what else it is at, which is nothing where they are all of
// the time.
using Words = std::array<std::uint64_t, 6>;

Words words_of(const StepMark& mark) {
  const TimeParts& p = mark.parts;
  return {(mark.at - p.total()).picoseconds,
          p.compute.picoseconds,
          p.exposed_communication.picoseconds,
          p.bubble.picoseconds,
          p.overhead.picoseconds,
          p.idle.picoseconds};
}

StepMark mark_of(const Words& words) {
  StepMark mark;
  mark.parts = {Time(words[1]), Time(words[2]), Time(words[3]), Time(words[4]), Time(words[5])};
  mark.at = Time(words[0]) + mark.parts.total();
  return mark;
}

// Seven bits a byte, the lowest first; the eighth says that more follow. The sign is the lowest bit
// of all, so that small differences are few bytes in either direction.
std::uint8_t* write(std::uint8_t* to, std::uint64_t difference) {
  std::uint64_t left = difference << 1 ^ (difference >> 63 != 0 ? ~std::uint64_t{0} : 0);
  for (; left >= 128; left >>= 7) *to++ = static_cast<std::uint8_t>(left | 128);
  *to++ = static_cast<std::uint8_t>(left);
  return to;
}

const std::uint8_t* read(const std::uint8_t* from, std::uint64_t& difference) {
  std::uint64_t all = 0;
  unsigned shift = 0;
  for (; *from >= 128; shift += 7) all |= std::uint64_t{*from++ & 127U} << shift;
  all |= std::uint64_t{*from++} << shift;
  difference = all >> 1 ^ ((all & 1) != 0 ? ~std::uint64_t{0} : 0);
  return from;
}

}  // namespace

void StepMarks::push_back(const StepMark& mark) {
  Words before{};
  if (size_ % apart == 0)
    wholes_.push_back(static_cast<std::uint32_t>(bytes_.size()));
  else
    before = words_of(back());
  std::array<std::uint8_t, 60> record;
  std::uint8_t* end = record.data();
  const Words words = words_of(mark);
  for (std::size_t i = 0; i < words.size(); ++i) end = write(end, words[i] - before[i]);
  const std::size_t needed = bytes_.size() + static_cast<std::size_t>(end - record.data());
  // By a quarter: doubling would leave half of it unused on every rank.
  if (needed > bytes_.capacity()) bytes_.reserve(needed + needed / 4);
  bytes_.insert(bytes_.end(), record.data(), end);
  ++size_;
}

void StepMarks::set(std::size_t step, const StepMark& mark) {
  while (size_ < step) push_back({});
  if (size_ == step) return push_back(mark);
  std::vector<StepMark> all(begin(), end());
  all[step] = mark;
  *this = StepMarks(all.begin(), all.end());
}

StepMark StepMarks::operator[](std::size_t step) const {
  Iterator it(*this, step - step % apart);
  it.read();
  while (it.step_ < step) ++it;
  return *it;
}

StepMark StepMarks::at(std::size_t step) const {
  if (step >= size_) throw std::out_of_range("a rank has ended no such step");
  return (*this)[step];
}

StepMarks::Iterator StepMarks::begin() const {
  Iterator first(*this, 0);
  first.read();
  return first;
}

std::size_t StepMarks::until(Time time) const {
  // The last that is kept whole and is not later, then one by one.
  std::size_t low = 0, high = wholes_.size();
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if ((*this)[middle * apart].at <= time)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return 0;
  Iterator it(*this, (low - 1) * apart);
  for (it.read(); it != end() && it->at <= time;) ++it;
  return it.step_;
}

void StepMarks::Iterator::read() {
  if (step_ >= marks_->size_) return;
  Words words{};
  if (step_ % apart == 0)
    next_ = marks_->whole_before(step_);
  else
    words = words_of(mark_);
  for (std::uint64_t& word : words) {
    std::uint64_t difference = 0;
    next_ = orrery::read(next_, difference);
    word += difference;
  }
  mark_ = mark_of(words);
}

}  // namespace orrery
