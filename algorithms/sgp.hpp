// Stochastic gradient push, and its form that hides the messages. See sgp.cpp.
#pragma once

#include <string>
#include <vector>

#include "algorithms/algorithm.hpp"
#include "algorithms/context_mean.hpp"
#include "algorithms/optimizers/optimizer_spec.hpp"
#include "backend/core/config.hpp"

namespace orrery {

// The keys that both have.
struct PushOptions {
  OptimizerSpec optimizer;
  std::string graph = "exponential";  // or ring, or a file of edges "i j": i sends to j
  bool final_average = true;
};
struct SgpOptions : PushOptions {};
void describe(Fields<SgpOptions>& f);
struct OverlapSgpOptions : PushOptions {
  std::int64_t overlap = 1;  // steps from sending to absorbing
};
void describe(Fields<OverlapSgpOptions>& f);

class Sgp : public Algorithm {
 public:
  Sgp(Replica& replica, const SgpOptions& options) : Sgp(replica, options, 0) {}
  Sgp(Replica& replica, const OverlapSgpOptions& options)
      : Sgp(replica, options, options.overlap) {}
  StepEnd issue(Progress& progress) override;
  void visit(Archive& archive) override;
  void finish() override;
  std::optional<Bytes> sent(std::int64_t steps) const override;

  // Error{config} for a file that has no edges between so many workers.
  static void check_graph(const std::string& graph, int workers);

 private:
  Sgp(Replica& replica, const PushOptions& options, std::int64_t overlap);
  // Whom this worker sends to and receives from, `shift` workers on: 0 <= shift < n.
  struct Edge {
    Channel* channel;
    bool sends = true, receives = true;
    Tensor theirs{};
  };
  void open_edges(const PushOptions& options);
  void push(std::int64_t step);
  void share(std::int64_t step);
  void absorb();
  void remove_bias();
  Tensor x() const { return replica_.flat().weights(); }
  Prepared scaled(std::int64_t elements, double a, double b, bool with_scalars = false) const;
  template <class F>
  void for_edges(std::int64_t step, F f);

  Replica& replica_;
  Rank& rank_;
  Stream &compute_, &out_, &in_;
  Channel& workers_;
  ContextMean context_;
  std::vector<Edge> edges_;
  bool in_rounds_ = true;  // one edge a step, in turn; else all
  bool weighted_ = false;  // some weight may differ from 1
  std::int64_t overlap_;
  bool final_average_;
  double share_ = 0.5;  // p: of what this worker keeps, and sends to each
  Tensor mine_, weight_, inverse_, z_;
  Prepared invert_;
  std::int64_t began_ = 0, under_way_ = 0;
};

}  // namespace orrery
