// Tensors: counted handles on storage that lives on one rank.
//
// A tensor always has a size, a type, a place and a home stream; whether it has values depends on
// the run. Handles are counted without atomics: they belong to their rank and are touched by its
// flows only, one at a time.
//
// Memory is accounted in issue order (see ledger.hpp): storage is charged when allocated and
// refunded when its last handle dies and every use on another stream is ordered before the home
// stream's next operation.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "backend/accesses.hpp"
#include "backend/core/error.hpp"
#include "backend/core/units.hpp"
#include "backend/dtype.hpp"

namespace orrery {

class Rank;

// as_run: values exist when the run computes values. always: at most 4 KiB, values in every run
// (counts, norms, flags).
enum class Values : std::uint8_t { as_run, always };
enum class Place : std::uint8_t { device, host };
enum class Label : std::uint8_t {
  parameters,
  gradients,
  optimizer,
  activations,
  communication,
  workspace,
  reserve
};
inline constexpr int label_count = 7;
const char* name(Label);
inline constexpr std::int64_t always_limit_bytes = 4096;

struct Storage {
  Rank* rank = nullptr;
  void* data = nullptr;  // null while the run has no values for it
  std::int64_t elements = 0;
  std::uint32_t references = 0;
  std::uint32_t ledger_slot = 0;
  std::uint8_t home = 0;
  Dtype dtype = Dtype::fp32;
  Place place = Place::device;
  Values values = Values::as_run;
  Label label = Label::activations;
  std::string name;
  Accesses accesses;

  Bytes bytes() const { return bytes_of(elements, dtype); }
};

// What an operation is given: a view that does not own. Converts from `Tensor`; `{}` is an operand
// left empty.
struct Operand {
  Storage* storage = nullptr;
  std::int64_t begin = 0, end = 0;  // elements
  bool racy = false;
  std::int64_t elements() const { return end - begin; }
  Bytes bytes() const { return storage ? bytes_of(elements(), storage->dtype) : Bytes(0); }
  explicit operator bool() const { return storage != nullptr; }
};

class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Storage* storage);  // takes a reference on the whole storage
  Tensor(const Tensor& o) noexcept;
  Tensor(Tensor&& o) noexcept : operand_(std::exchange(o.operand_, {})) {}
  Tensor& operator=(Tensor o) noexcept {
    std::swap(operand_, o.operand_);
    return *this;
  }
  ~Tensor() { release(); }

  // Elements [begin, end) of this tensor, sharing its storage.
  Tensor slice(std::int64_t begin, std::int64_t end) const;
  // The same elements, meant to be accessed without order (gossip): exempt from the hazard check.
  Tensor racy() const;

  std::int64_t elements() const { return operand_.elements(); }
  Dtype dtype() const { return operand_.storage->dtype; }
  Bytes bytes() const { return operand_.bytes(); }
  explicit operator bool() const { return operand_.storage != nullptr; }
  operator Operand() const { return operand_; }  // NOLINT: a tensor is an operand
  const Operand& operand() const { return operand_; }

 private:
  void release() noexcept;
  Operand operand_;
};

}  // namespace orrery
