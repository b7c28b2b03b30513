// Channels: what ranks communicate over, and how their operations find each other.
//
// A `Channel` is one rank's end of a communicator: a group of ranks with a lane, or a directed edge
// along an axis. Its operations match by issue order: the n-th operation of every member is the
// same operation. Issuing is checked at once, so a mismatch or a crossed order is reported with
// both call sites, whether or not the run would have got stuck.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "backend/axes.hpp"
#include "backend/core/error.hpp"
#include "backend/kernel.hpp"
#include "backend/tensor.hpp"

namespace orrery {

enum class Collective : std::uint8_t {
  all_reduce,
  all_gather,
  reduce_scatter,
  broadcast,
  all_to_all,
  send,
  receive,
  exchange
};
const char* name(Collective);
enum class Reduce : std::uint8_t { sum, mean, max };
const char* name(Reduce);

class Communicator;
class Device;

// One member's side of an operation, as it is issued.
struct Communication {
  Collective kind = Collective::all_reduce;
  Reduce reduce = Reduce::sum;
  int root = 0;    // group index, for broadcast
  int peer = -1;   // group index of the other side, for send, receive, exchange
  int member = 0;  // my group index
  Communicator* communicator = nullptr;
  Operand in, out;            // all_reduce and broadcast: in == out
  std::int64_t elements = 0;  // that members must agree on: of the whole (unsharded) buffer
  Dtype dtype = Dtype::fp32;
  Time patience = time_never;  // with members that have ended; then they are lost
  Site site;
  Bytes size() const { return bytes_of(elements, dtype); }
};

// An operation that some members have issued. Worlds keep what they need in `parts` (values) and
// `world` (timing).
struct Rendezvous {
  Communicator* communicator = nullptr;
  Communication first;  // as issued by the first member; peers of a pair have theirs in parts
  std::uint64_t sequence = 0;
  int expected = 0;  // members
  int issued = 0;
  int arrived = 0;   // members whose stream has come to it; kept by the world
  int finished = 0;  // members that have left; kept by the world
  struct Part {
    View in, out;  // empty views in a run without values
    Site site;
    bool issued = false, arrived = false;
  };
  std::vector<Part> parts;  // by group index; for a pair: [0] lower index or sender, [1] the other.
                            // Empty in large virtual runs
  std::vector<std::pair<const Communicator*, std::uint64_t>>
      order;                // operations issued on other channels before this one
  std::uint64_t world = 0;  // for the world's use
  int part_index(int member) const;
  std::string describe()
      const;  // "all_reduce #3 on shard+replicate/gradients (algorithms/ddp.cpp:31)"
  std::vector<int> missing() const;  // global ranks that have not issued it
};

// A group of ranks that communicate on one lane. Shared by its members; guarded by the world.
//
// In a world that runs one rank of each class (Partition), the first member of a class stands for
// all of it: an operation has one side for each class among the members, and groups of the same
// classes are one communicator. An edge still has two sides, which may be of one class.
class Communicator {
 public:
  Communicator(std::uint32_t id, std::string group, std::string lane, std::vector<int> members,
               bool edge, std::vector<int> sides = {});

  std::uint32_t id() const { return id_; }
  const std::string& group() const { return group_; }  // "shard+replicate" or "pipeline+1"
  const std::string& lane() const { return lane_; }
  std::string name() const { return group_ + "/" + lane_; }
  const std::vector<int>& members() const { return members_; }  // global ranks in group order
  int size() const { return static_cast<int>(members_.size()); }
  bool edge() const { return edge_; }
  // How many members take part, each for its class.
  int sides() const { return sides_.empty() ? size() : static_cast<int>(sides_.size()); }
  // Calls `look(group index)` for each of them.
  template <class Look>
  void for_each_side(const Look& look) const {
    for (int i = 0; i < sides(); ++i)
      look(sides_.empty() ? i : sides_[static_cast<std::size_t>(i)]);
  }
  std::uint64_t issued(int member) const { return issued_[static_cast<std::size_t>(member)]; }
  // The stream that `member` uses this communicator on; -1 before its first operation.
  int stream(int member) const { return streams_[static_cast<std::size_t>(member)]; }
  void bind(int member, int stream) {
    streams_[static_cast<std::size_t>(member)] = static_cast<std::int16_t>(stream);
  }

  // Member `c.member` issues its next operation. `others`: operations issued by this rank on each
  // of its other collective communicators. Error{mismatch} when it differs from what another member
  // issued at this place; Error{deadlock} when two members issue operations on two shared
  // communicators in different orders. `with_parts` keeps a part per member.
  Rendezvous& issue(const Communication& c,
                    const std::vector<std::pair<const Communicator*, std::uint64_t>>& others,
                    bool with_parts);
  // The operation is complete for every member; the reference dies.
  void retire(Rendezvous& rendezvous);
  const std::deque<std::unique_ptr<Rendezvous>>& pending() const { return pending_; }
  std::vector<const Rendezvous*> all_pending() const;

 private:
  Rendezvous& find_or_open(std::deque<std::unique_ptr<Rendezvous>>& queue, std::uint64_t& base,
                           std::uint64_t sequence, const Communication& c, int expected,
                           bool with_parts);
  std::uint32_t id_;
  std::string group_, lane_;
  std::vector<int> members_;
  std::vector<int> sides_;  // group indices of those that take part; empty: all
  bool edge_;
  std::vector<std::uint64_t> issued_;
  std::vector<std::int16_t> streams_;
  std::deque<std::unique_ptr<Rendezvous>> pending_;
  std::vector<std::unique_ptr<Rendezvous>> spare_;  // retired; their memory is used again
  std::uint64_t base_ = 0;                          // sequence number of pending_.front()
  struct Pair {
    std::deque<std::unique_ptr<Rendezvous>> pending;
    std::uint64_t base = 0;
    std::uint64_t issued[2] = {0, 0};
  };
  std::map<std::pair<int, int>, Pair> pairs_;  // exchange: by (lower, higher) group index
};

// All communicators of a world, made on demand, one per (group or edge, lane, members).
class Communicators {
 public:
  explicit Communicators(const Grid& grid) : grid_(grid) {}
  // From now on one rank of each class stands for it; null: each rank for itself.
  void set_partition(const Partition* partition) { partition_ = partition; }
  Communicator& group(int rank, Axes axes, const std::string& lane);
  // Of these ranks alone, some of the communicator's, ascending.
  Communicator& subgroup(const Communicator& whole, const std::vector<int>& ranks);
  // Which member of the group that `rank` has over `axes` it acts as.
  int index_in_group(int rank, Axes axes, const Communicator& communicator) const;
  Communicator& edge(int from, Axis axis, int offset,
                     const std::string& lane);  // from -> the rank at +offset, periodic
  const std::vector<std::unique_ptr<Communicator>>& all() const { return all_; }

 private:
  Communicator& open(const std::string& key, const std::string& group, const std::string& lane,
                     bool edge, const std::function<std::vector<int>()>& members);
  std::vector<int> sides_of(const std::vector<int>& members) const;

  const Grid& grid_;
  const Partition* partition_ = nullptr;
  std::mutex mutex_;
  std::map<std::string, Communicator*> by_key_;
  std::vector<std::unique_ptr<Communicator>> all_;
};

// Use of a channel by one rank, per operation kind.
struct ChannelUse {
  Collective kind = Collective::all_reduce;
  std::uint64_t calls = 0;
  Bytes
      bytes;  // that this rank puts on the wire, by the ring or pairwise algorithm; see wire_bytes
  Time busy;  // from its start on all members to its end (sim), or of the call (cpu)
  Time exposed;  // of which the rank's compute stream waited for it
};
// Bytes one of `members` sends in an operation on a buffer of `size` bytes (the whole buffer):
// all_reduce 2(n-1)/n, all_gather, reduce_scatter and all_to_all (n-1)/n, broadcast (n-1)/n, send
// and exchange 1, receive 0; rounded to whole bytes.
Bytes wire_bytes(Collective kind, Bytes size, int members);

// One rank's end. Opened in set-up only.
class Channel {
 public:
  std::string name() const { return group_ + "/" + lane_; }
  int size() const { return size_; }          // members of the group; 2 for an edge
  int index(Site site = Site::here()) const;  // my place in the group [taint]
  bool edge() const { return edge_; }
  const std::vector<int>& ranks(Site site = Site::here()) const;  // its members [taint]
  Communicator& outgoing() const { return *out_; }
  Communicator& incoming() const { return *in_; }
  const std::vector<ChannelUse>& uses() const { return uses_; }
  // What opens the same channel on another rank: a group's axes, or an edge's axis and offset.
  const std::string& lane() const { return lane_; }
  Axes axes() const { return named_axes_; }
  int offset() const { return offset_; }
  ChannelUse& use(Collective kind);

 private:
  friend class Rank;
  friend class Stream;
  Device* device_ = nullptr;
  std::string group_, lane_;
  bool edge_ = false;
  int offset_ = 0;  // of an edge
  // Of a group those of more than one rank; named_axes_ are those that it is called by.
  Axes axes_, named_axes_;
  Communicator* out_ = nullptr;  // the same for a group
  Communicator* in_ = nullptr;
  int size_ = 1, index_ = 0;
  const Communicator* whole_ = nullptr;  // that it was opened with
  Time patience_ = time_never;
  std::vector<ChannelUse> uses_;
};

}  // namespace orrery
