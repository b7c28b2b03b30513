// What a measured case is compared with: its own figure in its own unit, and how to predict it.
//
// Steps (train_step) become scenarios, to be simulated by the caller; kernels (gemm, attention,
// elementwise) and collectives are predicted at once by the models of platforms/, bubble rates
// (bubble) by laying out the schedule, activations (memory) by what layers keep, and what DiLoCo
// and its kind need of a link (algo_bandwidth, algo_wallclock) by the papers' own simulator. All
// other kinds are not scored.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "platforms/cluster.hpp"
#include "scenarios/published/machines.hpp"
#include "scenarios/scenario.hpp"

namespace orrery {

struct Prediction {
  std::string skipped;  // why there is none; "" when there is
  std::string unit;     // "s", "GB/s", "TFLOP/s", "share of peak", …; "" when not known
  double measured = 0;  // in that unit
  std::optional<double> predicted;           // absent for a step: its scenario's step time
  std::shared_ptr<const Scenario> scenario;  // of a step
  Bytes capacity;                            // of the step's GPUs; its scenario has no limit
  std::string same;                          // equal for equal scenarios
  std::vector<Assumption> assumptions;       // taken for granted to make it
};

class Predictor {
 public:
  // `data_root` holds scenarios/ and platforms/. Throws ConfigError for the table of aliases.
  explicit Predictor(const std::string& data_root);

  // Never throws for what a case says: that is `skipped`.
  Prediction predict(const MeasuredFile& file, const MeasuredCase& c) const;

 private:
  void step(const MeasuredFile& file, const MeasuredCase& c, Prediction& out) const;

  std::string root_;
  AliasTable aliases_;
  Machines machines_;
};

// ---- its parts, one file each; all throw NotScored ----

// case_model.cpp: the model of a case, by its sizes and its family.
ModelSpec case_model(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                     std::vector<Assumption>& notes);

// Degrees and batch of a case, from what it prints.
struct CasePlan {
  std::int64_t gpus = 1, tensor = 1, pipeline = 1, context = 1, expert = 1, data = 1, chunks = 1;
  std::int64_t sequence = 0, micro_batch = 1, global_batch = 0;
};
// case_plan.cpp
CasePlan case_plan(const MeasuredFile& file, const MeasuredCase& c, std::vector<Assumption>& notes);

// measured_time.cpp: seconds per step by the first of these that the case has: iter_s;
// iter_s_derived; tokens_s, tokens_s_gpu, samples_s_gpu; tflops_gpu by tflops_def (model, or
// hardware with what full recomputation adds); mfu with peak_tflops. FLOPs are counted by the rule
// of the source (flop_rule of the aliases). `recompute`: none, selective or full.
double measured_seconds(const MeasuredFile& file, const MeasuredCase& c, const CasePlan& plan,
                        const ModelSpec& model, const std::string& recompute,
                        const AliasTable& aliases, std::vector<Assumption>& notes);

// kernel_case.cpp: `out` gets unit, measured and predicted figure.
void predict_gemm(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                  const Machines& machines, Prediction& out);
void predict_attention(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                       const Machines& machines, Prediction& out);
void predict_elementwise(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                         const Machines& machines, Prediction& out);
void predict_collective(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                        const Machines& machines, Prediction& out);

// bubble_case.cpp: by the stage times (stage_time) that the same file has of the case's model.
void predict_bubble(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                    const Machines&, Prediction& out);

// memory_case.cpp: activations, by what blocks keep and how many micro-batches the schedule holds.
void predict_memory(const MeasuredFile& file, const MeasuredCase& c, const AliasTable& aliases,
                    const Machines&, Prediction& out);

// bandwidth_case.cpp: the bandwidth between sites that a utilization asks for, by the papers' own
// simulator; and the share of time that DiLoCo computes, whose meetings are not overlapped.
void predict_bandwidth(const MeasuredFile&, const MeasuredCase& c, const AliasTable&,
                       const Machines&, Prediction& out);
void predict_utilization(const MeasuredFile&, const MeasuredCase& c, const AliasTable&,
                         const Machines&, Prediction& out);

// What a word means by the table; notes what the row assumes. NotScored("<key> '<text>' has no
// alias") when no row fits.
std::string meaning(const std::vector<Alias>& rows, const char* key, const std::string& text,
                    std::vector<Assumption>& notes);

}  // namespace orrery
