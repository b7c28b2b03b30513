// What the commands share: reading a scenario as the command line changes it, running it in a
// world, writing result files.
#pragma once

#include <optional>
#include <string>

#include "backend/world.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/process_group.hpp"
#include "scenarios/cli/result.hpp"
#include "scenarios/scenario.hpp"

namespace orrery::cli {

// The folder that holds scenarios/ and platforms/: the current one, that of the sources, or the
// installed data.
std::string data_root();

// Throws ConfigError with everything that is wrong.
Scenario read_scenario(const Arguments& arguments);

// What a result of this scenario is of, on its cluster.
Subject subject_of(const Scenario& scenario);

struct Outcome {
  RunReport report;
  Result result;
};
// In the simulated world. `trace_path`: written there as JSON when not empty. `verb`: what the
// progress line says that it does.
Outcome simulate_scenario(const Scenario& scenario, const Arguments& arguments,
                          const std::string& trace_path, const std::string& verb = "simulating");
// For real, in the world, with checkpoints and a profile as the arguments say. In one of several
// processes it runs that one's rank; the outcome, of all, is known where the group speaks.
std::optional<Outcome> run_scenario(const Scenario& scenario, const Arguments& arguments,
                                    const std::string& verb = "running",
                                    const std::string& trace_path = "",
                                    const ProcessGroup& group = {});

// Where --trace writes: in the --out folder. "" without it; Error{usage} for one without the other.
std::string trace_path(const Arguments& arguments);

// Error{usage} or Error{unavailable} for a --world that cannot run a scenario for real, and for
// what one of several processes cannot do.
void check_world(const Arguments& arguments, const ProcessGroup& group = {});

// Prints the result on stdout and its warnings on stderr and, with --out, writes its files, each
// under a temporary name that is then renamed. An interrupt waits until all of that is done.
void deliver(const Outcome& outcome, const Scenario& scenario, const Arguments& arguments);

}  // namespace orrery::cli
