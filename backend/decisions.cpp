#include "backend/decisions.hpp"

#include <array>
#include <limits>
#include <sstream>

namespace orrery {

namespace {
constexpr std::array<const char*, 6> kind_names{"poll",    "wait_any", "timed_wait",
                                                "receive", "handover", "clock"};
constexpr const char* header = "orrery.decisions/1";
}  // namespace

const char* name(DecisionKind kind) { return kind_names.at(static_cast<std::size_t>(kind)); }

void DecisionLog::record(DecisionKind kind, std::uint32_t flow, std::int64_t result) {
  if (mode == DecisionMode::record) decisions.push_back({kind, flow, result});
}

std::size_t DecisionLog::reserve(DecisionKind kind, std::uint32_t flow) {
  record(kind, flow, 0);
  return decisions.size() - 1;
}

void DecisionLog::fill(std::size_t place, std::int64_t result) {
  if (mode == DecisionMode::record) decisions[place].result = result;
}

std::int64_t DecisionLog::next(DecisionKind kind, std::uint32_t flow, Site site) {
  const auto asked =
      std::string(name(kind)) + " of flow " + std::to_string(flow) + " (" + to_string(site) + ")";
  if (at_ == decisions.size())
    throw Error(Category::replay, "the decision log ends after " + std::to_string(at_) +
                                      " decisions; the program asks for another")
        .with("asked", asked);
  const Decision& decision = decisions[at_];
  if (decision.kind != kind || decision.flow != flow)
    throw Error(Category::replay,
                "decision " + std::to_string(at_) +
                    " of the log is of another kind: the program is not the one recorded")
        .with("asked", asked)
        .with("logged",
              std::string(name(decision.kind)) + " of flow " + std::to_string(decision.flow));
  ++at_;
  return decision.result;
}

std::string to_text(const std::vector<DecisionLog>& logs) {
  std::string text = std::string(header) + " " + std::to_string(logs.size()) + "\n";
  for (std::size_t rank = 0; rank < logs.size(); ++rank)
    for (const Decision& d : logs[rank].decisions)
      text += std::to_string(rank) + " " + name(d.kind) + " " + std::to_string(d.flow) + " " +
              std::to_string(d.result) + "\n";
  return text;
}

std::vector<DecisionLog> decisions_from_text(const std::string& text, const std::string& file) {
  std::istringstream lines(text);
  std::string line, word;
  int number = 1;
  const auto bad = [&](const std::string& why) {
    return Error(Category::config, "decision log: " + why)
        .with("file", file)
        .with("line", std::to_string(number));
  };
  std::size_t ranks = 0;
  const auto at_end = [](std::istringstream& words) { return (words >> std::ws).eof(); };
  if (!std::getline(lines, line)) throw bad("empty file");
  std::istringstream first(line);
  if (!(first >> word >> ranks) || !at_end(first) || word != header || ranks > 10'000'000)
    throw bad(std::string("expected '") + header + " <ranks>'");
  std::vector<DecisionLog> logs(ranks);
  while (std::getline(lines, line)) {
    ++number;
    std::istringstream fields(line);
    std::size_t rank = 0;
    std::int64_t flow =
        0;  // read with its sign: an unsigned number would take "-1" for a large one
    Decision d;
    if (!(fields >> rank >> word >> flow >> d.result) || !at_end(fields))
      throw bad("expected 'rank kind flow result'");
    if (flow < 0 || flow > std::numeric_limits<std::uint32_t>::max())
      throw bad("no flow has number " + std::to_string(flow));
    d.flow = static_cast<std::uint32_t>(flow);
    if (rank >= ranks) throw bad("rank " + std::to_string(rank) + " of " + std::to_string(ranks));
    std::size_t kind = 0;
    while (kind < kind_names.size() && word != kind_names[kind]) ++kind;
    if (kind == kind_names.size()) throw bad("unknown decision '" + word + "'");
    d.kind = static_cast<DecisionKind>(kind);
    logs[rank].decisions.push_back(d);
  }
  for (DecisionLog& log : logs) log.mode = DecisionMode::replay;
  return logs;
}

}  // namespace orrery
