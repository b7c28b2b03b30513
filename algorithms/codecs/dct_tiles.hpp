// Parameters cut into tiles, and the largest coefficients of each tile's cosine transform: what
// DeMo extracts and sends. As in bloc97/DeMo, demo.py.
//
// A matrix is cut into tiles of s x t, where s and t are the largest divisors of its rows and
// columns that are at most `chunk`; anything else into runs of the largest divisor of its length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "algorithms/unit.hpp"

namespace orrery {

class DctTiles {
 public:
  DctTiles(std::span<const Parameter> parameters, std::int64_t chunk, std::int64_t kept);
  // Of a message: for each tile the `kept` coefficients of largest magnitude (all, if it has
  // fewer), each a number and a place in 16 bits.
  std::int64_t message_bytes() const { return message_bytes_; }
  // message <- the largest coefficients of m; m <- m without them.
  void extract(std::span<float> m, std::span<std::byte> message) const;
  // u <- the inverse transform of the coefficients of `n` messages in a row, each averaged over the
  // messages that hold it.
  void combine(std::span<const std::byte> messages, std::size_t n, std::span<float> u) const;

 private:
  struct Tile {  // `rows` runs of `columns` numbers, `stride` apart
    std::size_t begin, rows, columns, stride, message;
    std::size_t size() const { return rows * columns; }
  };
  std::size_t kept_of(const Tile& tile) const { return std::min(kept_, tile.size()); }
  const std::vector<float>& basis(std::size_t n) const;
  void transform(const Tile& tile, std::vector<float>& x, bool inverse) const;
  void add_tiles(const Parameter& parameter, std::size_t chunk);

  std::size_t kept_;
  std::int64_t message_bytes_ = 0;
  std::vector<Tile> tiles_;
  std::vector<std::vector<float>> bases_;  // by size: row j of the orthonormal DCT-II
};

}  // namespace orrery
