// The memory account of one place (device or host) of one rank, kept in issue order.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "backend/tensor.hpp"

namespace orrery {

using BytesByLabel = std::array<Bytes, label_count>;

class Ledger {
 public:
  explicit Ledger(Bytes capacity) : capacity_(capacity) {}  // capacity 0: unlimited

  bool fits(Bytes size) const { return capacity_.value == 0 || used_ + size <= capacity_; }
  void charge(Storage& storage);
  void refund(Storage& storage);
  // A charge without storage (a kernel's workspace, a framework's reserve); never refunded.
  void charge(Label label, Bytes size);

  Bytes used() const { return used_; }
  Bytes peak() const { return peak_; }
  Bytes capacity() const { return capacity_; }
  const BytesByLabel& peak_by_label() const { return peak_by_label_; }
  // Error{out_of_memory} for a request of `size`: what is held by label, and the largest tensors.
  Error out_of_memory(Bytes size, const std::string& what) const;

 private:
  void add(Label label, Bytes size);
  Bytes capacity_, used_, peak_;
  BytesByLabel by_label_{}, peak_by_label_{};
  std::vector<Storage*> live_;  // storage->ledger_slot is its index
};

}  // namespace orrery
