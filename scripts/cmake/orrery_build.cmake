# How every target of this project is built: dependencies, warnings, sanitizers, libraries by folder.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()
find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

# Most of a compilation is reading the standard library and our headers, so several sources of a target are compiled as
# one. Names inside a library are therefore its own, also those in unnamed
# namespaces. The preset `debug` compiles each source alone.
option(ORRERY_UNITY "Compile several sources of a target as one" ON)
set(CMAKE_UNITY_BUILD ${ORRERY_UNITY})
set(CMAKE_UNITY_BUILD_BATCH_SIZE 8)

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(pugixml REQUIRED)
find_package(Eigen3 REQUIRED)
find_package(Boost REQUIRED CONFIG COMPONENTS program_options)
find_package(SQLite3 REQUIRED)
find_package(ZLIB REQUIRED)

# Debian's package has no CMake configuration; the headers and one library are all there is.
find_path(SIMGRID_INCLUDE simgrid/s4u.hpp REQUIRED)
find_library(SIMGRID_LIBRARY simgrid REQUIRED)
add_library(SimGrid::SimGrid UNKNOWN IMPORTED)
set_target_properties(SimGrid::SimGrid PROPERTIES IMPORTED_LOCATION ${SIMGRID_LIBRARY}
                      INTERFACE_INCLUDE_DIRECTORIES ${SIMGRID_INCLUDE})

# Settings common to all our own code. Floating-point contraction is off everywhere, so that the same expression gives the
# same bits in every world.
function(orrery_target target)
  target_include_directories(${target} PUBLIC ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wconversion -Wshadow -Werror -ffp-contract=off)
  if(ORRERY_SANITIZE)
    # A finding ends the program, so that a test that provokes one cannot pass.
    target_compile_options(${target} PUBLIC -fsanitize=${ORRERY_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(${target} PUBLIC -fsanitize=${ORRERY_SANITIZE})
    if(ORRERY_SANITIZE MATCHES undefined AND NOT ORRERY_FUZZ)
      # AddressSanitizer ends a program that follows a null pointer or leaves an object, in less code.
      target_compile_options(${target} PUBLIC -fno-sanitize=null,object-size)
    endif()
  endif()
  if(ORRERY_FUZZ)
    target_compile_options(${target} PUBLIC -fsanitize=fuzzer-no-link)  # coverage, by which the fuzzer finds its way
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    target_compile_options(${target} PRIVATE -Wno-restrict)  # GCC 12 sees overlaps in `"a" + string` (its bug 105651)
    if(ORRERY_UNITY)
      # GCC takes included sources for headers, and inlines more, of which it then says things that are not so.
      target_compile_options(${target} PRIVATE -Wno-subobject-linkage -Wno-maybe-uninitialized)
    endif()
    if(CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13)
      target_compile_options(${target} PRIVATE -Wno-maybe-uninitialized)  # of empty std::optionals (its bug 80635)
    endif()
    if(ORRERY_SANITIZE STREQUAL thread)
      target_compile_options(${target} PRIVATE -Wno-tsan)  # SimGrid's pointers use a fence, which TSan does not model
    endif()
  elseif(CMAKE_CXX_COMPILER_ID MATCHES Clang)
    target_compile_options(${target} PRIVATE -Wno-sign-conversion)  # part of Clang's -Wconversion, not of GCC's
  endif()
endfunction()

# For libraries that no inner loop enters, which read and print: -O1 compiles them in half the time of -O3, and under
# sanitizers -O0 in half that of -O1; but a fuzzer is to get far.
function(orrery_compiled_quickly target)
  if(ORRERY_SANITIZE AND NOT ORRERY_FUZZ)
    target_compile_options(${target} PRIVATE -O0)
  else()
    target_compile_options(${target} PRIVATE $<$<CONFIG:Release>:-O1>)
  endif()
endfunction()

# One static library `orrery_<name>` from the sources of the named folders (not their subfolders); an interface library while
# a folder holds headers alone.
function(orrery_library name)
  set(patterns "")
  foreach(folder ${ARGN})
    list(APPEND patterns ${PROJECT_SOURCE_DIR}/${folder}/*.cpp)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  if(NOT sources)
    file(WRITE ${PROJECT_BINARY_DIR}/empty_${name}.cpp "")
    set(sources ${PROJECT_BINARY_DIR}/empty_${name}.cpp)
  endif()
  add_library(orrery_${name} STATIC ${sources})
  orrery_target(orrery_${name})
endfunction()

# Value kernels use this machine's vector instructions; bits are promised per build and CPU. None asks what a root did to
# errno, for which each would be taken alone.
function(orrery_value_kernels target)
  get_target_property(sources ${target} SOURCES)
  list(FILTER sources INCLUDE REGEX "kernels_[a-z_]*\\.cpp$")
  set(options -fno-math-errno)
  if(ORRERY_NATIVE)
    list(APPEND options -march=native)
    if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
      list(APPEND options -Wno-maybe-uninitialized)  # GCC 12 warns of its own AVX-512 intrinsics (its bug 105593)
    endif()
  endif()
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "${options}")
endfunction()

# `#include "orrery_paths.hpp"`: the version and where the data folders are, for those that link the target.
function(orrery_paths_header target)
  include(GNUInstallDirs)
  file(RELATIVE_PATH ORRERY_DATA_FROM_PROGRAM ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_DATADIR}/orrery)
  configure_file(${PROJECT_SOURCE_DIR}/scripts/cmake/orrery_paths.hpp.in ${PROJECT_BINARY_DIR}/generated/orrery_paths.hpp
                 @ONLY)
  target_include_directories(${target} PUBLIC ${PROJECT_BINARY_DIR}/generated)
endfunction()

# The data folders keep their names below share/orrery, so that a path like scenarios/quickstart.yaml means the same there.
function(orrery_install_data)
  include(GNUInstallDirs)
  install(DIRECTORY scenarios platforms DESTINATION ${CMAKE_INSTALL_DATADIR}/orrery
          FILES_MATCHING PATTERN "*.yaml" PATTERN "*.json" PATTERN "*.txt" PATTERN "cli" EXCLUDE)
endfunction()

# orrery_fuzz_target(<x> <libraries>…), in tests/fuzz: <x>_fuzz from <x>_fuzz.cpp, and <x>_fuzz_planted from the same source
# with ORRERY_FUZZ_PLANTED defined, under which it holds a crash that the fuzzer must find.
function(orrery_fuzz_target name)
  foreach(target ${name}_fuzz ${name}_fuzz_planted)
    add_executable(${target} ${name}_fuzz.cpp)
    orrery_target(${target})
    target_link_libraries(${target} PRIVATE ${ARGN})
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  endforeach()
  target_compile_definitions(${name}_fuzz_planted PRIVATE ORRERY_FUZZ_PLANTED)
endfunction()
