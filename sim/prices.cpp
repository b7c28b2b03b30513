// What communications cost alone, asked of the machine once per communicator, kind and size.
#include <algorithm>

#include "backend/throttle.hpp"
#include "sim/collectives.hpp"

namespace orrery::sim {

namespace {
constexpr std::size_t prices_kept = 64;  // per communicator

Time no_earlier(Time total, const std::optional<Throttle>& throttle, Collective kind, Bytes size,
                int members) {
  return throttle ? std::max(total, throttled_time(*throttle, kind, size, members)) : total;
}

}  // namespace

Collectives::Settings& Collectives::settings(const Communicator& communicator) {
  if (communicator.id() >= settings_.size()) settings_.resize(communicator.id() + 1);
  Settings& found = settings_[communicator.id()];
  if (found.known) return found;
  found.known = true;
  found.fidelity = core_.options.fidelity;
  for (const GroupFidelity& group : core_.options.groups)
    if (group.group == communicator.group()) found.fidelity = group.fidelity;
  if (found.fidelity == Fidelity::automatic) found.fidelity = Fidelity::analytic;
  return found;
}

Time Collectives::alone(Communicator& communicator, const Communication& communication) {
  Rendezvous rendezvous;
  rendezvous.communicator = &communicator;
  rendezvous.first = communication;
  rendezvous.expected = communicator.size();
  return price(rendezvous).total;
}

const Collectives::Price& Collectives::price(const Rendezvous& rendezvous) {
  const Collective kind = rendezvous.first.kind;
  const Bytes size = rendezvous.first.size();
  if (kind == Collective::exchange) return pair_price_ = price_pair(rendezvous);
  std::vector<Price>& prices = settings(*rendezvous.communicator).prices;
  for (const Price& known : prices)
    if (known.kind == kind && known.size == size) return known;
  if (prices.size() == prices_kept) prices.erase(prices.begin());
  prices.push_back(is_pair(kind) ? price_pair(rendezvous)
                                 : price_group(*rendezvous.communicator, kind, size));
  return prices.back();
}

Collectives::Price Collectives::price_pair(const Rendezvous& rendezvous) const {
  const auto [one, other] = ranks_of_pair(rendezvous);
  const Machine& machine = core_.machine;
  Price price{rendezvous.first.kind, rendezvous.first.size(), Time{}, Time{}, Bytes(0)};
  price.volume = price.size;
  price.latency = machine.latency(one, other);
  price.total = machine.message_time(one, other, price.size);
  if (price.kind == Collective::exchange) {
    price.total = std::max(price.total, machine.message_time(other, one, price.size));
    price.latency = std::max(price.latency, machine.latency(other, one));
  }
  price.latency = std::min(price.latency, price.total);
  price.total = no_earlier(price.total, core_.options.throttle, price.kind, price.size, 2);
  return price;
}

Collectives::Price Collectives::price_group(const Communicator& communicator, Collective kind,
                                            Bytes size) const {
  const std::vector<int>& members = communicator.members();
  Price price{kind, size, Time{}, Time{}, Bytes(0)};
  if (members.size() < 2) return price;
  const CollectivePlan plan = core_.machine.plan(kind, size, members);
  price.latency = plan.total;
  price.volume = plan.volume;
  price.total =
      no_earlier(plan.total, core_.options.throttle, kind, size, static_cast<int>(members.size()));
  if (plan.volume.value == 0) return price;
  BytesPerSecond narrowest = core_.machine.bandwidth(members.back(), members.front());
  for (std::size_t i = 0; i + 1 < members.size(); ++i)
    narrowest = std::min(narrowest, core_.machine.bandwidth(members[i], members[i + 1]));
  price.latency = plan.total - std::min(plan.total, to_time(plan.volume / narrowest));
  return price;
}

}  // namespace orrery::sim
