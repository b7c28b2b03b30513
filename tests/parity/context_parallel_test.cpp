// Context parallelism with values: one rank's losses, bits in both worlds, exact bytes.
#include <doctest/doctest.h>

#include "tests/parity/inside_replica.hpp"

namespace orrery {
namespace {

TransformerShape with(TransformerShape shape, ContextAlgorithm algorithm) {
  shape.context_algorithm = algorithm;
  return shape;
}

TEST_CASE("ring attention over 2 and 4 ranks has the losses of one rank") {
  for (const TransformerShape& shape : {shared_gpt(), shared_llama(), shared_neox()})
    check_follows_one_rank(with(shape, ContextAlgorithm::ring), {{.context = 2}, {.context = 4}});
}
TEST_CASE("Ulysses attention over 2 and 4 ranks has the losses of one rank") {
  for (const TransformerShape& shape : {shared_gpt(), shared_llama(), shared_neox()})
    check_follows_one_rank(with(shape, ContextAlgorithm::ulysses),
                           {{.context = 2}, {.context = 4}});
}
TEST_CASE("gathered attention over 2 and 4 ranks has the losses of one rank") {
  for (const TransformerShape& shape : {shared_gpt(), shared_llama(), shared_neox()})
    check_follows_one_rank(with(shape, ContextAlgorithm::all_gather),
                           {{.context = 2}, {.context = 4}});
}
TEST_CASE("ring attention over 8 ranks has the losses of one rank") {
  check_follows_one_rank(with(shared_llama(), ContextAlgorithm::ring), {{.context = 8}});
}
TEST_CASE("context ranks in products with tensor and data and pipeline follow one rank") {
  check_follows_one_rank(with(shared_gpt(), ContextAlgorithm::ring),
                         {{.tensor = 2, .context = 2, .data = 2, .sequence_parallel = true},
                          {.context = 2, .data = 2, .pipeline = 2}});
  check_follows_one_rank(with(shared_llama(), ContextAlgorithm::ulysses),
                         {{.tensor = 2, .context = 2, .pipeline = 2, .sequence_parallel = true}});
  check_follows_one_rank(with(shared_llama(), ContextAlgorithm::all_gather),
                         {{.tensor = 2, .context = 4}, {.context = 2, .data = 4}});
}

TEST_CASE("ring attention gives the same bits in sim and on cpu") {
  check_worlds_agree(case_of(with(shared_gpt(), ContextAlgorithm::ring), {.context = 4}));
}
TEST_CASE("ring attention in bf16 and in products gives the same bits in sim and on cpu") {
  TransformerShape shape = with(shared_llama(), ContextAlgorithm::ring);
  shape.dtype = Dtype::bf16;
  check_worlds_agree(case_of(
      shape, {.tensor = 2, .context = 2, .data = 1, .pipeline = 2, .sequence_parallel = true}));
}
TEST_CASE("Ulysses attention gives the same bits in sim and on cpu") {
  check_worlds_agree(case_of(with(shared_gpt(), ContextAlgorithm::ulysses), {.context = 4}));
}
TEST_CASE("gathered attention gives the same bits in sim and on cpu") {
  check_worlds_agree(case_of(with(shared_gpt(), ContextAlgorithm::all_gather), {.context = 4}));
}

TEST_CASE("recomputation over context ranks changes no bit") {
  for (const ContextAlgorithm algorithm :
       {ContextAlgorithm::ring, ContextAlgorithm::ulysses, ContextAlgorithm::all_gather}) {
    TrainingCase c = case_of(with(shared_gpt(), algorithm), {.context = 2, .data = 2});
    c.steps = 5;
    const Trained kept = train_on_cpu(c);
    c.replica.recompute = Recompute::full;
    CHECK(train_on_cpu(c).state == kept.state);
  }
}

// The cost in algorithms/models/context_parallel.hpp, of one rank in whole bytes.
TEST_CASE("context ranks send what the formulas say") {
  for (const std::int64_t c : {2, 4}) {
    const auto sent = [&](ContextAlgorithm algorithm, const char* group) {
      TrainingCase plan =
          case_of(with(shared_llama(), algorithm), {.context = static_cast<int>(c)});
      plan.steps = 3;
      const Trained trained = train_on_cpu(plan);
      for (const RankReport& rank : trained.report.ranks)
        CHECK(sent_over(rank, group) == sent_over(trained.report.ranks[0], group));
      return sent_over(trained.report.ranks[0], group);
    };
    const std::int64_t tokens = 2 * 16 / c, q = 8 * 4, k = 4 * 4;
    const std::int64_t nq = tokens * q * 4, nk = tokens * k * 4, passes = 4 * 3 * 4;  // layers, …
    using Use = std::pair<std::int64_t, std::int64_t>;
    Sent ring = sent(ContextAlgorithm::ring, "context+1");
    CHECK(ring["keys send"] == Use{2 * passes * (c - 1), 4 * passes * (c - 1) * nk});
    CHECK(ring["key gradients send"] == Use{passes * (c - 1), 2 * passes * (c - 1) * nk});
    Sent ulysses = sent(ContextAlgorithm::ulysses, "context");
    CHECK(ulysses["activations all_to_all"] ==
          Use{8 * passes, 4 * passes * (c - 1) * (nq + nk) / c});
    Sent gathered = sent(ContextAlgorithm::all_gather, "context");
    CHECK(gathered["activations all_gather"] == Use{2 * passes, 4 * passes * (c - 1) * nk});
    CHECK(gathered["activations reduce_scatter"] == Use{passes, 2 * passes * (c - 1) * nk});
  }
}

TEST_CASE("with zigzag parts every rank has as many pairs of query and key, and work, as another") {
  for (const int c : {2, 4, 8})
    for (int rank = 0; rank < c; ++rank) {
      const SequencePart part{rank, c, true};
      std::int64_t pairs = 0;
      const std::int64_t length = 32 / c;
      for (std::int64_t i = 0; i < length; ++i) pairs += part.position(i, length) + 1;
      CHECK(pairs == 32 * 33 / 2 / c);
    }
}

TEST_CASE("what does not divide over context ranks is refused with every reason at once") {
  TransformerShape s = shared_gpt();
  s.context = 3;
  CHECK_THROWS_WITH_AS(make_transformer(s), "16 tokens of a sequence do not divide into 6 parts",
                       Error);
  s.context_algorithm = ContextAlgorithm::ulysses;
  CHECK_THROWS_WITH_AS(make_transformer(s),
                       "16 tokens of a sequence do not divide into 3 parts; 4 attention heads do "
                       "not divide over 3 ranks; 4 heads of keys and values do not divide over 3 "
                       "ranks",
                       Error);
}

}  // namespace
}  // namespace orrery
