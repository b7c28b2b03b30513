#include "algorithms/codecs/compressed_mean.hpp"

#include <algorithm>
#include <vector>

#include "algorithms/codecs/message.hpp"
#include "algorithms/codecs/view.hpp"

namespace orrery {

namespace {

// x + the error of last time, which becomes the error of this encoding.
void encode_with_feedback(const Codec& codec, std::vector<float>& x, std::span<float> error,
                          std::span<std::byte> message, const Rounding& rounding) {
  for (std::size_t i = 0; i < error.size(); ++i) x[i] += error[i];
  codec.encode(x, message, rounding);
  if (error.empty()) return;
  std::vector<float> received(x.size());
  codec.decode(message, received);
  for (std::size_t i = 0; i < error.size(); ++i) error[i] = x[i] - received[i];
}

// Message i of n equal ones.
template <class Bytes>
auto part_of(Bytes all, std::size_t i, std::size_t n) {
  return all.subspan(i * (all.size() / n), all.size() / n);
}

// Of n decoded messages, in the order of the group.
std::vector<float> mean_of(const Codec& codec, std::span<std::byte> messages, std::size_t n,
                           std::size_t size) {
  std::vector<float> sum(size), part(size);
  for (std::size_t i = 0; i < n; ++i) {
    codec.decode(part_of(messages, i, n), part);
    for (std::size_t j = 0; j < size; ++j) sum[j] = i == 0 ? part[j] : sum[j] + part[j];
  }
  for (float& each : sum) each /= static_cast<float>(n);
  return sum;
}

}  // namespace

CompressedMean::CompressedMean(Stream& stream, Channel& channel, std::shared_ptr<const Codec> codec,
                               std::int64_t elements, bool feedback)
    : stream_(stream), channel_(channel), codec_(std::move(codec)) {
  if (codec_ == nullptr) return;
  Rank& rank = stream.rank();
  counter_ = rank.allocate(stream, Label::communication, 1, Dtype::int64,
                           {.values = Values::always, .name = "codec.round"});
  kernels(elements);
  if (!feedback) return;
  const auto zeros = [&](std::int64_t n, const char* name) {
    Tensor t = rank.allocate(stream, Label::communication, n, Dtype::fp32, {.name = name});
    stream.launch(rank.prepare(Kernel::fill(n, 0, Dtype::fp32)), {t});
    return t;
  };
  worker_error_ = zeros(elements, "codec.worker_error");
  server_error_ = zeros(ceil_div(elements, channel.size()), "codec.server_error");
}

const CompressedMean::Kernels& CompressedMean::kernels(std::int64_t elements) {
  const std::tuple key{elements, channel_.size(), channel_.index()};
  auto found = kernels_.find(key);
  if (found == kernels_.end()) found = kernels_.emplace(key, prepare(elements)).first;
  return found->second;
}

CompressedMean::Kernels CompressedMean::prepare(std::int64_t elements) const {
  Rank& rank = stream_.rank();
  const auto n = static_cast<std::size_t>(channel_.size());
  const std::int64_t chunk = ceil_div(elements, channel_.size());
  const Bytes vector = bytes_of(elements, Dtype::fp32),
              messages(codec_->bytes(chunk) * channel_.size());
  // Members draw different numbers, and so do encodings of one member.
  const auto rounding = [random = rank.shared_rng(Purpose::user), n,
                         member = static_cast<std::uint64_t>(channel_.index())](const View& counter,
                                                                                std::size_t part) {
    const auto round = static_cast<std::uint64_t>(*static_cast<const std::int64_t*>(counter.data));
    return Rounding{random, ((round * n + member) * (n + 1) + part) << 32U};
  };
  const auto size = static_cast<std::size_t>(chunk);
  Kernels k;
  k.encode = rank.prepare(Kernel::custom(  // x, round, messages, (error)
      "encode", {Role::read, Role::read, Role::write, Role::update},
      [codec = codec_, n, size, rounding](std::span<const View> v) {
        const auto x = floats(v[0]), error = floats(v[3]);
        for (std::size_t i = 0; i < n; ++i) {
          const std::size_t begin = std::min(i * size, x.size());
          const std::size_t end = std::min(begin + size, x.size());
          std::vector<float> part(x.begin() + static_cast<std::ptrdiff_t>(begin),
                                  x.begin() + static_cast<std::ptrdiff_t>(end));
          part.resize(size);
          encode_with_feedback(*codec, part,
                               error.empty() ? error : error.subspan(begin, end - begin),
                               part_of(bytes(v[2]), i, n), rounding(v[1], i));
        }
      },
      Flops(0), vector + messages));
  k.combine = rank.prepare(Kernel::custom(  // received, round, message, (error)
      "combine", {Role::read, Role::read, Role::write, Role::update},
      [codec = codec_, n, size, rounding](std::span<const View> v) {
        std::vector<float> sum = mean_of(*codec, bytes(v[0]), n, size);
        encode_with_feedback(*codec, sum, floats(v[3]), bytes(v[2]), rounding(v[1], n));
      },
      Flops(0), messages + Bytes(codec_->bytes(chunk))));
  const auto own = [&](const char* label, bool adds) {  // received, part
    return rank.prepare(Kernel::custom(
        label, {Role::read, adds ? Role::update : Role::write},
        [codec = codec_, n, size, adds](std::span<const View> v) {
          const std::vector<float> mean = mean_of(*codec, bytes(v[0]), n, size);
          const auto part = floats(v[1]);
          for (std::size_t j = 0; j < size; ++j) part[j] = adds ? part[j] + mean[j] : mean[j];
        },
        Flops(0), messages + bytes_of(adds ? 2 * chunk : chunk, Dtype::fp32)));
  };
  k.take = own("mean of messages", false);
  k.add = own("add mean of messages", true);
  k.decode = rank.prepare(Kernel::custom(  // messages, x
      "decode", {Role::read, Role::write},
      [codec = codec_, n, size](std::span<const View> v) {
        const auto x = floats(v[1]);
        std::vector<float> part(size);
        for (std::size_t i = 0; i < n; ++i) {
          codec->decode(part_of(bytes(v[0]), i, n), part);
          const std::size_t begin = std::min(i * size, x.size());
          std::copy_n(part.begin(), std::min(size, x.size() - begin),
                      x.begin() + static_cast<std::ptrdiff_t>(begin));
        }
      },
      Flops(0), messages + vector));
  return k;
}

Tensor CompressedMean::buffer(std::int64_t bytes, const char* name) const {
  return stream_.rank().allocate(stream_, Label::communication, bytes, Dtype::uint8,
                                 {.name = name});
}

void CompressedMean::sends(Collective kind, Bytes size) {
  sent_ += wire_bytes(kind, size, channel_.size());
}

Event CompressedMean::exchange(const Tensor& x, const Kernels& kernels, const Tensor& received) {
  const Tensor all = buffer(received.elements(), "codec.messages");
  stream_.upload(counter_, {static_cast<double>(round_++)});
  stream_.launch(kernels.encode, {x, counter_, all, worker_error_});
  sends(Collective::all_to_all, all.bytes());
  return stream_.all_to_all(received, all, channel_);
}

void CompressedMean::scatter(const Tensor& x, const Tensor& part, bool add) {
  const Kernels& k = kernels(x.elements());
  const Tensor received =
      buffer(codec_->bytes(part.elements()) * channel_.size(), "codec.received");
  exchange(x, k, received);
  stream_.launch(add ? k.add : k.take, {received, part});
}

Event CompressedMean::reduce(const Tensor& x, bool some_may_be_lost) {
  const auto all_are_there = [&](Event met) {
    if (some_may_be_lost) stream_.rank().wait(met);
  };
  if (codec_ == nullptr) {
    sends(Collective::all_reduce, x.bytes());
    const Event end = stream_.all_reduce(x, Reduce::mean, channel_);
    all_are_there(end);
    return end;
  }
  const Kernels& k = kernels(x.elements());
  const std::int64_t message = codec_->bytes(ceil_div(x.elements(), channel_.size()));
  Tensor received = buffer(message * channel_.size(), "codec.received");
  all_are_there(exchange(x, k, received));
  const Tensor mine = buffer(message, "codec.mean");
  stream_.launch(k.combine, {received, counter_, mine, server_error_});
  sends(Collective::all_gather, received.bytes());
  stream_.all_gather(received, mine, channel_);
  stream_.launch(k.decode, {received, x});
  return stream_.record();
}

std::int64_t CompressedMean::sent(const Codec* codec, std::int64_t elements, int members) {
  if (codec == nullptr)
    return wire_bytes(Collective::all_reduce, bytes_of(elements, Dtype::fp32), members).value;
  return 2 * (members - 1) * codec->bytes(ceil_div(elements, members));
}

void CompressedMean::visit(Archive& archive) {
  if (codec_ == nullptr) return;
  archive.field("round", round_);
  if (!worker_error_) return;
  archive.field("worker_error", worker_error_);
  archive.field("server_error", server_error_);
}

}  // namespace orrery
