// Top-k sparsification with error feedback.
//
// Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018 (arXiv 1809.07599),
// algorithm 2, with the optimizer outside; as in sands-lab/grace, compressor/topk.py. On every
// worker i:
//
//   a_i <- g_i + e_i
//   s_i <- the k numbers of a_i of largest magnitude, with their places;   e_i <- a_i - s_i
//   g <- 1/n sum over workers j of s_j;    theta <- optimizer(theta, g)
//
// Cost, for P gradients, k = ratio P and n workers:
//   communication   an all-gather of 8 k bytes from each: 8 k (n - 1) bytes per rank and step
//                   after the backward; it grows with n
//   memory          beside that of DDP: 4 P bytes for e, and messages of 8 k (n + 1) bytes
#include "algorithms/topk.hpp"

#include "algorithms/codecs/view.hpp"

namespace orrery {

void describe(Fields<TopKOptions>& f) {
  f.section("optimizer", &TopKOptions::optimizer);
  f.field("ratio", &TopKOptions::ratio).positive().at_most(1).doc("k: part of the gradient sent");
  f.field("error_feedback", &TopKOptions::error_feedback).doc("keep what was not sent for later");
}

TopK::TopK(Replica& replica, const TopKOptions& options)
    : CompressedGradients(replica),
      mean_(communication_, data_, make_codec({.name = "sparse", .ratio = options.ratio}),
            elements()) {
  const auto codec = make_codec({.name = "sparse", .ratio = options.ratio});
  if (options.error_feedback) error_ = zeros(elements(), Label::communication, "topk.error");
  select_ = rank_.prepare(Kernel::custom(  // g, (e), s
      "select", {Role::update, Role::update, Role::write},
      [codec](std::span<const View> v) {
        const auto a = floats(v[0]), e = floats(v[1]);
        for (std::size_t i = 0; i < e.size(); ++i) a[i] += e[i];
        codec->encode(a, bytes(v[2]), {Philox(0, Purpose::user)});
        if (e.empty()) return;
        codec->decode(bytes(v[2]), e);
        for (std::size_t i = 0; i < e.size(); ++i) e[i] = a[i] - e[i];
      },
      Flops(0), bytes_of(4 * elements(), Dtype::fp32)));
}

void TopK::synchronise(const Tensor& gradient, std::int64_t) {
  const Tensor chosen = rank_.allocate(compute(), Label::communication, mean_.message_bytes(),
                                       Dtype::uint8, {.name = "topk.message"});
  compute().launch(select_, {gradient, error_, chosen});
  communication_.after(compute().record());
  mean_.reduce(chosen, gradient);
  compute().after(communication_.record());
}

std::optional<Bytes> TopK::sent(std::int64_t steps) const { return mean_.sent() * steps; }

void TopK::visit(Archive& archive) {
  CompressedGradients::visit(archive);
  if (error_) archive.field("error", error_);
}

}  // namespace orrery

// Differences from the paper: any optimizer may follow, and its rate is outside the feedback; k
// counts over all parameters of a rank together, not per tensor.
