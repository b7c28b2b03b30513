// Flows over shared links: requests of an instant are started together as SimGrid communications,
// and their ends are given back. Internal to sim/simgrid.
//
// SimGrid's clock is a double that moves only for flows; this class maps it to engine time.
// Whenever no flow is live the two are tied anew, so that its rounding never exceeds that of one
// busy period.
//
// All communications run between the same two SimGrid hosts: the zone answers every question for a
// route with the path of the flow that is being started. A platform of 100,000 GPUs therefore costs
// its links and nothing else.
#pragma once

#include <cstdint>
#include <functional>
#include <simgrid/s4u.hpp>
#include <span>
#include <vector>

#include "sim/simgrid/engine.hpp"
#include "sim/simgrid/event_queue.hpp"

namespace orrery::sim {

class PathZone;

class Flows {
 public:
  // Ends are pushed to `ended`, at the time `*now` has when SimGrid reports them.
  Flows(EventQueue& ended, const Time& now, EngineCounters& counters);

  // The platform of SimGrid: the zone, its models and two hosts. Once, after SimGrid's engine
  // exists.
  void make_platform();
  simgrid::s4u::Host* host() const { return from_; }

  LinkId add_link(BytesPerSecond bandwidth);

  // See Engine::watch_links.
  void watch(std::function<void(Time, LinkId, BytesPerSecond)> changed) {
    rate_changed_ = std::move(changed);
  }

  void request(std::span<const LinkId> path, Bytes size, const Key& key, std::uint64_t payload);
  bool requested() const { return !requests_.empty(); }
  std::uint32_t live() const { return live_ + static_cast<std::uint32_t>(requests_.size()); }

  // Looks at SimGrid's network again; to be called when SimGrid's clock or the set of its flows may
  // have changed.
  void refresh(double clock);
  // When the next flow ends, not before `*now`; time_never without flows. As of the last refresh.
  Time next_end() const { return next_end_; }
  // Whether a flow ends at the present instant. As of the last refresh.
  bool end_is_due() const { return live_ > 0 && (next_end_ <= now_ || delay_ < simgrid_precision); }
  // How far SimGrid's clock has to move for the next flow to end, in SimGrid's seconds.
  double delay() const { return delay_; }
  // How far SimGrid's clock has to move before flows requested now can start; 0 when it is there.
  double lag(double clock) const;
  // Starts everything requested. SimGrid's clock must have no lag.
  void start_requested(double clock);

  // Forgets requests and cancels what is live; SimGrid removes it at its next step.
  void drop_all();

  static constexpr double simgrid_precision =
      1e-12;  // SimGrid joins events closer than this, in seconds

 private:
  struct Request {
    std::uint32_t first_link = 0;  // in request_links_
    std::uint32_t links = 0;
    std::int64_t size = 0;
    Key key;
    std::uint64_t payload = 0;
  };
  struct Live {
    simgrid::s4u::CommPtr comm;
    Key key;
    std::uint64_t payload = 0;
  };

  void on_completion(const simgrid::s4u::Activity& activity);
  void start(const Request& request);
  void tell_rates();

  EventQueue& ended_;
  const Time& now_;
  EngineCounters& counters_;

  PathZone* zone_ = nullptr;  // owned by SimGrid
  simgrid::kernel::resource::Model* network_ = nullptr;
  simgrid::s4u::Host* from_ = nullptr;
  simgrid::s4u::Host* to_ = nullptr;
  std::vector<simgrid::kernel::resource::StandardLinkImpl*> links_;

  struct Watched {
    LinkId link;
    double rate = 0;  // as it was told last
  };
  std::function<void(Time, LinkId, BytesPerSecond)> rate_changed_;
  std::vector<Watched> watched_;            // the links that flows use, each once
  std::vector<bool> is_watched_;            // by link
  bool flows_changed_ = false;              // since rates were told
  std::vector<simgrid::s4u::Link*> faces_;  // of links_

  std::vector<Request> requests_;
  std::vector<LinkId> request_links_;
  std::vector<Live> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<simgrid::s4u::CommPtr> finished_;  // kept until SimGrid has left their callbacks
  std::uint32_t live_ = 0;

  double delay_ = -1;
  Time next_end_ = time_never;
  Time tied_time_;  // engine time and SimGrid's clock when no flow was live
  double tied_clock_ = 0;
};

}  // namespace orrery::sim
