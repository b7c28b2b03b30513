#include "algorithms/members.hpp"

#include <algorithm>

namespace orrery {

void describe(Fields<Member>& f) {
  f.field("worker", &Member::worker).required().at_least(0);
  f.field("joins_after", &Member::joins_after)
      .at_least(1)
      .doc(
          "gradients of all workers together, or steps of those that meet; until then it is not "
          "there");
  f.field("leaves_after", &Member::leaves_after)
      .at_least(1)
      .doc("gradients or steps of its own; it tells the others");
  f.field("dies_after", &Member::dies_after)
      .at_least(1)
      .doc(
          "gradients or steps of its own; it falls silent, but for an averaging that it has agreed "
          "to");
}

void check_members_noticed(const std::vector<Member>& members,
                           const std::optional<Seconds>& deadline,
                           const SectionProblems& problems) {
  const bool some_die =
      std::ranges::any_of(members, [](const Member& m) { return m.dies_after.has_value(); });
  if (some_die && !deadline)
    problems.add("members", "a worker that dies has to be noticed", "set deadline");
}

}  // namespace orrery
