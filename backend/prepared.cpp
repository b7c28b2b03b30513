#include "backend/prepared.hpp"

#include <cmath>

#include "backend/core/error.hpp"

namespace orrery {

int Sequence::slot(std::string slot_name) {
  ORRERY_ASSERT(slots_.size() < static_cast<std::size_t>(max_operands),
                "a sequence has at most max_operands slots");
  slots_.push_back(std::move(slot_name));
  return static_cast<int>(slots_.size()) - 1;
}

void Sequence::add(Prepared prepared, std::vector<SlotView> operands) {
  for (std::size_t i = 0; i < operands.size(); ++i) {
    if (operands[i].slot < 0) continue;
    ORRERY_ASSERT(static_cast<std::size_t>(operands[i].slot) < slots_.size(),
                  "an operand names a declared slot");
    const auto role = static_cast<std::uint32_t>(role_of(prepared.roles, i));
    roles_ |= role << (2 * operands[i].slot);
  }
  duration_ += prepared.kernel->duration;
  const auto picoseconds = static_cast<double>(prepared.kernel->duration.picoseconds);
  squares_ += picoseconds * picoseconds;
  const Cost& c = prepared.kernel->cost;
  cost_.matrix += c.matrix;
  cost_.executed += c.executed;
  cost_.vector += c.vector;
  cost_.read += c.read;
  cost_.written += c.written;
  steps_.push_back({prepared, std::move(operands)});
}

double Sequence::unevenness() const {
  const auto sum = static_cast<double>(duration_.picoseconds);
  return sum > 0 ? std::sqrt(squares_) / sum : 1;
}

Prepared Catalogue::prepare(const Kernel& kernel) {
  const std::lock_guard lock(mutex_);
  if (const auto known = by_kernel_.find(kernel); known != by_kernel_.end())
    return {known->second, kernel.roles};
  PreparedKernel fresh;
  fresh.kernel = kernel;
  fresh.cost = cost(kernel);
  fresh.id = static_cast<std::uint32_t>(kernels_.size());
  price_(fresh);  // may throw
  const PreparedKernel& prepared = kernels_.emplace_back(std::move(fresh));
  by_kernel_.emplace(kernel, &prepared);
  return {&prepared, kernel.roles};
}

const Sequence& Catalogue::sequence(const std::string& key,
                                    const std::function<void(Sequence&)>& build) {
  const std::lock_guard lock(mutex_);
  auto& entry = sequences_[key];
  if (!entry) {
    auto fresh = std::make_unique<Sequence>(key);
    build(*fresh);
    entry = std::move(fresh);
  }
  return *entry;
}

}  // namespace orrery
