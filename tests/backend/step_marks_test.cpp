#include "backend/step_marks.hpp"

#include <doctest/doctest.h>

#include <string>

#include "backend/core/philox.hpp"

namespace orrery {
namespace {

std::string text_of(const StepMark& mark) {
  const TimeParts& p = mark.parts;
  std::string text = std::to_string(mark.at.picoseconds);
  for (const Time part : {p.compute, p.exposed_communication, p.bubble, p.overhead, p.idle})
    text += " " + std::to_string(part.picoseconds);
  return text;
}

void check_equal(const StepMarks& marks, const std::vector<StepMark>& expected) {
  REQUIRE(marks.size() == expected.size());
  CHECK(marks.empty() == expected.empty());
  std::size_t step = 0;
  for (const StepMark& mark : marks) {
    CHECK(text_of(mark) == text_of(expected[step]));
    CHECK(text_of(marks[step]) == text_of(expected[step]));
    ++step;
  }
  CHECK(step == expected.size());
  if (!expected.empty()) CHECK(text_of(marks.back()) == text_of(expected.back()));
}

// Parts grow, but for overhead, which may become less; some steps have time beside their parts.
std::vector<StepMark> drawn(std::size_t steps) {
  const Philox numbers(3, Purpose::user);
  std::vector<StepMark> marks;
  TimeParts p;
  p.overhead = Time(std::uint64_t{1} << 60);
  for (std::size_t step = 0; step < steps; ++step) {
    const auto some = [&](std::uint64_t which) {
      return Time(numbers.below(8 * step + which, std::uint64_t{1} << (10 * which)));
    };
    p.compute += some(4);
    p.exposed_communication += some(3);
    p.bubble += some(1);
    p.overhead = p.overhead - some(2);
    p.idle += some(0);
    marks.push_back({p.total() + (step % 3 == 0 ? some(2) : Time{}), p});
  }
  return marks;
}

}  // namespace

TEST_CASE("marks are what they were set to, whatever they differ by") {
  for (const std::size_t steps : {0, 1, 15, 16, 17, 32, 100}) {
    const std::vector<StepMark> expected = drawn(steps);
    check_equal({expected.begin(), expected.end()}, expected);
  }
  const std::vector<StepMark> extremes{
      {time_never, {}}, {}, {Time(1), {time_never, {}, Time(1), {}, {}}}};
  check_equal({extremes.begin(), extremes.end()}, extremes);
}

TEST_CASE("marks are set in any order; those between are zero until then") {
  const std::vector<StepMark> expected = drawn(40);
  StepMarks marks;
  marks.set(39, expected[39]);
  CHECK(marks.size() == 40);
  CHECK(text_of(marks[20]) == text_of({}));
  for (std::size_t step = 0; step < 39; ++step) marks.set(step * 7 % 39, expected[step * 7 % 39]);
  check_equal(marks, expected);
  CHECK_THROWS_AS(marks.at(40), std::out_of_range);
}

TEST_CASE("marks until a time are counted") {
  StepMarks marks;
  CHECK(marks.until(time_never) == 0);
  for (std::uint64_t step = 0; step < 50; ++step) marks.push_back({Time(10 * step + 5), {}});
  CHECK(marks.until(Time(4)) == 0);
  CHECK(marks.until(time_never) == 50);
  for (std::uint64_t step = 0; step < 50; ++step) {
    CHECK(marks.until(Time(10 * step + 5)) == step + 1);
    CHECK(marks.until(Time(10 * step + 14)) == step + 1);
  }
}

}  // namespace orrery
