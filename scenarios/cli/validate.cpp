// `orrery validate`: the scenario for real and simulated, side by side.
#include <fmt/core.h>

#include <cstdio>
#include <filesystem>

#include "backend/core/progress.hpp"
#include "backend/core/text.hpp"
#include "scenarios/cli/children.hpp"
#include "scenarios/cli/command.hpp"
#include "scenarios/cli/comparison.hpp"
#include "scenarios/cli/files.hpp"
#include "scenarios/cli/interrupt.hpp"
#include "scenarios/cli/process_memory.hpp"
#include "scenarios/cli/simulation.hpp"
#include "scenarios/cli/variants.hpp"

namespace orrery::cli {

namespace {

Repeat run_once(const Scenario& scenario, const Arguments& given, const std::string& verb) {
  Arguments arguments = given;
  arguments.profile = false;  // it takes time of the run
  return repeat_from_text(in_child([&] {
    const std::int64_t before = resident_memory().now_bytes;
    const Outcome outcome = *run_scenario(scenario, arguments, verb);
    return to_text(
        repeat_of(outcome.report, outcome.result, resident_memory().peak_bytes - before));
  }));
}

std::string run_profiled(const Scenario& scenario, const Arguments& arguments) {
  return in_child([&] {
    const Outcome outcome = *run_scenario(scenario, arguments, "profiling");
    if (!arguments.quiet && outcome.result.native.empty())
      for (const std::string& warning : outcome.result.input.warnings)
        if (warning.find("CUPTI") != std::string::npos)
          fmt::print(stderr, "warning: {}\n", warning);
    return to_json(outcome.result);
  });
}

// Before the runs, which take long, that the page can be written after them.
void check_page(const std::string& page) {
  make_result_folder(std::filesystem::absolute(page).parent_path().string());
  if (std::filesystem::is_directory(page))
    throw Error(Category::config, "--page takes a file, and this is a folder").with("folder", page);
}

}  // namespace

int validate(const Arguments& given) {
  check_world(given);
  if (!given.page.empty()) check_page(given.page);
  Arguments really = given;
  really.set.push_back("run.values=real");  // a real run computes
  const Scenario real = read_scenario(really), modelled = read_scenario(given);
  refuse_simulated(modelled);
  const bool color = use_color(given.color, is_terminal(2));
  if (!given.quiet)
    for (const std::string& warning : real.warnings)
      fmt::print(stderr, "{}{}\n", styled("warning: ", Style::yellow, color), warning);

  // A simulation gives the same bytes each time, so there is one.
  const std::string simulated =
      in_child([&] { return to_json(simulate_scenario(modelled, given, "").result); });
  const Provenance provenance = provenance_here(given);
  std::vector<Repeat> repeats;
  for (std::int64_t i = 1; i <= given.repeats; ++i)
    repeats.push_back(
        run_once(real, given, fmt::format("repeat {} of {}: running", i, given.repeats)));
  Comparison comparison(simulated, std::move(repeats), given.tolerance);
  comparison.add_provenance(provenance);
  if (given.profile) comparison.add_profile(run_profiled(real, given));

  const InterruptGuard guard;
  if (given.json)
    fmt::print("{}", comparison.to_json());
  else
    fmt::print("{}", comparison.to_table(subject_of(real), use_color(given.color, is_terminal(1))));
  if (std::fflush(stdout) == 0) result_was_printed();
  if (!given.page.empty()) write_file_atomically(given.page, comparison.to_page(subject_of(real)));
  if (comparison.within_tolerance()) return 0;
  const auto off = comparison.step_difference();
  fmt::print(stderr, "error[{}]: the simulated step time is off by {}, the tolerance is {:.1f} %\n",
             name(Category::tolerance), off ? fmt::format("{:+.1f} %", 100 * *off) : "an unknown",
             100 * *given.tolerance);
  return exit_code(Category::tolerance);
}

}  // namespace orrery::cli
