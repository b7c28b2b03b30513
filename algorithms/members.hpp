// Workers that come and go while others train.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "backend/core/config.hpp"
#include "backend/core/units.hpp"

namespace orrery {

// A worker that is not there from the start, or does not stay to the end.
struct Member {
  std::int64_t worker = 0;
  std::optional<std::int64_t> joins_after;  // gradients of all together, or steps of the training
  std::optional<std::int64_t> leaves_after, dies_after;  // gradients or steps of its own
};
void describe(Fields<Member>& f);
// A problem where one dies and no deadline is set by which the others notice.
void check_members_noticed(const std::vector<Member>& members,
                           const std::optional<Seconds>& deadline, const SectionProblems& problems);

}  // namespace orrery
