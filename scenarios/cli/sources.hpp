// The comments of our own sources as texts to show: what `orrery explain` says about an algorithm
// or a schedule is what its file says.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace orrery::cli {

struct EmbeddedSource {
  std::string path;  // "algorithms/ddp.cpp"
  std::string_view text;
};
// Put into the program when it is built (embed.cmake).
const std::vector<EmbeddedSource>& embedded_sources();

struct Explained {
  std::string name;     // as scenarios write it: "streaming-diloco", "1f1b"
  std::string path;     // of the source
  std::string text;     // the comment, without its slashes
  std::string summary;  // its first sentence
};

// The algorithms of the table: the opening comment of their sources, and what they compose with.
std::vector<Explained> explained_algorithms();
// Schedules: the comments of algorithms/pipeline/schedule.hpp that start with the schedule's name.
std::vector<Explained> explained_schedules();
// Names that a scenario may give to its schedule, and whether this version runs it.
struct ScheduleName {
  std::string name;
  bool available = false;
};
std::vector<ScheduleName> schedule_names();

}  // namespace orrery::cli
