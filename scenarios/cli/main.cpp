#include "scenarios/cli/command.hpp"

int main(int argc, char** argv) { return orrery::cli::main_program(argc, argv); }
