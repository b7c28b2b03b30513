// What transfers put on links, added up link by link.
//
// A place for each link of the machine, and a list of those that are loaded: a group's flows cross
// a few of very many links, and sums are asked for again and again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace orrery {

class LinkLoad {
 public:
  // None of `links` is loaded.
  void reset(std::size_t links) {
    for (const std::uint32_t link : loaded_) sums_[link] = 0;
    loaded_.clear();
    sums_.resize(links);
  }
  void add(std::uint32_t link, double load) {  // more than 0
    if (sums_[link] == 0) loaded_.push_back(link);
    sums_[link] += load;
  }
  const std::vector<std::uint32_t>& loaded() const { return loaded_; }
  double of(std::uint32_t link) const { return sums_[link]; }

 private:
  std::vector<double> sums_;  // by link
  std::vector<std::uint32_t> loaded_;
};

}  // namespace orrery
