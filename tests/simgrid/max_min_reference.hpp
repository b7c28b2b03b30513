// An independent reference for shared links: max-min fair rates by progressive filling, from
// scratch at every start and end of a flow, in long double. Slow and plain on purpose.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace orrery::sim {

struct ReferenceFlow {
  std::uint64_t start_ps = 0;
  std::uint64_t bytes = 0;
  std::vector<std::uint32_t> path;
  std::uint64_t end_ps = 0;  // filled in
};

class MaxMinReference {
 public:
  explicit MaxMinReference(std::vector<double> bandwidths)
      : bandwidths_(bandwidths.begin(), bandwidths.end()) {}

  // `flows` in the order of their starts.
  void solve(std::vector<ReferenceFlow>& flows) const {
    std::vector<Live> live;
    std::size_t next = 0;
    long double now = 0;  // picoseconds
    while (next < flows.size() || !live.empty()) {
      fill(flows, live);
      long double until = std::numeric_limits<long double>::infinity();
      for (const Live& f : live) until = std::fmin(until, now + f.left / f.rate * 1e12L);
      if (next < flows.size())
        until = std::fmin(until, static_cast<long double>(flows[next].start_ps));
      for (Live& f : live) f.left -= f.rate * (until - now) * 1e-12L;
      now = until;
      std::vector<Live> rest;
      for (const Live& f : live) {
        if (f.left <= f.rate * 1e-15L) {  // a thousandth of a picosecond
          flows[f.flow].end_ps = static_cast<std::uint64_t>(std::llround(now));
        } else {
          rest.push_back(f);
        }
      }
      live = rest;
      while (next < flows.size() && static_cast<long double>(flows[next].start_ps) <= now) {
        live.push_back({next, static_cast<long double>(flows[next].bytes), 0});
        ++next;
      }
    }
  }

 private:
  struct Live {
    std::size_t flow;
    long double left;  // bytes
    long double rate;  // bytes per second
  };

  void fill(const std::vector<ReferenceFlow>& flows, std::vector<Live>& live) const {
    std::vector<long double> left = bandwidths_;
    std::vector<bool> fixed(live.size(), false);
    for (std::size_t open = live.size(); open > 0;) {
      std::vector<int> users(left.size(), 0);
      for (std::size_t i = 0; i < live.size(); ++i) {
        if (fixed[i]) continue;
        for (const auto link : flows[live[i].flow].path) ++users[link];
      }
      std::size_t tightest = 0;
      long double share = std::numeric_limits<long double>::infinity();
      for (std::size_t link = 0; link < left.size(); ++link) {
        if (users[link] > 0 && left[link] / users[link] < share) {
          share = left[link] / users[link];
          tightest = link;
        }
      }
      for (std::size_t i = 0; i < live.size(); ++i) {
        if (fixed[i]) continue;
        const auto& path = flows[live[i].flow].path;
        bool crosses = false;
        for (const auto link : path) crosses = crosses || link == tightest;
        if (!crosses) continue;
        fixed[i] = true;
        live[i].rate = share;
        --open;
        for (const auto link : path) left[link] -= share;
      }
    }
  }

  std::vector<long double> bandwidths_;
};

}  // namespace orrery::sim
