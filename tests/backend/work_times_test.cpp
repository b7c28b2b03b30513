#include "backend/work_times.hpp"

#include <doctest/doctest.h>

namespace orrery {
namespace {

constexpr Time us(std::uint64_t n) { return Time(n * 1'000'000); }

PreparedKernel kernel_of(const Kernel& kernel, Time duration = Time{}) {
  PreparedKernel made;
  made.kernel = kernel;
  made.duration = duration;
  return made;
}

}  // namespace

TEST_CASE("the table is of the steps from the second to the last that has ended") {
  const PreparedKernel fill = kernel_of(Kernel::fill(8, 0, Dtype::fp32));
  WorkTimes work;
  const auto step = [&](std::uint64_t length) {
    work.add(WorkItem::of(fill), us(length));
    work.step_ended();
  };
  CHECK(work.rows().empty());
  step(100);
  CHECK(work.rows() == std::vector<WorkRow>{{"fill", "fill", WorkClass::elementwise, 1, us(100)}});
  step(10);
  step(1);
  work.add(WorkItem::of(fill), us(1000));  // no step ends after it
  CHECK(work.rows() == std::vector<WorkRow>{{"fill", "fill", WorkClass::elementwise, 2, us(11)}});
}

TEST_CASE(
    "a sequence timed as a whole is divided by the prices of its kernels, to the picosecond") {
  const PreparedKernel product = kernel_of(Kernel::gemm(2, 2, 2, Dtype::fp32), Time(2)),
                       fill = kernel_of(Kernel::fill(8, 0, Dtype::fp32), Time(1));
  Sequence sequence("block.forward");
  sequence.add({&fill, 0}, {});
  sequence.add({&product, 0}, {});
  sequence.add({&fill, 0}, {});
  WorkTimes work;
  work.add(WorkItem::of(sequence), Time(1'000'003));
  work.add(WorkItem::copy(), Time(7));
  work.step_ended();
  const std::vector<WorkRow> rows = work.rows();
  REQUIRE(rows.size() == 3);
  CHECK(rows[0] == WorkRow{"block.forward", "fill", WorkClass::elementwise, 2, rows[0].time});
  CHECK(rows[1] == WorkRow{"block.forward", "gemm", WorkClass::gemm, 1, rows[1].time});
  CHECK(rows[2] == WorkRow{"copy", "copy", WorkClass::copy, 1, Time(7)});
  CHECK(rows[0].time + rows[1].time == Time(1'000'003));
  CHECK(rows[1].time.picoseconds >= 500'001);
  CHECK(rows[1].time.picoseconds <= 500'002);
}

TEST_CASE("a sequence without prices is one row, of no kernel, unless its kernels were timed") {
  const PreparedKernel product = kernel_of(Kernel::gemm(2, 2, 2, Dtype::fp32));
  Sequence sequence("block.backward");
  sequence.add({&product, 0}, {});
  WorkTimes work;
  work.add(WorkItem::of(sequence), us(5));
  work.add(WorkItem::of(sequence, 0), us(3));
  work.step_ended();
  CHECK(work.rows() == std::vector<WorkRow>{{"block.backward", "", WorkClass::undivided, 1, us(5)},
                                            {"block.backward", "gemm", WorkClass::gemm, 1, us(3)}});
}

}  // namespace orrery
