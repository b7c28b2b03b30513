// What SimGrid calls by other names in its version 4 than in 3.32. Internal to sim/simgrid and its
// tests. What both versions have under one name is called directly.
#pragma once

#include <functional>
#include <simgrid/kernel/routing/NetZoneImpl.hpp>
#include <simgrid/s4u.hpp>
#include <string>

// After another header of SimGrid: it does not include what it needs.
#include <simgrid/version.h>

namespace orrery::sim {

// A host of one flop/s.
inline simgrid::s4u::Host* add_host(simgrid::kernel::routing::NetZoneImpl& zone,
                                    const std::string& name) {
#if SIMGRID_VERSION_MAJOR >= 4
  return zone.add_host(name, {1.0});
#else
  return zone.create_host(name, {1.0});
#endif
}

// `bandwidth` is in bytes/s.
inline simgrid::s4u::Link* add_link(simgrid::kernel::routing::NetZoneImpl& zone,
                                    const std::string& name, double bandwidth) {
#if SIMGRID_VERSION_MAJOR >= 4
  return zone.add_link(name, {bandwidth});
#else
  return zone.create_link(name, {bandwidth});
#endif
}

// An actor that runs `body` on the host.
inline simgrid::s4u::ActorPtr add_actor(const std::string& name, simgrid::s4u::Host* host,
                                        const std::function<void()>& body) {
#if SIMGRID_VERSION_MAJOR >= 4
  return simgrid::s4u::Engine::add_actor(name, host, body);
#else
  return simgrid::s4u::Actor::create(name, host, body);
#endif
}

// Bytes/s that cross the link now. The name is another since 3.36.
template <class Link>
double load_of(const Link& link) {
  if constexpr (requires { link.get_load(); })
    return link.get_load();
  else
    return link.get_usage();
}

}  // namespace orrery::sim
