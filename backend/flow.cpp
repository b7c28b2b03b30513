#include "backend/flow.hpp"

namespace orrery {

std::string Wait::describe() const {
  std::string text;
  switch (kind) {
    case Kind::events:
      text = events.size() == 1 ? "operation " + std::to_string(events[0].ordinal) + " of stream " +
                                      std::to_string(events[0].stream)
                                : "any of " + std::to_string(events.size()) + " events";
      break;
    case Kind::signal:
      text = "signal " + signal->name();
      break;
    case Kind::message:
      text = "a message with tag " + std::to_string(tag) +
             (from == any_source ? " from anyone" : " from " + std::to_string(from));
      break;
    case Kind::join:
      text = "the end of flow " + std::to_string(flow_joined);
      break;
    case Kind::time:
      text = "its deadline";
      break;
  }
  return text + " (" + to_string(site) + ")";
}

bool HostState::satisfied(const Wait& wait) const {
  switch (wait.kind) {
    case Wait::Kind::events:
      for (const Event& event : wait.events)
        if (done(event)) return true;
      return false;
    case Wait::Kind::signal:
      return wait.signal->raised() > 0;
    case Wait::Kind::message:
      return find(wait.tag, wait.from) >= 0;
    case Wait::Kind::join:
      return flow_ended[wait.flow_joined];
    case Wait::Kind::time:
      return false;
  }
  return false;
}

int HostState::find(Tag tag, int from) const {
  for (std::size_t i = 0; i < mailbox.size(); ++i)
    if (mailbox[i].tag == tag && (from == any_source || mailbox[i].from == from))
      return static_cast<int>(i);
  return -1;
}

}  // namespace orrery
