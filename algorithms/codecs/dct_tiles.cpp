#include "algorithms/codecs/dct_tiles.hpp"

#include <algorithm>

#include "algorithms/codecs/codec.hpp"
#include "algorithms/codecs/message.hpp"

namespace orrery {

namespace {

std::size_t largest_divisor(std::size_t n, std::size_t most) {
  for (std::size_t d = std::min(n, most); d > 1; --d)
    if (n % d == 0) return d;
  return 1;
}

}  // namespace

DctTiles::DctTiles(std::span<const Parameter> parameters, std::int64_t chunk, std::int64_t kept)
    : kept_(static_cast<std::size_t>(kept)) {
  for (const Parameter& p : parameters) add_tiles(p, static_cast<std::size_t>(chunk));
  for (Tile& tile : tiles_) {
    tile.message = static_cast<std::size_t>(message_bytes_);
    message_bytes_ += static_cast<std::int64_t>(6 * kept_of(tile));
  }
}

void DctTiles::add_tiles(const Parameter& p, std::size_t chunk) {
  const auto all = static_cast<std::size_t>(p.elements), begin = static_cast<std::size_t>(p.begin);
  const std::size_t columns = p.columns > 1 ? static_cast<std::size_t>(p.columns) : all;
  const std::size_t rows = all / columns;
  const std::size_t s = largest_divisor(rows, chunk), t = largest_divisor(columns, chunk);
  for (const std::size_t n : {s, t}) {
    if (bases_.size() <= n) bases_.resize(n + 1);
    if (!bases_[n].empty()) continue;
    for (std::size_t j = 0; j < n; ++j) {
      std::vector<float> unit(n), row(n);
      unit[j] = 1;
      inverse_cosine_transform(unit, row);
      bases_[n].insert(bases_[n].end(), row.begin(), row.end());
    }
  }
  for (std::size_t row = 0; row < rows; row += s)
    for (std::size_t column = 0; column < columns; column += t)
      tiles_.push_back({begin + row * columns + column, s, t, columns, 0});
}

const std::vector<float>& DctTiles::basis(std::size_t n) const { return bases_[n]; }

// Along rows, then along columns: sums of 64 terms at most, in fp32.
void DctTiles::transform(const Tile& tile, std::vector<float>& x, bool inverse) const {
  const auto along = [&](std::size_t n, std::size_t count, std::size_t step, std::size_t next) {
    const std::vector<float>& rows = basis(n);
    std::vector<float> out(n);
    for (std::size_t line = 0; line < count; ++line) {
      for (std::size_t j = 0; j < n; ++j) {
        float sum = 0;
        for (std::size_t i = 0; i < n; ++i)
          sum += (inverse ? rows[i * n + j] : rows[j * n + i]) * x[line * next + i * step];
        out[j] = sum;
      }
      for (std::size_t j = 0; j < n; ++j) x[line * next + j * step] = out[j];
    }
  };
  along(tile.columns, tile.rows, 1, tile.columns);
  if (tile.rows > 1) along(tile.rows, tile.columns, tile.columns, 1);
}

void DctTiles::extract(std::span<float> m, std::span<std::byte> message) const {
  std::vector<float> x;
  for (const Tile& tile : tiles_) {
    x.resize(tile.size());
    for (std::size_t r = 0; r < tile.rows; ++r)
      std::copy_n(m.begin() + static_cast<std::ptrdiff_t>(tile.begin + r * tile.stride),
                  tile.columns, x.begin() + static_cast<std::ptrdiff_t>(r * tile.columns));
    transform(tile, x, false);
    std::vector<float> sent(tile.size());
    std::size_t at = tile.message;
    for (const std::int32_t place : largest(x, static_cast<std::int64_t>(kept_of(tile)))) {
      const float value = sent[static_cast<std::size_t>(place)] =
          x[static_cast<std::size_t>(place)];
      put(message, at, value);
      put(message, at + 4, static_cast<std::uint16_t>(place));
      at += 6;
    }
    if (kept_of(tile) == tile.size()) std::fill(x.begin(), x.end(), 0.0F);
    for (std::size_t i = 0; i < x.size(); ++i)
      if (sent[i] != 0) x[i] = 0;
    transform(tile, x, true);
    for (std::size_t r = 0; r < tile.rows; ++r)
      std::copy_n(x.begin() + static_cast<std::ptrdiff_t>(r * tile.columns), tile.columns,
                  m.begin() + static_cast<std::ptrdiff_t>(tile.begin + r * tile.stride));
  }
}

void DctTiles::combine(std::span<const std::byte> messages, std::size_t n,
                       std::span<float> u) const {
  const std::size_t size = messages.size() / n;
  std::vector<float> sum, count;
  for (const Tile& tile : tiles_) {
    sum.assign(tile.size(), 0);
    count.assign(tile.size(), 0);
    for (std::size_t i = 0; i < n; ++i)
      for (std::size_t k = 0; k < kept_of(tile); ++k) {
        const std::size_t at = i * size + tile.message + 6 * k;
        const auto place = static_cast<std::size_t>(get<std::uint16_t>(messages, at + 4));
        sum[place] += get<float>(messages, at);
        count[place] += 1;
      }
    for (std::size_t i = 0; i < sum.size(); ++i)
      if (count[i] > 0) sum[i] /= count[i];
    transform(tile, sum, true);
    for (std::size_t r = 0; r < tile.rows; ++r)
      std::copy_n(sum.begin() + static_cast<std::ptrdiff_t>(r * tile.columns), tile.columns,
                  u.begin() + static_cast<std::ptrdiff_t>(tile.begin + r * tile.stride));
  }
}

}  // namespace orrery
