#include "backend/transport/transport.hpp"

namespace orrery::transport {

std::string key_of(const Communicator& communicator) {
  std::string key = communicator.name();
  char before = '@';
  for (const int member : communicator.members()) {
    key += before + std::to_string(member);
    before = ',';
  }
  return key;
}

}  // namespace orrery::transport
