// Everything in a report, as text that two runs can be compared by.
#pragma once

#include <iomanip>
#include <sstream>
#include <string>

#include "backend/world.hpp"

namespace orrery {

inline std::string to_text(const RunReport& report) {
  std::ostringstream text;
  text << std::setprecision(17);
  text << report.end.picoseconds << ' ' << report.activities << ' ' << report.flows << '\n';
  for (const RankReport& rank : report.ranks) {
    for (const StepMark& step : rank.steps) {
      const TimeParts& p = step.parts;
      text << step.at.picoseconds << ':' << p.compute.picoseconds << ' '
           << p.exposed_communication.picoseconds << ' ' << p.bubble.picoseconds << ' '
           << p.overhead.picoseconds << ' ' << p.idle.picoseconds << '\n';
    }
    for (const ChannelReport& c : rank.channels)
      text << c.group << '/' << c.lane << ' ' << name(c.use.kind) << ' ' << c.use.calls << ' '
           << c.use.bytes.value << ' ' << c.use.busy.picoseconds << ' ' << c.use.exposed.picoseconds
           << '\n';
    text << rank.peak.value << ' ' << rank.host_peak.value << ' ' << rank.operations << ' '
         << rank.matrix_flops.value << '\n';
    for (const Bytes label : rank.peak_by_label) text << label.value << ' ';
    text << '\n';
    for (const auto& [step, loss] : rank.losses) text << step << ' ' << loss << '\n';
  }
  return text.str() + to_text(report.decisions);
}

}  // namespace orrery
