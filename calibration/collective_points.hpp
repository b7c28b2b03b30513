// Which collectives a calibration measures, and how a rank issues them.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/rank.hpp"

namespace orrery {

struct CollectivePoint {
  Collective operation = Collective::all_reduce;
  std::int64_t elements = 0;  // of the whole buffer, in fp32
  bool held_back = false;
};

// Every operation at every size, by operation: first those of the table, then those held back from
// it. Sizes are rounded down to a whole number of elements per member, 0 standing for one of each;
// sends and exchanges are for two members alone.
std::vector<CollectivePoint> collective_points(int members, const std::vector<std::int64_t>& kept,
                                               const std::vector<std::int64_t>& held_back);

// 2, 4, 8 … and all, without those beyond.
std::vector<int> groups_up_to(int ranks);

// One rank's buffers and channels for the points of a group of all ranks.
class CollectiveOperands {
 public:
  // `largest`: elements of the largest point. Groups communicate on one stream, pairs on the other;
  // they may be the same.
  CollectiveOperands(Rank& rank, int members, std::int64_t largest, Stream& communication,
                     Stream& sending);
  void issue(const CollectivePoint& point);

 private:
  const bool first_;
  const int members_;
  Stream &communication_, &sending_;
  Channel &group_, &edge_;
  Tensor in_, out_, message_;
};

}  // namespace orrery
