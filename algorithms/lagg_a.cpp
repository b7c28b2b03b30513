// LAgg-A: learned aggregation, a learned optimizer that sees what each worker did.
//
// Joseph, Therien, Moudgil, Knyazev and Belilovsky, "Can We Learn Communication-Efficient
// Optimizers?", 2023 (arXiv 2312.02204), section 4, on K workers, as many as its network was
// trained for:
//
//   for t = 0, 1, ...:
//     theta_k <- theta                                     on every worker k
//     for h = 1 ... H:        theta_k <- inner optimizer's step
//     Delta_k <- theta_k - theta
//     d, s <- network(features(Delta_1 ... Delta_K, theta, what it keeps of their means, t))
//     theta <- theta - 0.001 d exp(0.001 s)                               per parameter
//
// Sharded, rank k does this for the k-th of K equal parts of theta:
//   all-to-all: the parts of all Delta_j meet at their rank;  network;  all-gather of theta
// with two all-reduces of a few sums in between, since a tensor may lie on several ranks
// (learned/learned_optimizer.hpp). Not sharded, all Deltas are gathered everywhere.
//
// Cost, for P parameters that a rank steps in its worker (rounded up to a multiple of K), V of them
// in vectors, L rows and columns of matrices, T tensors, W weights of the network, and N ranks of
// all workers that have parts of the same tensors:
//   communication   (K-1)/K 4 P bytes for each of the two, and all-reduces of 4 L and 4 (K + 27) T,
//                   every H steps: 8 ((K-1)/K P + (N-1)/N (L + (K + 27) T)) / H bytes per rank and
//                   step, exposed; not sharded (K-1) 4 P / H, and the sums over a worker's ranks
//   compute         2 W P / K FLOPs every H steps; not sharded 2 W P
//   memory          beside the inner algorithm's 4 P bytes for theta, (16 P + 12 V) / K + 12 L, and
//                   8 P in a meeting; not sharded 4 P, 16 P + 12 V + 12 L, and 4 K P
#include "algorithms/lagg_a.hpp"

#include <fmt/format.h>

namespace orrery {

void describe(Fields<LaggAOptions>& f) {
  describe_learned(f, false);
  f.field("sharded", &LaggAOptions::sharded)
      .doc("each worker steps a part of the parameters; else all step all");
}

void LaggAOptions::check_workers(int count) const {
  if (loaded == nullptr || (loaded->workers == count && count > 1)) return;
  const std::string whose =
      loaded->workers == 1 ? "lopt-a" : fmt::format("lagg-a with {} workers", loaded->workers);
  throw Error(Category::config, fmt::format("{} is of {}, not {}", weights, whose, count));
}

LaggA::LaggA(Replica& replica, std::unique_ptr<Algorithm> inner, const LaggAOptions& options)
    : Islands(replica, std::move(inner), options, replica.flat().weights().elements()),
      options_(options),
      workers_(rank_.size(Axis::island)),
      learned_(compute(), replica.flat(), options.loaded, options.sharded ? workers_ : 1) {
  if (!options.sharded) {
    theta_ = copy_of_weights("learned.parameters");
    return;
  }
  const Tensor x = replica.flat().weights();
  theta_ = buffer("learned.parameters");
  compute().copy(x, theta_.slice(0, x.elements()));
  shard_ = rank_.allocate(compute(), Label::optimizer, learned_.part_elements(), Dtype::fp32,
                          {.name = "learned.shard"});
}

// Of equal parts for all, zero behind the parameters.
Tensor LaggA::buffer(const char* name) {
  const std::int64_t parameters = replica_.flat().weights().elements();
  const std::int64_t elements = learned_.part_elements() * workers_;
  Tensor all =
      rank_.allocate(compute(), Label::communication, elements, Dtype::fp32, {.name = name});
  if (options_.sharded && elements > parameters)
    compute().launch(rank_.prepare(Kernel::fill(elements - parameters, 0, Dtype::fp32)),
                     {all.slice(parameters, elements)});
  return all;
}

void LaggA::inner_step_issued(std::int64_t t) {
  if (t % options_.inner_steps != 0) return;
  const Tensor x = weights();
  const Tensor theta = theta_.slice(0, x.elements());
  take_change(theta, x);  // Delta_k, where theta_k was
  const Tensor deltas = buffer("learned.deltas");
  exchange(deltas, x);
  if (options_.sharded) {
    const std::int64_t begin = learned_.part_elements() * rank_.part(Axis::island);
    compute().copy(theta_.slice(begin, begin + learned_.part_elements()), shard_);
    learned_.update(shard_, deltas);
    communication()->after(compute().record());
    compute().after(communication()->all_gather(theta_, shard_, *channel()));
  } else {
    learned_.update(theta_, deltas);
  }
  compute().copy(theta, x);
  weights_changed();
}

// received[workers, part]: everybody's Delta, of this rank's part.
void LaggA::exchange(const Tensor& received, const Tensor& delta) {
  Tensor mine = delta;
  if (options_.sharded) {
    mine = buffer("learned.delta");
    compute().copy(delta, mine.slice(0, delta.elements()));
  }
  communication()->after(compute().record());
  compute().after(options_.sharded ? communication()->all_to_all(received, mine, *channel())
                                   : communication()->all_gather(received, mine, *channel()));
}

void LaggA::visit(Archive& archive) {
  Islands::visit(archive);
  archive.field("learned.parameters", theta_);
  learned_.visit(archive);
}

Bytes LaggA::sent_in_meetings(std::int64_t steps) const {
  const Bytes part = bytes_of(learned_.part_elements(), Dtype::fp32);
  const Bytes all = part * (workers_ - 1);
  return ((options_.sharded ? all * 2 : all) + learned_.sent_in_sums() +
          sent_after_change(0, replica_.flat().weights().elements())) *
         (steps / options_.inner_steps);
}

}  // namespace orrery

// Differences from the paper: workers may be several replicas and have any inner algorithm (the
// paper: SGD); Deltas are in the order of the workers, on which the network depends; its weights
// must come from a file, and none that were trained are here.
