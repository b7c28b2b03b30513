#include "backend/throttle.hpp"

namespace orrery {

Time throttled_time(const Throttle& throttle, Collective kind, Bytes size, int members) {
  const double n = members, a = throttle.latency.value;
  const double whole = (size / throttle.bandwidth).value;
  if (members < 2) return Time{};
  switch (kind) {
    case Collective::all_reduce:
      return to_time(Seconds(2 * (n - 1) * (a + whole / n)));
    case Collective::all_gather:
    case Collective::reduce_scatter:
    case Collective::all_to_all:
      return to_time(Seconds((n - 1) * (a + whole / n)));
    case Collective::broadcast:
      return to_time(Seconds((n - 1) * a + whole));
    case Collective::send:
    case Collective::receive:
    case Collective::exchange:
      return to_time(Seconds(a + whole));
  }
  return Time{};
}

}  // namespace orrery
