#include "algorithms/compressed_gradients.hpp"

#include "algorithms/codecs/view.hpp"

namespace orrery {

CompressedGradients::CompressedGradients(Replica& replica)
    : replica_(replica),
      rank_(replica.rank()),
      communication_(rank_.stream("gradients")),
      data_(rank_.channel(gradient_axes, "gradients")) {
  const Tensor& gradients = replica.flat().all_gradients();
  if (gradients.dtype() != Dtype::fp32)
    throw Error(Category::config, "compressed gradients are computed in fp32")
        .with("hint", "set precision.reduction to fp32");
}

StepEnd CompressedGradients::issue(Progress& progress) {
  replica_.accumulate_gradients(progress);
  synchronise(replica_.flat().all_gradients(), progress.step());
  replica_.optimizer_step(compute(), replica_.parameters());
  return {compute().record(), replica_.loss()};
}

Tensor CompressedGradients::zeros(std::int64_t size, Label label, const char* name) const {
  Tensor t = rank_.allocate(compute(), label, size, Dtype::fp32, {.name = name});
  compute().launch(rank_.prepare(Kernel::fill(size, 0, Dtype::fp32)), {t});
  return t;
}

GatheredMean::GatheredMean(Stream& stream, Channel& channel, std::shared_ptr<const Codec> codec,
                           std::int64_t elements)
    : stream_(stream), channel_(channel), bytes_(codec->bytes(elements)) {
  const auto n = static_cast<std::size_t>(channel.size());
  mean_ = stream.rank().prepare(Kernel::custom(  // messages, x
      "mean of messages", {Role::read, Role::write},
      [codec, n](std::span<const View> v) {
        const auto messages = bytes(v[0]);
        const auto x = floats(v[1]);
        const std::size_t size = messages.size() / n;
        std::vector<float> one(x.size());
        for (std::size_t i = 0; i < n; ++i) {
          codec->decode(messages.subspan(i * size, size), one);
          for (std::size_t j = 0; j < x.size(); ++j) x[j] = i == 0 ? one[j] : x[j] + one[j];
        }
        for (float& each : x) each /= static_cast<float>(n);
      },
      Flops(0), Bytes(bytes_ * channel.size()) + bytes_of(elements, Dtype::fp32)));
}

void GatheredMean::reduce(const Tensor& message, const Tensor& x) {
  const Tensor all = stream_.rank().allocate(
      stream_, Label::communication, bytes_ * channel_.size(), Dtype::uint8, {.name = "messages"});
  stream_.all_gather(all, message, channel_);
  stream_.launch(mean_, {all, x});
}

}  // namespace orrery
