#include "backend/ledger.hpp"

#include <algorithm>

namespace orrery {

const char* name(Label label) {
  static constexpr std::array<const char*, label_count> names{
      "parameters",    "gradients", "optimizer", "activations",
      "communication", "workspace", "reserve"};
  return names.at(static_cast<std::size_t>(label));
}

void Ledger::add(Label label, Bytes size) {
  used_ += size;
  by_label_[static_cast<std::size_t>(label)] += size;
  if (used_ > peak_) {
    peak_ = used_;
    peak_by_label_ = by_label_;
  }
}

void Ledger::charge(Storage& storage) {
  storage.ledger_slot = static_cast<std::uint32_t>(live_.size());
  live_.push_back(&storage);
  add(storage.label, storage.bytes());
}

void Ledger::refund(Storage& storage) {
  ORRERY_ASSERT(live_[storage.ledger_slot] == &storage, "a refund needs a charge");
  live_[storage.ledger_slot] = live_.back();
  live_.back()->ledger_slot = storage.ledger_slot;
  live_.pop_back();
  used_ -= storage.bytes();
  by_label_[static_cast<std::size_t>(storage.label)] -= storage.bytes();
}

void Ledger::charge(Label label, Bytes size) { add(label, size); }

Error Ledger::out_of_memory(Bytes size, const std::string& what) const {
  Error error(Category::out_of_memory, "out of memory: " + what + " needs " +
                                           std::to_string(size.value) + " bytes, " +
                                           std::to_string(used_.value) + " of " +
                                           std::to_string(capacity_.value) + " are in use");
  std::vector<std::pair<Bytes, int>> labels;
  for (int i = 0; i < label_count; ++i)
    if (by_label_[static_cast<std::size_t>(i)].value > 0)
      labels.emplace_back(by_label_[static_cast<std::size_t>(i)], i);
  std::sort(labels.begin(), labels.end(),
            [](const auto& a, const auto& b) { return a.first > b.first; });
  for (const auto& [held, label] : labels)
    error.with(std::string("held by ") + name(static_cast<Label>(label)),
               std::to_string(held.value) + " bytes");
  std::vector<Storage*> largest = live_;
  const std::size_t shown = std::min<std::size_t>(5, largest.size());
  std::partial_sort(largest.begin(), largest.begin() + static_cast<std::ptrdiff_t>(shown),
                    largest.end(), [](const Storage* a, const Storage* b) {
                      return a->bytes() != b->bytes() ? a->bytes() > b->bytes() : a->name < b->name;
                    });
  for (std::size_t i = 0; i < shown; ++i)
    error.with("largest", (largest[i]->name.empty() ? "unnamed" : largest[i]->name) + " (" +
                              name(largest[i]->label) + "), " +
                              std::to_string(largest[i]->bytes().value) + " bytes");
  return error;
}

}  // namespace orrery
