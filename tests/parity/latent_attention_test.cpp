// Latent attention: the loss of the paper's equations, one rank's losses on several, and the same
// bits in both worlds.
#include "algorithms/models/latent_attention.hpp"

#include <cmath>
#include <map>

#include "tests/parity/inside_replica.hpp"
#include "tests/support/near.hpp"
#include "tests/support/parameter_parts.hpp"

namespace orrery {
namespace {

TransformerShape shared_latent(int q_rank) {
  TransformerShape s = shared_llama();
  s.heads = s.kv_heads = 4;
  s.head_size = 6;
  s.rope_head = 2;
  s.v_head = 4;
  s.kv_rank = 5;
  s.q_rank = q_rank;
  return s;
}

using Vector = std::vector<double>;
using Rows = std::vector<Vector>;
using Parameters = std::map<std::string, Vector>;

// x A, where A has so many columns.
Rows times(const Rows& x, const Vector& matrix, std::size_t columns) {
  Rows y(x.size(), Vector(columns));
  for (std::size_t row = 0; row < x.size(); ++row)
    for (std::size_t i = 0; i < x[row].size(); ++i)
      for (std::size_t j = 0; j < columns; ++j) y[row][j] += x[row][i] * matrix[i * columns + j];
  return y;
}
Rows normed(Rows x, const Vector& gain, double epsilon) {
  for (Vector& row : x) {
    double square = 0;
    for (const double v : row) square += v * v;
    const double scale = 1 / std::sqrt(square / static_cast<double>(row.size()) + epsilon);
    for (std::size_t i = 0; i < row.size(); ++i) row[i] *= scale * gain[i];
  }
  return x;
}
Vector slice(const Vector& x, std::size_t begin, std::size_t size) {
  const auto from = x.begin() + static_cast<std::ptrdiff_t>(begin);
  return {from, from + static_cast<std::ptrdiff_t>(size)};
}
// Element i turns with element i + size/2.
Vector rotated(Vector x, std::size_t position, double theta) {
  const std::size_t half = x.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const double angle =
        static_cast<double>(position) *
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(x.size()));
    const double a = x[i], b = x[i + half];
    x[i] = a * std::cos(angle) - b * std::sin(angle);
    x[i + half] = b * std::cos(angle) + a * std::sin(angle);
  }
  return x;
}
Vector joined(Vector a, const Vector& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}
Rows sum(Rows a, const Rows& b) {
  for (std::size_t row = 0; row < a.size(); ++row)
    for (std::size_t i = 0; i < a[row].size(); ++i) a[row][i] += b[row][i];
  return a;
}

// Section 2.1 of the paper, head by head.
Rows latent_attention(const TransformerShape& s, const Parameters& p, const Rows& x) {
  const auto at = [&](const char* name) { return p.at(std::string("block.1.") + name); };
  const auto z = [](int n) { return static_cast<std::size_t>(n); };
  const std::size_t d = z(s.head_size), r = z(s.rope_head), m = d - r, v = z(s.v_head);
  const std::size_t heads = z(s.heads), rank = z(s.kv_rank);
  const Rows latent = s.q_rank == 0 ? x
                                    : normed(times(x, at("query_down.weight"), z(s.q_rank)),
                                             at("query_norm.gain"), s.norm_epsilon);
  const Rows queries = times(latent, at("query_up.weight"), heads * d);
  const Rows down = times(x, at("key_value_down.weight"), rank + r);
  Rows c;
  for (const Vector& row : down) c.push_back(slice(row, 0, rank));
  const Rows up = times(normed(c, at("key_value_norm.gain"), s.norm_epsilon),
                        at("key_value_up.weight"), heads * (m + v));
  Rows attended(x.size());
  for (std::size_t head = 0; head < heads; ++head)
    for (std::size_t t = 0; t < x.size(); ++t) {
      const Vector q = joined(slice(queries[t], head * d, m),
                              rotated(slice(queries[t], head * d + m, r), t, s.rope_theta));
      Vector scores;
      double all = 0;
      for (std::size_t j = 0; j <= t; ++j) {
        const Vector k = joined(slice(up[j], head * (m + v), m),
                                rotated(slice(down[j], rank, r), j, s.rope_theta));
        double dot = 0;
        for (std::size_t i = 0; i < d; ++i) dot += q[i] * k[i];
        scores.push_back(std::exp(dot / std::sqrt(static_cast<double>(d))));
        all += scores.back();
      }
      Vector out(v);
      for (std::size_t j = 0; j <= t; ++j)
        for (std::size_t i = 0; i < v; ++i)
          out[i] += scores[j] / all * up[j][head * (m + v) + m + i];
      attended[t] = joined(attended[t], out);
    }
  return times(attended, at("out.weight"), z(s.hidden));
}

// Of one layer and a text that is one sample.
double loss_by_hand(const TransformerShape& s, const Parameters& p, const std::string& text) {
  const auto z = [](int n) { return static_cast<std::size_t>(n); };
  const std::size_t h = z(s.hidden), f = z(s.ffn);
  Rows x;
  for (int t = 0; t < s.sequence; ++t)
    x.push_back(slice(p.at("block.0.tokens"), h * static_cast<unsigned char>(text[z(t)]), h));
  x = sum(x,
          latent_attention(s, p, normed(x, p.at("block.1.attention_norm.gain"), s.norm_epsilon)));
  Rows up = times(normed(x, p.at("block.1.mlp_norm.gain"), s.norm_epsilon),
                  p.at("block.1.up.weight"), 2 * f);
  for (Vector& row : up) {
    for (std::size_t i = 0; i < f; ++i) row[i] = row[i] / (1 + std::exp(-row[i])) * row[f + i];
    row.resize(f);
  }
  x = normed(sum(x, times(up, p.at("block.1.down.weight"), h)), p.at("block.2.norm.gain"),
             s.norm_epsilon);
  double loss = 0;
  for (int t = 0; t < s.sequence; ++t) {
    double all = 0, target = 0;
    for (int token = 0; token < s.vocabulary; ++token) {
      double logit = 0;
      for (std::size_t i = 0; i < h; ++i)
        logit += x[z(t)][i] * p.at("block.2.logits")[z(token) * h + i];
      all += std::exp(logit);
      if (token == static_cast<unsigned char>(text[z(t) + 1])) target = logit;
    }
    loss += std::log(all) - target;
  }
  return loss / s.sequence;
}

}  // namespace

TEST_CASE("latent attention computes the paper's equations") {
  for (const int q_rank : {0, 7}) {
    TrainingCase c;
    c.transformer = shared_latent(q_rank);
    c.transformer->layers = 1;
    c.transformer->micro_batch = 1;
    c.replica.micro_batches = 1;
    std::string text = "Turning and turning in the widening gyre";
    text.resize(static_cast<std::size_t>(c.transformer->sequence) + 1);
    make_cpu_world(training_options(c))->run([&](Rank& rank) {
      Replica replica(rank, c.make(std::make_shared<const std::string>(text)), c.replica);
      Parameters values;
      for (const Parameter& p : replica.parameters()) {  // larger weights, so that all matter
        std::vector<double> all = rank.read(value_of(replica.flat(), p));
        for (double& v : all) v = p.decay ? 15 * v : v + 0.1;
        const std::vector<float> narrow(all.begin(), all.end());
        rank.write_bytes(value_of(replica.flat(), p), std::as_bytes(std::span(narrow)));
        values[name_of(p)] = rank.read(value_of(replica.flat(), p));
      }
      replica.zero_gradients();
      replica.accumulate_micro_batch({0, 1});
      CHECK(rank.read(replica.loss())[0] == near(loss_by_hand(*c.transformer, values, text), 1e-5));
    });
  }
}

TEST_CASE("latent attention over several ranks has the losses of one rank") {
  check_follows_one_rank(shared_latent(7), {{.tensor = 2},
                                            {.tensor = 4, .sequence_parallel = true},
                                            {.context = 2},
                                            {.tensor = 2, .data = 2, .pipeline = 2}});
  check_follows_one_rank(shared_latent(0), {{.tensor = 2, .pipeline = 4}});
  TransformerShape exchanged = shared_latent(7);
  exchanged.context_algorithm = ContextAlgorithm::ulysses;
  check_follows_one_rank(exchanged, {{.tensor = 2, .context = 2}});
}

TEST_CASE(
    "latent attention on tensor ranks that divide tokens gives the same bits in both worlds") {
  check_worlds_agree(
      case_of(shared_latent(7), {.tensor = 2, .pipeline = 2, .sequence_parallel = true}));
}

TEST_CASE(
    "latent attention over a tied embedding, recomputed, gives the same bits in both worlds") {
  TrainingCase c = case_of(shared_latent(7), {.data = 2});
  c.transformer->tied = true;
  c.replica.recompute = Recompute::full;
  check_worlds_agree(c);
}

TEST_CASE("latent attention over experts on two ranks has the losses of one rank") {
  TransformerShape s = shared_latent(7);
  s.experts = 4;
  s.experts_per_token = 2;
  s.expert_ffn = 8;
  s.shared_ffn = 8;
  s.dense_layers = 1;
  s.router = Router::sigmoid;
  s.capacity = 2;
  check_follows_one_rank(s, {{.data = 2, .expert = 2}, {.tensor = 2, .data = 2, .expert = 2}});
}

}  // namespace orrery
