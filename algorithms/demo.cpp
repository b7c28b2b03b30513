// DeMo: decoupled momentum optimisation.
//
// Peng, Quesnelle and Kingma, "DeMo: Decoupled Momentum Optimization", 2024 (arXiv 2411.19870),
// algorithm 1; as in bloc97/DeMo, demo.py. Momentum differs between workers and is never averaged;
// parameters stay equal, as all decode the same messages. On every worker i, for each tile:
//
//   m_i <- beta m_i + g_i
//   q_i <- the k largest coefficients of DCT(m_i);    m_i <- m_i - IDCT(q_i)
//   Q <- mean over workers that sent a coefficient, for each;    theta <- theta - lr sign(IDCT(Q))
//
// Cost, for P parameters, tiles of s x t and n workers:
//   communication   an all-gather of 6 k P / (s t) bytes from each (a number, and its place in 16
//                   bits): 6 k P (n - 1) / (s t) bytes per rank and step, after the backward; it
//                   grows with n
//   memory          parameters, gradients and momentum: 12 P bytes in fp32, and messages of n + 1
//                   workers
#include "algorithms/demo.hpp"

#include "algorithms/codecs/view.hpp"

namespace orrery {

void describe(Fields<DemoOptions>& f) {
  f.section("optimizer", &DemoOptions::optimizer);
  f.field("momentum", &DemoOptions::momentum).between(0, 1).doc("beta");
  f.field("chunk", &DemoOptions::chunk).between(1, 256).doc("side of a tile, at most");
  f.field("kept", &DemoOptions::kept).at_least(1).doc("k: coefficients of a tile that are sent");
  f.check([](const DemoOptions& o, const SectionProblems& p) {
    if (o.optimizer.name != "sgd")
      p.add("optimizer", "DeMo steps by signs; of an optimizer it takes rate, schedule and decay",
            "use sgd, and demo's key momentum");
  });
}

Demo::Demo(Replica& replica, const DemoOptions& options)
    : CompressedGradients(replica),
      tiles_(std::make_shared<DctTiles>(replica.parameters(), options.chunk, options.kept)) {
  momentum_ = zeros(elements(), Label::optimizer, "demo.momentum");
  const auto beta = static_cast<float>(options.momentum);
  const auto n = static_cast<std::size_t>(data_.size());
  const Bytes vector = bytes_of(elements(), Dtype::fp32);
  const Bytes message(tiles_->message_bytes());
  // Two products of a side of a tile for each number.
  const Flops transform(4.0 * static_cast<double>(options.chunk) * static_cast<double>(elements()));
  extract_ = rank_.prepare(Kernel::custom(  // g, m, message
      "extract", {Role::read, Role::update, Role::write},
      [tiles = tiles_, beta](std::span<const View> v) {
        const auto g = floats(v[0]), m = floats(v[1]);
        for (std::size_t i = 0; i < m.size(); ++i) m[i] = beta * m[i] + g[i];
        tiles->extract(m, bytes(v[2]));
      },
      transform * 2, vector * 3 + message));
  combine_ = rank_.prepare(Kernel::custom(  // messages, sign of the update
      "combine", {Role::read, Role::write},
      [tiles = tiles_, n](std::span<const View> v) {
        const auto u = floats(v[1]);
        tiles->combine(bytes(v[0]), n, u);
        for (float& each : u) each = each > 0 ? 1.0F : each < 0 ? -1.0F : 0.0F;
      },
      transform, vector + message * static_cast<std::int64_t>(n)));
}

void Demo::synchronise(const Tensor& gradient, std::int64_t) {
  const auto buffer = [&](Stream& stream, std::int64_t size, const char* name) {
    return rank_.allocate(stream, Label::communication, size, Dtype::uint8, {.name = name});
  };
  const Tensor mine = buffer(compute(), tiles_->message_bytes(), "demo.message");
  compute().launch(extract_, {gradient, momentum_, mine});
  const Tensor all =
      buffer(communication_, tiles_->message_bytes() * data_.size(), "demo.messages");
  communication_.after(compute().record());
  communication_.all_gather(all, mine, data_);
  communication_.launch(combine_, {all, gradient});
  compute().after(communication_.record());
}

std::optional<Bytes> Demo::sent(std::int64_t steps) const {
  return Bytes(steps * tiles_->message_bytes() * (data_.size() - 1));
}

void Demo::visit(Archive& archive) {
  CompressedGradients::visit(archive);
  archive.field("momentum", momentum_);
}

}  // namespace orrery

// Differences from the paper: the code multiplies what enters the momentum by the rate, which a
// sign does not see while the rate is constant; places take 16 bits, the code's 64; the messages of
// all tiles are gathered at once.
