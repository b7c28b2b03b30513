// What communications cost alone, asked of the machine once per communicator, kind and size.
#include <algorithm>
#include <cmath>

#include "backend/throttle.hpp"
#include "sim/collectives.hpp"

namespace orrery::sim {

namespace {
constexpr std::size_t prices_kept = 64;  // per communicator

Time no_earlier(Time total, const std::optional<Throttle>& throttle, Collective kind, Bytes size,
                int members) {
  return throttle ? std::max(total, throttled_time(*throttle, kind, size, members)) : total;
}

// What a transfer takes longer when it has 1/shared of the bandwidth.
Time longer(Time transfer, double shared) {
  return Time(static_cast<std::uint64_t>(
      std::llround(static_cast<double>(transfer.picoseconds) * (shared - 1))));
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
  return found;
}

Time Collectives::alone(Communicator& communicator, const Communication& communication) {
  Rendezvous rendezvous;
  rendezvous.communicator = &communicator;
  rendezvous.first = communication;
  rendezvous.expected = communicator.size();
  return price(rendezvous, settings(communicator)).total;
}

const Collectives::Price& Collectives::price(const Rendezvous& rendezvous, Settings& settings) {
  const Collective kind = rendezvous.first.kind;
  const Bytes size = rendezvous.first.size();
  if (kind == Collective::exchange) return pair_price_ = price_pair(rendezvous);
  std::vector<Price>& prices = settings.prices;
  for (const Price& known : prices)
    if (known.kind == kind && known.size == size) return known;
  if (prices.size() == prices_kept) prices.erase(prices.begin());
  prices.push_back(is_pair(kind) ? price_pair(rendezvous)
                                 : price_group(*rendezvous.communicator, kind, size));
  return prices.back();
}

Collectives::Price Collectives::price_pair(const Rendezvous& rendezvous) {
  const auto [one, other] = ranks_of_pair(rendezvous);
  const Machine& machine = core_.machine;
  Price price{rendezvous.first.kind, rendezvous.first.size(), Time{}, Time{}, Bytes(0), {}};
  price.volume = price.size;
  price.latency = machine.latency(one, other);
  price.total = machine.message_time(one, other, price.size);
  if (price.kind == Collective::exchange) {
    price.total = std::max(price.total, machine.message_time(other, one, price.size));
    price.latency = std::max(price.latency, machine.latency(other, one));
  }
  price.latency = std::min(price.latency, price.total);
  const Communicator& communicator = *rendezvous.communicator;
  if (communicator.edge() && settings(communicator).fidelity == Fidelity::automatic)
    price.total += longer(price.total - price.latency, sharing(communicator, price.kind));
  price.total = no_earlier(price.total, core_.options.throttle, price.kind, price.size, 2);
  return price;
}

// Flows take what moving them takes when nothing else does; the rest of the plan's time goes before
// them. A plan that moves less than its rings would has smaller flows.
Collectives::Price Collectives::price_group(const Communicator& communicator, Collective kind,
                                            Bytes size) {
  const std::vector<int>& members = communicator.members();
  Price price{kind, size, Time{}, Time{}, Bytes(0), {}};
  if (members.size() < 2) return price;
  const CollectivePlan plan = core_.machine.plan(kind, size, members);
  price.latency = price.total = plan.total;
  price.volume = plan.volume;
  const Fidelity fidelity = settings(communicator).fidelity;
  const double shared = fidelity == Fidelity::automatic ? sharing(communicator, kind) : 1;
  if (plan.volume.value > 0 && (core_.options.link_bytes != nullptr || shared > 1 ||
                                fidelity == Fidelity::flow || fidelity == Fidelity::messages)) {
    price.flows = core_.machine.flows(kind, size, members);
    Time alone = to_time(transfer_time(core_.machine, price.flows));
    if (alone > plan.total) {
      const double less =
          static_cast<double>(plan.total.picoseconds) / static_cast<double>(alone.picoseconds);
      for (Flow& flow : price.flows)
        flow.size = Bytes(static_cast<std::int64_t>(static_cast<double>(flow.size.value) * less));
      alone = plan.total;
    }
    price.latency = plan.total - alone;
    price.total += longer(alone, shared);
  }
  price.total =
      no_earlier(price.total, core_.options.throttle, kind, size, static_cast<int>(members.size()));
  return price;
}

}  // namespace orrery::sim
