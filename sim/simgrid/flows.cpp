#include "sim/simgrid/flows.hpp"

#include <algorithm>
#include <cmath>
#include <simgrid/kernel/resource/Model.hpp>
#include <simgrid/kernel/routing/NetPoint.hpp>
#include <simgrid/kernel/routing/NetZoneImpl.hpp>
#include <string>

#include "backend/core/error.hpp"
#include "sim/simgrid/versions.hpp"

namespace orrery::sim {

namespace s4u = simgrid::s4u;
namespace routing = simgrid::kernel::routing;
using simgrid::kernel::resource::StandardLinkImpl;

// A flat zone whose every route is the path set last.
class PathZone : public routing::NetZoneImpl {
 public:
  explicit PathZone(const std::string& name) : NetZoneImpl(name) {}
  std::vector<StandardLinkImpl*> path;

 private:
  void get_local_route(const routing::NetPoint*, const routing::NetPoint*, routing::Route* into,
                       double*) override {
    into->link_list_.insert(into->link_list_.end(), path.begin(), path.end());
  }
};

Flows::Flows(EventQueue& ended, const Time& now, EngineCounters& counters)
    : ended_(ended), now_(now), counters_(counters) {}

void Flows::make_platform() {
  // Since version 4 SimGrid has a root zone already; before, ours becomes it. SimGrid owns ours.
  const s4u::NetZone* root = s4u::Engine::get_instance()->get_netzone_root();
  zone_ = new PathZone("flat");
  if (root != nullptr) zone_->set_parent(root->get_impl());
  from_ = add_host(*zone_, "from");
  to_ = add_host(*zone_, "to");
  // The model is of a class derived from Model, but only Model is declared in SimGrid's public
  // headers. SimGrid lists all models; the network's is the one with this name.
  for (auto* model : s4u::Engine::get_instance()->get_all_models()) {
    if (model->get_name() == "Network_CM02") network_ = model;
  }
  ORRERY_ASSERT(network_ != nullptr, "SimGrid has made no CM02 network model");
  s4u::Comm::on_completion_cb([this](const s4u::Activity& activity) { on_completion(activity); });
}

LinkId Flows::add_link(BytesPerSecond bandwidth) {
  ORRERY_ASSERT(bandwidth.value > 0 && std::isfinite(bandwidth.value), "a link needs a bandwidth");
  s4u::Link* link = sim::add_link(*zone_, std::to_string(links_.size()), bandwidth.value);
  link->set_latency(0);
  links_.push_back(link->get_impl());
  faces_.push_back(link);
  return LinkId{static_cast<std::uint32_t>(links_.size() - 1)};
}

void Flows::request(std::span<const LinkId> path, Bytes size, const Key& key,
                    std::uint64_t payload) {
  ORRERY_ASSERT(!path.empty(), "a flow needs a path of at least one link");
  ORRERY_ASSERT(size.value >= 0, "a flow cannot have a negative size");
  ORRERY_ASSERT(key.fits(), "a key within its bounds");
  for (std::size_t i = 0; i < path.size(); ++i) {
    ORRERY_ASSERT(path[i].value < links_.size(), "a flow's path names a link that does not exist");
    ORRERY_ASSERT(std::find(path.begin(), path.begin() + static_cast<std::ptrdiff_t>(i), path[i]) ==
                      path.begin() + static_cast<std::ptrdiff_t>(i),
                  "a flow's path crosses a link twice");
  }
  if (size.value == 0) {
    ended_.push({now_.picoseconds, key.packed(), payload});
    return;
  }
  requests_.push_back({static_cast<std::uint32_t>(request_links_.size()),
                       static_cast<std::uint32_t>(path.size()), size.value, key, payload});
  request_links_.insert(request_links_.end(), path.begin(), path.end());
}

void Flows::refresh(double clock) {
  finished_.clear();
  if (live_ == 0) {
    delay_ = -1;
    next_end_ = time_never;
    tell_rates();
    return;
  }
  // SimGrid asks its network model itself in each of its steps; asking once more is free while no
  // flow has changed.
  delay_ = network_->next_occurring_event(clock);
  ORRERY_ASSERT(delay_ > -simgrid_precision,
                "SimGrid has live flows and no end for them, or one in the past");
  delay_ = std::max(delay_, 0.0);
  tell_rates();
  const double since = (clock + delay_ - tied_clock_) * 1e12;
  next_end_ = std::max(now_, tied_time_ + Time(static_cast<std::uint64_t>(std::llround(since))));
}

// SimGrid has just shared the links anew.
void Flows::tell_rates() {
  if (!rate_changed_ || !flows_changed_) return;
  flows_changed_ = false;
  std::size_t kept = 0;
  for (Watched& watched : watched_) {
    const double rate = live_ == 0 ? 0 : load_of(*faces_[watched.link.value]);
    if (rate != watched.rate) rate_changed_(now_, watched.link, BytesPerSecond(rate));
    watched.rate = rate;
    if (rate > 0)
      watched_[kept++] = watched;
    else
      is_watched_[watched.link.value] = false;
  }
  watched_.resize(kept);
}

double Flows::lag(double clock) const {
  if (live_ == 0) return 0;  // SimGrid's clock will be tied to now_ where it is
  const double target = tied_clock_ + static_cast<double>((now_ - tied_time_).picoseconds) * 1e-12;
  const double lag = target - clock;
  const double smallest_step = 0x1p-51 * target;
  return lag > std::max(0.1e-12, smallest_step) ? std::min(lag, delay_) : 0;
}

void Flows::start_requested(double clock) {
  if (live_ == 0) {
    tied_time_ = now_;
    tied_clock_ = clock;
  }
  for (const Request& request : requests_) start(request);
  requests_.clear();
  request_links_.clear();
  counters_.most_live_flows = std::max(counters_.most_live_flows, live_);
  refresh(clock);
}

void Flows::start(const Request& request) {
  if (free_slots_.empty()) {
    free_slots_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const std::uint32_t slot = free_slots_.back();
  free_slots_.pop_back();
  zone_->path.clear();
  for (std::uint32_t i = 0; i < request.links; ++i) {
    zone_->path.push_back(links_[request_links_[request.first_link + i].value]);
  }
  s4u::CommPtr comm = s4u::Comm::sendto_init();
  comm->set_payload_size(static_cast<std::uint64_t>(request.size));
  comm->set_data(reinterpret_cast<void*>(std::uintptr_t{slot} + 1));
  comm->set_source(from_);
  comm->set_destination(to_);  // this starts it
  slots_[slot] = {std::move(comm), request.key, request.payload};
  ++live_;
  flows_changed_ = true;
  for (std::uint32_t i = 0; rate_changed_ && i < request.links; ++i) {
    const LinkId link = request_links_[request.first_link + i];
    is_watched_.resize(links_.size());
    if (is_watched_[link.value]) continue;
    is_watched_[link.value] = true;
    watched_.push_back({link, 0});
  }
}

void Flows::on_completion(const s4u::Activity& activity) {
  const auto* comm = static_cast<const s4u::Comm*>(&activity);
  const auto number = reinterpret_cast<std::uintptr_t>(comm->get_data<void>());
  if (number == 0 || activity.get_state() != s4u::Activity::State::FINISHED) return;
  Live& flow = slots_[number - 1];
  if (flow.comm.get() != comm) return;  // dropped
  ended_.push({now_.picoseconds, flow.key.packed(), flow.payload});
  finished_.push_back(std::move(flow.comm));
  free_slots_.push_back(static_cast<std::uint32_t>(number - 1));
  --live_;
  flows_changed_ = true;
  ++counters_.flows;
}

void Flows::drop_all() {
  requests_.clear();
  request_links_.clear();
  live_ = 0;
  for (Live& flow : slots_) {
    if (!flow.comm) continue;
    finished_.push_back(std::move(flow.comm));
    finished_.back()->cancel();
  }
}

}  // namespace orrery::sim
