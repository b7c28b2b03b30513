#include "backend/host/arena.hpp"

#include <algorithm>
#include <new>

namespace orrery::host {

namespace {
constexpr std::int64_t alignment = 64;
constexpr Bytes always_cached{64 << 20};

Bytes rounded(Bytes size) {
  return Bytes((std::max<std::int64_t>(size.value, 1) + alignment - 1) / alignment * alignment);
}
}  // namespace

const Arena::Source Arena::ordinary_memory{
    [](std::size_t bytes) { return ::operator new (bytes, std::align_val_t{alignment}); },
    [](void* data) { ::operator delete (data, std::align_val_t{alignment}); }};

Arena::~Arena() {
  for (auto& [size, blocks] : free_)
    for (const Free& block : blocks) source_.give_back(block.data);
}

void* Arena::take(Bytes size, std::uint32_t home, Place place) {
  const Bytes room = rounded(size);
  Use& use = use_[static_cast<std::size_t>(place)];
  use.live += room;
  use.highest = std::max(use.highest, use.live);
  std::vector<Free>& blocks = free_[room.value];
  auto chosen = std::find_if(blocks.rbegin(), blocks.rend(),
                             [home](const Free& block) { return block.home == home; });
  if (chosen == blocks.rend())
    chosen = std::find_if(blocks.rbegin(), blocks.rend(),
                          [this](const Free& block) { return done_(block.after); });
  if (chosen == blocks.rend()) return source_.take(static_cast<std::size_t>(room.value));
  void* data = chosen->data;
  blocks.erase(std::next(chosen).base());
  cached_ -= room;
  return data;
}

void Arena::give_back(void* data, Bytes size, std::uint32_t home, Place place, Event after) {
  const Bytes room = rounded(size);
  use_[static_cast<std::size_t>(place)].live -= room;
  free_[room.value].push_back({data, home, after});
  cached_ += room;
  if (source_.early && cached_ > always_cached + use_[0].live + use_[1].live) trim();
}

// Returns every cached block that is out of use to the system.
void Arena::trim() {
  for (auto& [size, blocks] : free_)
    std::erase_if(blocks, [&](const Free& block) {
      if (!done_(block.after)) return false;
      source_.give_back(block.data);
      cached_ -= Bytes(size);
      return true;
    });
}

}  // namespace orrery::host
