// The mean of a vector over a channel's members, sent through a codec.
//
// Sums are never done in the narrow type. Two phases, each of (n - 1) / n of the message:
//
//   encode my vector in n parts;  all-to-all: part j of everyone comes to member j
//   member j decodes its n parts, adds them in fp32 in the order of the group, divides by n,
//   encodes the mean;  all-gather;  decode
//
// so that all members hold the same bits. Where each wants its part of the mean alone, the first
// phase is all: a reduce-scatter that never adds narrow numbers. Without a codec (fp32) it is one
// all-reduce. With error feedback (Seide et al. 2014; Tang et al. 2021, arXiv 2102.02888), what
// either encoding lost is added to what is encoded the next time.
//
// Cost, for E elements, n members and b(e) bytes for a message of e elements:
//   communication  2 (n - 1) b(ceil(E / n)) bytes per rank, for parts half of it; fp32: 2 (n - 1) /
//   n 4 E
//   memory         2 n b(ceil(E / n)) while it runs; feedback: 4 E + 4 ceil(E / n)
#pragma once

#include <map>
#include <tuple>

#include "algorithms/codecs/codec.hpp"
#include "backend/checkpoint.hpp"
#include "backend/rank.hpp"

namespace orrery {

class CompressedMean {
 public:
  // In set-up. `elements`: the most that is reduced at a time; with feedback, always.
  CompressedMean(Stream& stream, Channel& channel, std::shared_ptr<const Codec> codec,
                 std::int64_t elements, bool feedback = false);
  // The fp32 vector becomes its mean over the members, in stream order. The returned event is the
  // end of it. Where members may be lost, the host waits until all have met, so that RankLost finds
  // the vector as it was.
  Event reduce(const Tensor& x, bool some_may_be_lost = false);
  // `part` <- (part +) this member's of n equal parts of the mean of x. Not without a codec, nor
  // with feedback.
  void scatter(const Tensor& x, const Tensor& part, bool add);
  // Bytes that each of `members` sends for a vector of `elements`.
  static std::int64_t sent(const Codec* codec, std::int64_t elements, int members);
  Bytes sent() const { return sent_; }  // so far, by this rank
  void visit(Archive& archive);

 private:
  struct Kernels {
    Prepared encode, combine, decode, take, add;
  };
  const Kernels& kernels(std::int64_t elements);
  Kernels prepare(std::int64_t elements) const;
  Tensor buffer(std::int64_t bytes, const char* name) const;
  void sends(Collective kind, Bytes size);
  // Everyone's messages for this member, received by the returned event.
  Event exchange(const Tensor& x, const Kernels& kernels, const Tensor& received);

  Stream& stream_;
  Channel& channel_;
  std::shared_ptr<const Codec> codec_;
  std::int64_t round_ = 0;              // of rounding at random
  Tensor counter_;                      // that round, where kernels see it
  Tensor worker_error_, server_error_;  // empty without feedback
  Bytes sent_;
  // By elements, members and this one's place among them, which change where members come and go.
  std::map<std::tuple<std::int64_t, int, int>, Kernels> kernels_;
};

}  // namespace orrery
