// A stream: a FIFO queue of operations on a device (or, with Place::host, on the host's processor).
//
// Issuing returns at once. Operations of one stream run in order; operations of different streams
// are unordered unless an event orders them. An operation that fails poisons its stream: later
// operations do nothing, and waits on them throw.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

#include "backend/channel.hpp"
#include "backend/clock.hpp"
#include "backend/event.hpp"
#include "backend/prepared.hpp"
#include "backend/tensor.hpp"

namespace orrery {

class Device;
class Rank;

class Stream {
 public:
  Stream(Rank& rank, Device& device, std::uint32_t index, std::string name, Place place);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Operands in the order of the kernel's op (kernel.hpp). No event: record() one where it is
  // needed. Error{unordered_access} when an operand's storage has a conflicting use that is not
  // ordered before this one.
  void launch(const Prepared& prepared, std::initializer_list<Operand> operands = {},
              Site site = Site::here()) {
    launch(prepared, std::span<const Operand>(operands.begin(), operands.size()), site);
  }
  void launch(const Prepared& prepared, std::span<const Operand> operands,
              Site site = Site::here());
  // A sequence as one operation; operands by slot.
  void launch(const Sequence& sequence, std::initializer_list<Operand> operands,
              Site site = Site::here()) {
    launch(sequence, std::span<const Operand>(operands.begin(), operands.size()), site);
  }
  void launch(const Sequence& sequence, std::span<const Operand> operands,
              Site site = Site::here());

  // Later operations of this stream start after `event`. The device waits, the host does not. An
  // event already ordered before this stream's tail costs nothing.
  void after(Event event, Site site = Site::here());
  // Everything issued so far. The only maker of events besides communication and copies.
  Event record() const { return {index_, ordinal_}; }

  Event copy(const Tensor& from, const Tensor& to, Site site = Site::here());
  // Small values from the host into a Values::always tensor, in stream order; captured now.
  void upload(const Tensor& to, std::initializer_list<double> values, Site site = Site::here());
  void upload(const Tensor& to, std::span<const double> values, Site site = Site::here());

  // Collectives over a channel's group. Sums fold from the left in group order, in fp32. A channel
  // belongs to the first stream that uses it (an edge: one stream to send, one to receive).
  Event all_reduce(const Tensor& tensor, Reduce reduce, Channel& channel, Site site = Site::here());
  Event all_gather(const Tensor& out, const Tensor& in, Channel& channel,
                   Site site = Site::here());  // out = group size x in
  Event reduce_scatter(const Tensor& out, const Tensor& in, Reduce reduce, Channel& channel,
                       Site site = Site::here());
  Event broadcast(const Tensor& tensor, int root, Channel& channel,
                  Site site = Site::here());  // root: group index
  Event all_to_all(const Tensor& out, const Tensor& in, Channel& channel,
                   Site site = Site::here());  // equal parts
  // Rendezvous: a send ends when its receive does; no eager buffer in any world.
  Event send(const Tensor& tensor, Channel& edge, Site site = Site::here());
  Event receive(const Tensor& tensor, Channel& edge, Site site = Site::here());
  // Both sides send and receive at once; `mine` is read when the exchange starts. peer: group
  // index.
  Event exchange(const Tensor& mine, const Tensor& theirs, int peer, Channel& channel,
                 Site site = Site::here());

  // The end of step `step` of the run: noted in the report when this stream gets here.
  void mark_step(std::int64_t step);

  std::uint32_t index() const { return index_; }
  const std::string& name() const { return name_; }
  Rank& rank() const { return rank_; }

 private:
  friend class Rank;
  void use(const Operand& operand, bool write, Site site);
  Event communicate(Communication c, Channel& channel, Site site);

  Rank& rank_;
  Device& device_;
  std::uint32_t index_;
  std::uint32_t ordinal_ = 0;  // of the last operation issued
  StreamClock clock_;
  std::string name_;
  Place place_;
};

}  // namespace orrery
