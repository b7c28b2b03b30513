# Shared by the scripts of this folder: finding the project, installing packages, building under a lock, progress.
# shellcheck shell=bash
# To be sourced by bash under `set -euo pipefail`. It writes to stderr only, so that stdout belongs to the caller's program.

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

# ---- Messages -------------------------------------------------------------------------------------------------------

progress_is_open=no
progress_last=-30

# progress TEXT: on a terminal one line that is rewritten; elsewhere a plain line at most every 30 seconds.
progress() {
  if [[ -t 2 && ${TERM:-dumb} != dumb ]]; then
    printf '\r\033[K%s' "$1" >&2
    progress_is_open=yes
  elif (( SECONDS - progress_last >= 30 )); then
    printf '%s\n' "$1" >&2
    progress_last=$SECONDS
  fi
}

# Removes the rewritten line, so that what follows starts on a clean one.
end_progress() {
  if [[ $progress_is_open == yes ]]; then printf '\r\033[K' >&2; fi
  progress_is_open=no
}

say() {
  end_progress
  printf '%s\n' "$1" >&2
}

# die STATUS TEXT: the statuses are those of orrery itself: 1 failed, 2 usage, 6 something is not available here.
die() {
  say "error: $2"
  exit "$1"
}

# ---- Packages -------------------------------------------------------------------------------------------------------

# packages_of GROUP…: the package names of these groups, one per line.
packages_of() {
  local group package wanted
  while read -r group package; do
    for wanted in "$@"; do
      if [[ $group == "$wanted" ]]; then printf '%s\n' "$package"; fi
    done
  done < "$root/scripts/packages.txt"
}

# missing_packages NAME…: those that are not installed, one per line.
missing_packages() {
  local name installed
  installed=$(dpkg-query -W -f='${Package} ${db:Status-Status}\n' "$@" 2>/dev/null || true)
  for name in "$@"; do
    if [[ $'\n'$installed != *$'\n'"$name installed"* ]]; then printf '%s\n' "$name"; fi
  done
}

# On a system without dpkg nothing can be installed for the user: the tools must be there, the libraries CMake will look for.
require_tools() {
  local tool
  for tool in cmake ninja c++; do
    type -P "$tool" > /dev/null || die 6 "$tool is not installed, and this system has no apt-get to install it with.
Needed, by their Debian names: $(packages_of build | tr '\n' ' ')"
  done
}

# ensure_packages GROUP…: installs what is missing of these groups. Does nothing else when all is there.
ensure_packages() {
  if ! type -P dpkg-query > /dev/null; then
    require_tools
    return
  fi
  local names missing as_root=()
  mapfile -t names < <(packages_of "$@")
  mapfile -t missing < <(missing_packages "${names[@]}")
  if (( ${#missing[@]} == 0 )); then return; fi
  local advice="These packages are missing: ${missing[*]}
Ask an administrator to run: apt-get install ${missing[*]}"
  type -P apt-get > /dev/null || die 6 "cannot install packages: this system has no apt-get. $advice"
  if (( EUID != 0 )); then
    type -P sudo > /dev/null || die 6 "cannot install packages: neither root nor sudo. $advice"
    as_root=(sudo)
  fi
  install_packages "${as_root[@]}" -- "${missing[@]}" || die 6 "installing packages failed. $advice"
}

# archive_lacks NAME: whether this system has no such package to install. Without package lists that is not known, so false.
archive_lacks() {
  if ! type -P apt-cache > /dev/null; then return 0; fi
  [[ -n $(apt-cache madison cmake) && -z $(apt-cache madison "$1") ]]
}

# install_packages [sudo] -- NAME…: a fresh system has no package lists yet, so a failed attempt is repeated after an update.
install_packages() {
  local as_root=() log=$root/build/packages.log
  while [[ $1 != -- ]]; do as_root+=("$1"); shift; done
  shift
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=600)
  say "installing $# packages: $*"
  if "${apt[@]}" install --no-install-recommends "$@" > "$log" 2>&1 < /dev/null; then return; fi
  if "${apt[@]}" update > "$log" 2>&1 < /dev/null &&
     "${apt[@]}" install --no-install-recommends "$@" >> "$log" 2>&1 < /dev/null; then return; fi
  tail -n 20 "$log" >&2
  return 1
}

# ---- Building -------------------------------------------------------------------------------------------------------

# Everything that decides what the program is: names, times and sizes of the sources (so an added or deleted file counts as
# much as a changed one), the compiler, and the list of installed packages. One `find` and one `stat`: the whole cost of a
# start of scripts/orrery when nothing changed.
fingerprint() {
  compiler_identity
  stat -L -c '%n %Y %s' /var/lib/dpkg/status 2>/dev/null || true
  cd -- "$root" || return
  find CMakeLists.txt CMakePresets.json scripts/cmake scripts/packages.txt \
       backend sim platforms algorithms calibration scenarios \
       \( -name '*.cpp' -o -name '*.hpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cmake' -o -name '*.in' \
          -o -name CMakeLists.txt -o -name CMakePresets.json -o -name packages.txt \) \
       -printf '%p %T@ %s\n' 2>/dev/null || true
}

# The project's place and the compiler: a build folder made for others than these must be made anew.
compiler_identity() {
  local compiler
  compiler=$(type -P "${CXX:-c++}" || true)
  printf '%s %s\n' "$root" "${compiler:-no compiler}"
  if [[ -n $compiler ]]; then stat -L -c '%Y %s' "$compiler"; fi
}

program_is_current() {
  local dir=$root/build/release
  [[ -x $dir/orrery && -r $dir/.fingerprint && $(fingerprint) == "$(< "$dir/.fingerprint")" ]]
}

# lock_build PRESET: one process at a time per build folder. Held until unlock_build, and by a compiler that outlives us.
lock_build() {
  mkdir -p "$root/build" || die 1 "cannot write to $root/build"
  exec 9> "$root/build/.lock-$1" || die 1 "cannot write to $root/build"
  if ! flock -n 9; then
    say "waiting for another process that builds $1 …"
    flock 9
  fi
}

unlock_build() { exec 9>&-; }

# A build folder that was made for another compiler, or before the project moved, would fail or mix objects.
discard_stale_build() {
  local dir=$1 home identity
  [[ -e $dir/CMakeCache.txt ]] || return 0
  home=$(sed -n 's/^CMAKE_HOME_DIRECTORY:INTERNAL=//p' "$dir/CMakeCache.txt")
  identity=$(compiler_identity)
  if [[ $home != "$root" || ( -e $dir/.compiler && $(< "$dir/.compiler") != "$identity" ) ]]; then
    say "the compiler or the project's place changed: building ${dir##*/} anew"
    rm -rf -- "$dir"
  fi
}

configure() {
  local preset=$1 dir=$root/build/$1
  discard_stale_build "$dir"
  mkdir -p "$dir"
  if [[ ! -e $dir/build.ninja ]]; then
    progress "configuring $preset …"
    if ! (cd -- "$root" && cmake --preset "$preset") > "$dir/build.log" 2>&1 < /dev/null; then
      end_progress
      cat "$dir/build.log" >&2
      die 1 "configuring $preset failed"
    fi
  fi
  compiler_identity > "$dir/.compiler"
}

# What a reader needs of ninja's output after a failure: the compiler's words, not the steps and the command lines.
show_errors() {
  awk '/^FAILED: / { print "failed: " $2; command = 1; next }
       command { command = 0; next }
       /^\[[0-9]+\/[0-9]+\] / || /^-- / || /^ninja: Entering/ { next }
       ++shown <= 300 { print }
       END { if (shown > 300) print "… " shown - 300 " more lines in " FILENAME }' "$1" >&2
}

# build PRESET TARGET…: configures where needed and builds. The lock must be held.
build() {
  local preset=$1 dir=$root/build/$1 log=$root/build/$1/build.log
  shift
  configure "$preset"
  if ! NINJA_STATUS='[%f/%t] ' ninja -C "$dir" "$@" 2>&1 < /dev/null | tee "$log" | show_steps "$preset"; then
    end_progress
    show_errors "$log"
    die 1 "building $preset failed"
  fi
  end_progress
}

show_steps() {
  local line
  while IFS= read -r line; do
    if [[ $line =~ ^\[([0-9]+)/([0-9]+)\] ]]; then
      progress "building orrery ($1) ${BASH_REMATCH[1]}/${BASH_REMATCH[2]} …"
    fi
  done
  end_progress
}

# build_release TARGET…: builds in the release folder and remembers what the program was built from. The fingerprint is taken
# before the build, so a file saved meanwhile leads to another build.
build_release() {
  local before
  before=$(fingerprint)
  build release "$@"
  printf '%s\n' "$before" > "$root/build/release/.fingerprint"
}

# Makes build/release/orrery current. Another process may have built it while we waited for the lock.
ensure_program() {
  if program_is_current; then return; fi
  lock_build release
  if ! program_is_current; then
    ensure_packages build
    build_release orrery
  fi
  unlock_build
}
