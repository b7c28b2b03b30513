#include "algorithms/algorithm_table.hpp"
#include "scenarios/cli/command.hpp"

namespace orrery::cli {

namespace {

const std::vector<Command> command_table{
    {"simulate",
     "SCENARIO",
     "predict step time, MFU and memory of a training run",
     "Runs the scenario's training algorithm inside a simulated cluster and prints where the "
     "time and the memory go.",
     "orrery simulate scenarios/quickstart.yaml --set platform.gpus=8",
     {"set", "seed", "out", "trace"},
     simulate,
     Completes::files},
    {"run",
     "SCENARIO",
     "run the same algorithm for real",
     "Runs the scenario's training algorithm on this machine, one rank per simulated GPU, on "
     "real values.",
     "orrery run scenarios/mlp-ddp.yaml --world cpu",
     {"world", "set", "seed", "out", "trace", "profile", "checkpoint", "checkpoint-every",
      "resume"},
     run,
     Completes::files},
    {"validate",
     "SCENARIO",
     "run for real, simulate, and lay both side by side",
     "Runs the scenario on this machine, in a process of its own for each repeat, simulates it, "
     "and compares step time, phases, kinds of kernels, communication, memory and loss. The "
     "measured figures are those of the repeat with the median step time. A simulation of this "
     "machine needs a platform that describes it: set platform.cluster and platform.stack. On a "
     "GPU, --profile tells the kernels of a sequence apart. With --page, all of it as a web page.",
     "orrery validate scenarios/mlp-ddp.yaml --set platform.cluster=this-cpu --repeats 5",
     {"world", "set", "seed", "repeats", "tolerance", "profile", "page"},
     validate,
     Completes::files},
    {"calibrate",
     "",
     "measure this machine and write a platform file",
     "Times kernels and collectives by size and writes one platform file (--out FILE.yaml) for "
     "platform.cluster. Prints how far its tables are off on points that were measured and held "
     "back. Measures the processor, with one busy rank and with --ranks, or GPUs (--world cuda: "
     "products, attention, memory-bound kernels, optimizers, copies to the host, what disturbs a "
     "product, NCCL between all or --ranks of them). Everything is measured twice at least, and "
     "more "
     "often while --budget lasts. Close other programs first.",
     "orrery calibrate --world cpu --ranks 2 --out this-machine.yaml",
     {"world", "out", "ranks", "budget", "quick"},
     calibrate},
    {"check",
     "SCENARIO",
     "validate a scenario and its platform without running it",
     "Reads everything the scenario refers to and reports all that is wrong at once.",
     "orrery check scenarios/quickstart.yaml",
     {"set", "seed"},
     check,
     Completes::files},
    {"memory",
     "SCENARIO",
     "tell what every pipeline stage holds at its peak",
     "Issues the program of one rank per pipeline stage to a device that only keeps accounts: "
     "the peak is that of a simulation, without simulating time. A stage that does not fit is "
     "reported with what it would need.",
     "orrery memory scenarios/quickstart.yaml --set data.micro_batch=8",
     {"set", "seed"},
     memory,
     Completes::files},
    {"trace",
     "SCENARIO",
     "simulate and write a timeline for Perfetto",
     "Simulates and writes trace.json.gz: one process per rank, one track per stream.",
     "orrery trace scenarios/quickstart.yaml --out results",
     {"set", "seed", "out"},
     trace,
     Completes::files},
    {"sweep",
     "SCENARIO",
     "simulate a scenario at every combination of some fields' values",
     "One process per point, as many at once as there are cores, or --jobs. Each --over names a "
     "field and its values, or several fields, with ';' between, that vary together. With --out, "
     "each result is on disk as soon as its point has ended, and the same command goes on where it "
     "was interrupted; results.jsonl is written when all points are there. Under MPI (mpirun, "
     "srun) or as a Slurm array, the same command shares the points among its processes. --json "
     "prints a result per line.",
     "orrery sweep scenarios/quickstart.yaml --over data.micro_batch=1,2,4 --out results/sweep",
     {"over", "set", "seed", "out", "jobs", "part"},
     sweep,
     Completes::files},
    {"scoreboard",
     "[FILE...]",
     "compare predictions with published measurements",
     "Predicts every case of the files (all of scenarios/published without one) and prints the "
     "errors by file and kind, and why the other cases are not scored. Steps are simulated, "
     "several at once; kernels and collectives come from the platform's models.",
     "orrery scoreboard scenarios/published/vtrain-single.yaml",
     {},
     scoreboard,
     Completes::files},
    {"compare",
     "RESULT...",
     "set saved results side by side",
     "Reads results as --json prints and --out writes them: a column for each, and how the later "
     "ones differ from the first. With --page, as a web page too.",
     "orrery compare one/result.json two/result.json",
     {"page"},
     compare,
     Completes::files},
    {"race",
     "ALGORITHM...",
     "simulate algorithms against each other, to a loss",
     "Simulates the scenario (--scenario, else scenarios/race.yaml) once with each algorithm and "
     "tells the simulated time, the samples and the bytes that it takes to bring the mean loss of "
     "ten steps to --target-loss. The loss is the mean over workers, each at its own parameters; "
     "with data.evaluate_every, or value_model's, that of the mean of all workers' parameters on "
     "held-out data. With several seeds (--seed 1,2,3) the race is between medians. "
     "An algorithm is a name with some of its keys, and takes the optimizer of the scenario's own; "
     "or YAML. With --out, race.json and race.svg.",
     "orrery race ddp diloco:inner_steps=20 acco --target-loss 3.2",
     {"target-loss", "scenario", "set", "seed", "out"},
     race,
     Completes::words,
     algorithm_names},
    {"list",
     "KIND",
     "list models, clusters, GPUs, algorithms and what else has a name",
     "Lists everything of a kind that scenarios can name: models, platforms (all of the next "
     "four), clusters, nodes, gpus, stacks, algorithms, schedules, scenarios; and fits, the "
     "constants that were fitted on measurements, with the error that remained.",
     "orrery list gpus",
     {},
     list,
     Completes::words,
     list_kinds},
    {"explain",
     "[NAME]",
     "explain an algorithm, a schedule, a figure, a key, a model or a platform",
     "Algorithms and schedules: the paper, its pseudo-code and what it costs. Figures of a "
     "result: their definition. Keys of a scenario: type, default and range. Models and "
     "platforms: their numbers, each with its source. Without a name: all there is to explain.",
     "orrery explain mfu",
     {},
     explain,
     Completes::words,
     explain_topics},
    {"convert",
     "CLUSTER",
     "write a cluster for SimGrid, or make one of a SimGrid platform",
     "Of a cluster's name or file: a SimGrid platform with a host per GPU, its links, and a route "
     "for every pair. Of a SimGrid platform (FILE.xml): a cluster file whose network it is; its "
     "hosts become nodes of the kind --node. To stdout, or to the file --out.",
     "orrery convert two-dgx-a100 --to simgrid --out two-dgx-a100.xml",
     {"to", "gpus", "node", "out"},
     convert,
     Completes::files},
    {"schema",
     "",
     "print the JSON Schema of scenarios",
     "For editors: the schema that a scenario file is checked against.",
     "orrery schema > scenario.schema.json",
     {},
     schema},
    {"doctor",
     "",
     "tell what this build and machine can do",
     "Versions and limits that matter for simulations and runs, with advice.",
     "orrery doctor",
     {},
     doctor},
    {"completion",
     "SHELL",
     "print completions for bash, zsh or fish",
     "For bash: source the output. For zsh: save it as _orrery in a folder of $fpath. For fish: "
     "save it as orrery.fish in its folder of completions.",
     "orrery completion bash > orrery.bash",
     {},
     completion,
     Completes::words,
     shells},
    {"help",
     "[COMMAND]",
     "tell how to use a command",
     "The commands, or what one of them takes; with --man, the manual page in roff.",
     "orrery help simulate",
     {"man"},
     help,
     Completes::words,
     command_names}};

const std::vector<Option> option_table{
    {"world", "WORLD", "where to run: cpu, cuda", Completes::words, {"cpu", "cuda"}},
    {"set", "PATH=VALUE",
     "change a field of the scenario, e.g. parallel.pipeline=2; may be repeated"},
    {"over", "PATH=VALUES",
     "values that a field takes in turn, e.g. parallel.pipeline=1,2,4; may be repeated: all "
     "combinations; 'a=1,2;b=3,4' varies both together"},
    {"jobs", "N", "points to simulate at once (one per core)"},
    {"part", "I/N", "simulate the I-th of N parts of the points only (found out under MPI, Slurm)"},
    {"seed", "N", "seed of every random number (run.seed)"},
    {"out", "PATH",
     "the folder for result.json, metrics.csv, memory.csv, config.resolved.yaml and "
     "provenance.json; of sweep, the folder for its points; of calibrate and convert, the file to "
     "write",
     Completes::files},
    {"to",
     "FORMAT",
     "simgrid, or orrery (by default the other one)",
     Completes::words,
     {"simgrid", "orrery"}},
    {"gpus", "N", "only the first N GPUs of the cluster"},
    {"node", "NAME", "what the hosts of a SimGrid platform are, such as dgx-h100 (list nodes)"},
    {"ranks", "N",
     "ranks that runs on this machine will have at most, 1 to 64 (2; --world cuda: all GPUs)"},
    {"budget", "SECONDS", "how long to measure, all in all (165; --world cuda: 150)"},
    {"quick", "", "few sizes and repetitions: shows the form of a calibration, no use"},
    {"trace", "", "also write trace.json.gz into the --out folder (open it in Perfetto)"},
    {"profile", "",
     "time every kernel of the GPU, by events and by CUPTI where it is there (--world cuda; slows "
     "the run; of validate, one run more)"},
    {"page", "FILE", "also write a web page (HTML) with the comparison", Completes::files},
    {"checkpoint", "FILE", "write the state at the end there", Completes::files},
    {"checkpoint-every", "N", "write it after every N steps too, in place of the one before"},
    {"resume", "FILE", "continue from the state in this file, up to run.steps in all",
     Completes::files},
    {"repeats", "N", "how often to run for real (default 3)"},
    {"target-loss", "X", "the loss to run to"},
    {"scenario", "FILE", "what is trained, and on which cluster", Completes::files},
    {"tolerance", "X",
     "exit with 5 when the simulated step time is off by more than this fraction"},
    {"man", "", "the manual page, for man(1)"},
    {"json", "", "print the result as JSON, errors too"},
    {"quiet", "", "no progress line and no warnings"},
    {"color",
     "WHEN",
     "auto, always or never; NO_COLOR is honoured",
     Completes::words,
     {"auto", "always", "never"}},
    {"help", "", "tell what the command takes"}};

const std::vector<ExitCode> exit_code_table{
    {0, "ok"},
    {1, "internal error"},
    {2, "usage"},
    {3, "invalid scenario or platform"},
    {4, "simulated failure (out of memory, deadlock, mismatch)"},
    {5, "outside tolerance"},
    {6, "device or backend unavailable"},
    {130, "interrupted"}};

}  // namespace

const std::vector<Command>& commands() { return command_table; }

const std::vector<Option>& options() { return option_table; }

const std::vector<ExitCode>& exit_codes() { return exit_code_table; }

const Command* find_command(const std::string& name) {
  for (const Command& command : commands())
    if (name == command.name) return &command;
  return nullptr;
}

std::vector<std::string> command_names() {
  std::vector<std::string> names;
  for (const Command& command : commands()) names.emplace_back(command.name);
  return names;
}

std::vector<const Option*> options_of(const Command& command) {
  std::vector<const char*> wanted = command.options;
  for (const char* common : {"json", "quiet", "color", "help"}) wanted.push_back(common);
  std::vector<const Option*> taken;
  for (const char* name : wanted)
    for (const Option& option : options())
      if (std::string(name) == option.name) taken.push_back(&option);
  return taken;
}

}  // namespace orrery::cli
