// Operands that are meant to race (Tensor::racy).
//
// Racy operations of one rank are atomic among themselves: each holds the rank's racy lock while it
// reads, computes and writes. Against operations that do not say `racy` they do race, by the
// program's own wish; their copies are therefore made by a function that the thread sanitizer does
// not watch, the only suppression in this world.
#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "backend/kernel.hpp"

namespace orrery::cpu {

// memcpy whose source or target another thread may write meanwhile: every 8-byte word (and byte
// behind the last) is read once and written once.
void racy_copy(void* to, const void* from, std::size_t bytes);

// Runs `body` on copies of the racy operands: those read are copied before it, those written are
// copied back after it. `racy` has a bit per operand. Holds `mutex` throughout.
template <class Body>
void run_racy(std::mutex& mutex, std::span<const View> views, std::uint16_t racy,
              std::uint32_t roles, const Body& body) {
  const std::lock_guard lock(mutex);
  std::vector<View> staged(views.begin(), views.end());
  std::vector<std::unique_ptr<std::byte[]>> copies(views.size());
  const auto bytes = [&](std::size_t i) {
    return static_cast<std::size_t>(bytes_of(views[i].elements, views[i].dtype).value);
  };
  for (std::size_t i = 0; i < views.size(); ++i) {
    if (((racy >> i) & 1U) == 0 || views[i].data == nullptr) continue;
    copies[i] = std::make_unique<std::byte[]>(bytes(i));
    racy_copy(copies[i].get(), views[i].data, bytes(i));
    staged[i].data = copies[i].get();
  }
  body(std::span<const View>(staged));
  for (std::size_t i = 0; i < views.size(); ++i)
    if (copies[i] != nullptr && role_of(roles, i) != Role::read)
      racy_copy(views[i].data, copies[i].get(), bytes(i));
}

}  // namespace orrery::cpu
