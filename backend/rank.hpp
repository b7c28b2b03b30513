// The handle through which a rank program sees the world: the only one it gets.
//
// A rank program is ordinary blocking C++, run once per rank, over streams, events, tensors and
// channels. It cannot tell which world it runs in. Calls marked [taint] let it tell ranks apart or
// learn from time, so that no rank can be issued for together with others.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/axes.hpp"
#include "backend/channel.hpp"
#include "backend/core/philox.hpp"
#include "backend/decisions.hpp"
#include "backend/flow.hpp"
#include "backend/ledger.hpp"
#include "backend/prepared.hpp"
#include "backend/rank_lost.hpp"
#include "backend/stream.hpp"
#include "backend/tensor.hpp"

namespace orrery {

class Device;
struct WorldState;

struct TensorOptions {
  Place place = Place::device;
  Values values = Values::as_run;
  std::string_view name = "";  // for errors and reports, e.g. "block.3.input"
};

class Rank {
 public:
  Rank(WorldState& world, Device& device, int id);
  ~Rank();
  Rank(const Rank&) = delete;
  Rank& operator=(const Rank&) = delete;

  // Who and where.
  int id(Site site = Site::here()) const;                     // [taint]
  int coordinate(Axis axis, Site site = Site::here()) const;  // [taint] along this axis
  // This rank's place in its group over `axes`, for choosing its part of a tensor or of the data.
  // It must not decide which operations are issued, or how large they are: then it does not taint.
  int part(Axes axes) const;
  // Whether this rank tells the user, for all of them, how far the run is. It must decide nothing
  // else.
  bool speaks() const { return id_ == 0; }
  int size(Axes axes) const;
  bool computes_values() const;  // the run has values for Values::as_run tensors
  std::uint64_t seed() const;

  // Set-up. Channels are opened before the first communication of the rank (Error{invalid_program}
  // later) and by every member.
  // A group is named by its axes of more than one rank.
  Channel& channel(Axes axes, std::string_view lane);
  Channel& edge(
      Axis axis, int offset,
      std::string_view lane);  // +1: to the next, periodic; relative, so folding can map it
  // Of a group, the same on all its members. A communication that waits only for ranks whose
  // programs have ended is given up `deadline` later, and who waits for its end gets RankLost;
  // without, it is a deadlock. What was issued behind it runs all the same [taint].
  void notice_losses(Channel& channel, Seconds deadline, Site site = Site::here());
  // From now on the channel is of these ranks alone, some of those that it was opened with, this
  // one among them, ascending. At any time; by all of them, with the same ranks [taint].
  void regroup(Channel& channel, const std::vector<int>& ranks, Site site = Site::here());
  Stream& stream(std::string_view name,
                 Place place = Place::device);  // found or opened; at most max_streams

  Stream& stream_of(Event event) { return *streams_[event.stream]; }

  // Memory. Error{out_of_memory} when it does not fit even after pending refunds have been waited
  // for.
  // The home stream may use it at once; another stream only after an event of the home stream,
  // since the memory may have been given back by operations that still run there.
  Tensor allocate(Stream& home, Label label, std::int64_t elements, Dtype dtype,
                  const TensorOptions& options = {}, Site site = Site::here());
  void reserve(Label label, Bytes size);  // charged for the whole run, without storage
  Prepared prepare(const Kernel& kernel);
  const Sequence& sequence(const std::string& key, const std::function<void(Sequence&)>& build);

  // Waits of the host. They throw the failure of the operation waited for, and RankLost for a
  // communication up to it on its stream that was given up. What has been waited for is ordered
  // before every later operation of the rank.
  void wait(Event event, Site site = Site::here());
  bool wait(Event event, Seconds timeout,
            Site site = Site::here());  // [taint] false when the time passed first
  std::size_t wait_any(std::span<const Event> events, Site site = Site::here());  // [taint]
  // Whether the event is done. A poll that finds it done counts as a wait for it: other flows may
  // run. One that does not lets nobody run.
  bool poll(Event event,
            Site site =
                Site::here());  // [taint] Error{livelock} after 1e6 fruitless polls at one instant
  void sleep(Seconds duration, Site site = Site::here());  // [taint]
  // Values of a Values::always tensor (or of any tensor in a run with values), after its last
  // writer [taint]. Error{invalid_program} when they depend on values that this run does not
  // compute.
  std::vector<double> read(const Tensor& tensor, Site site = Site::here());
  // The same as bytes [taint], for checkpoints: empty when this run has no values for the tensor. A
  // write waits for every use.
  std::vector<std::byte> read_bytes(const Tensor& tensor, Site site = Site::here());
  void write_bytes(const Tensor& tensor, std::span<const std::byte> bytes,
                   Site site = Site::here());
  Seconds now(Site site = Site::here());  // [taint] this flow's host clock

  // Random numbers. `rng` is this rank's own (jitter, order) [taint]; `shared_rng` is the same on
  // all ranks, indexed by global element or sample number.
  Random& rng(Purpose purpose, Site site = Site::here());
  Philox shared_rng(Purpose purpose) const;

  // Second control flows [taint]. Flows share the rank's baton and switch at waits only.
  Task fork(std::string_view name, std::function<void()> body, Site site = Site::here());
  void join(const Task& task, Site site = Site::here());
  Signal& signal(std::string_view name);
  void raise(Signal& signal, Site site = Site::here());
  void wait(Signal& signal, Site site = Site::here());

  // Small control messages [taint], to ranks or services. Every message must be received before the
  // run ends.
  void control_send(int to, Tag tag, std::span<const std::int64_t> values,
                    Site site = Site::here());
  void control_send(int to, Tag tag, std::initializer_list<std::int64_t> values,
                    Site site = Site::here());
  std::optional<ControlMessage> control_receive(Tag tag, int from = any_source,
                                                Seconds timeout = forever,
                                                Site site = Site::here());
  int service(std::string_view name) const;  // address of a service

  // Reports.
  void record_loss(std::int64_t step, double loss);  // this rank's part; the report takes means
  const std::vector<std::unique_ptr<Channel>>& channels() const { return channels_; }
  const std::vector<std::unique_ptr<Stream>>& streams() const { return streams_; }
  const Ledger& ledger(Place place) const {
    return place == Place::device ? device_ledger_ : host_ledger_;
  }
  const Flops& matrix_flops() const { return matrix_flops_; }  // of everything launched so far
  std::uint64_t operations() const { return operations_; }
  const std::map<std::int64_t, double>& losses() const { return losses_; }
  DecisionLog& decisions() { return decisions_; }
  void throw_if_lost(Event event);  // for worlds, at the end of the program
  WorldState& world() const { return world_; }

 private:
  friend class Stream;
  friend class Tensor;
  void host_learned(Event event);
  void waited(Event event);       // a host wait ended
  bool replay_missed(Site site);  // false
  void last_reference_died(Storage& storage);
  bool ordered_before_home(const Storage& storage) const;
  void refund(Storage& storage);
  void refund_pending(std::uint32_t home);
  void wait_for_pending_refunds(Bytes size, Ledger& ledger, Site site);
  void check_setup(std::string_view what) const;
  void forget_past(Stream& stream);
  // Valid until the next call.
  const std::vector<std::pair<const Communicator*, std::uint64_t>>& issued_elsewhere(
      const Channel& channel);

  WorldState& world_;
  Device& device_;
  int id_;
  std::vector<std::unique_ptr<Stream>> streams_;
  std::vector<std::unique_ptr<Channel>> channels_;
  bool communicated_ = false;
  std::vector<std::pair<const Communicator*, std::uint64_t>> issued_elsewhere_;
  Clock host_clock_;  // what this rank's host has waited for
  Ledger device_ledger_, host_ledger_;
  std::vector<std::vector<Storage*>> pending_refunds_;  // by home stream
  Bytes workspace_;                                     // largest of any prepared kernel; charged
  Flops matrix_flops_{0};
  std::uint64_t operations_ = 0;
  std::uint32_t flows_ = 1;
  std::uint64_t fruitless_polls_ = 0;
  Time last_poll_;
  DecisionLog decisions_;
  std::map<std::string, Signal, std::less<>> signals_;
  std::map<Purpose, Random> rngs_;
  std::map<std::int64_t, double> losses_;
};

}  // namespace orrery
