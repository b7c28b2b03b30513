// Values in the simulated world: what operations compute, apart from how long they take.
//
// An ordinary operand cannot change while an operation is under way (the hazard check), so bodies
// run when the operation ends. Operands that race are copied when it starts and written when it
// ends. In a run without values only Values::always operands have memory: a kernel computes when
// all its operands do, and writes "not a number" to those that do when another does not (the lowest
// number of an integer type).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/channel.hpp"
#include "backend/kernel.hpp"
#include "backend/prepared.hpp"
#include "backend/tensor.hpp"

namespace orrery::sim {

View view_of(const Operand& operand);

// An operation of a stream some of whose operands have values.
struct ValueOperation {
  const PreparedKernel* kernel = nullptr;  // or a sequence, or else a copy or an upload
  const Sequence* sequence = nullptr;
  std::uint32_t roles = 0;
  std::uint16_t racy = 0;     // a bit per operand
  std::uint16_t missing = 0;  // a bit per operand without values in this run
  std::vector<View> views;
  std::vector<std::vector<std::byte>> staged;  // copies of racy operands; of an upload, the data

  void set_operands(std::span<const Operand> operands, std::uint32_t operand_roles);
  void set_upload(const Operand& to, std::span<const double> values);
  bool races() const { return racy != 0; }
  void take_copies();                          // when the operation starts
  void carry_out(const KernelBodies* bodies);  // when it ends; throws what a body throws

 private:
  void run_kernel(const Kernel& body, std::uint32_t kernel_roles, std::vector<View>& operands,
                  bool lacks_values, const KernelBodies* bodies) const;
};

// Whether any operand has memory, so that a ValueOperation is needed.
inline bool any_values(std::span<const Operand> operands) {
  for (const Operand& operand : operands)
    if (operand.storage != nullptr && operand.storage->data != nullptr) return true;
  return false;
}

// The values of a communication, by part (see Rendezvous::parts).
class TransferValues {
 public:
  explicit TransferValues(std::size_t parts) : parts_(parts) {}
  void join(int part, const Operand& in, const Operand& out);
  bool reads_race() const { return reads_race_; }
  bool writes_race() const { return writes_race_; }
  void take_copies();  // when it starts
  // When it ends: computes, and writes what does not race.
  void carry_out(const Communication& operation);
  void write_racy(int part);  // then, for each member

 private:
  struct Part {
    View in, out;
    bool joined = false, racy_in = false, racy_out = false;
    std::vector<std::byte> copy;    // of a racy input
    std::vector<std::byte> result;  // for a racy output
  };
  bool lacks_inputs(const Communication& operation) const;
  std::vector<Part> parts_;
  bool reads_race_ = false, writes_race_ = false;
};

}  // namespace orrery::sim
