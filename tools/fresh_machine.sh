#!/usr/bin/env bash
# Proves the README on a machine that has nothing: a bare Debian in a folder.
#
# Usage: tools/fresh_machine.sh RELEASE [--only run|test|wheel] [--without-torch] [--wheel FILE] [--keep]
#
#   RELEASE          bookworm, trixie, or any other that debootstrap knows
#   --only PART      run: `make run`; test: `make test`; wheel: the wheel's three commands.
#                    Without it, run and test follow each other in one root, wheel has its own.
#   --without-torch  the tests run without torch (for where only builds with CUDA can be had)
#   --wheel FILE     the wheel to install; without it, `make wheel` builds one here
#   --keep           keeps the roots; without it, they go when the script ends
#
# The machine gets the commit that is checked out (a clone, without ../shared), the packages that the
# README names, and this machine's way to a package index: pip's configuration, its PIP_* and proxy
# variables, and the local files and folders that these name. The commands run as an ordinary user.
# Needs root, debootstrap and unshare. FRESH_DIR (/var/tmp/calvin-eval-fresh) keeps the downloaded
# Debian, its packages, pip's cache and the logs; FRESH_MIRROR is the Debian mirror.
set -euo pipefail

HERE=$(cd "$(dirname "$0")/.." && pwd)
FRESH_DIR=${FRESH_DIR:-/var/tmp/calvin-eval-fresh}
MIRROR=${FRESH_MIRROR:-http://deb.debian.org/debian}
HOME_IN=/home/user
TREE=$HOME_IN/calvin-eval

fail() { echo "fresh_machine: $*" >&2; exit 2; }

read_options() {
  RELEASE=${1:-}
  [[ $RELEASE =~ ^[a-z]+$ ]] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2; }
  shift
  PARTS="tree wheel" TARGETS="run test" TORCH=yes WHEEL="" KEEP=no
  while (($#)); do
    case $1 in
      --only)
        case ${2:-} in
          run | test) PARTS=tree TARGETS=$2 ;;
          wheel) PARTS=wheel ;;
          *) fail "--only: expected run, test or wheel, found '${2:-}'" ;;
        esac
        shift ;;
      --wheel) WHEEL=$(realpath -e "${2:-}"); shift ;;
      --without-torch) TORCH=no ;;
      --keep) KEEP=yes ;;
      *) fail "expected an option, found '$1'" ;;
    esac
    shift
  done
}

# Mounts and processes live in namespaces of their own and end with them, whatever happens.
enter_namespaces() {
  [ "$(id -u)" = 0 ] || fail "needs root: debootstrap and chroot do"
  command -v debootstrap >/dev/null || fail "needs debootstrap: apt-get install debootstrap"
  [ -n "${FRESH_INSIDE:-}" ] ||
    FRESH_INSIDE=1 exec unshare --mount --propagation private --pid --fork --kill-child \
      "$0" "$@"
}

# The packages that the README tells a user of a bare Debian to install.
readme_packages() {
  grep -oE 'apt-get install [a-z0-9+ -]+' "$HERE/README.md" | head -1 | cut -d' ' -f3-
}

bare_root() { # the tarball of a Debian without anything, made once
  local tar=$FRESH_DIR/$RELEASE.tar
  if [ ! -e "$tar" ]; then
    local made=$FRESH_DIR/$RELEASE.making
    rm -rf "$made"
    debootstrap --variant=minbase "$RELEASE" "$made" "$MIRROR" >"$LOGS/debootstrap.log" ||
      fail "debootstrap failed: see $LOGS/debootstrap.log"
    tar -C "$made" -cf "$tar.part" . && mv "$tar.part" "$tar" && rm -rf "$made"
  fi
  mkdir -p "$ROOT" && tar -C "$ROOT" -xf "$tar"
}

mount_devices() {
  mount -t proc proc "$ROOT/proc"
  mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
  local name
  for name in null zero full random urandom tty; do
    touch "$ROOT/dev/$name" && mount --bind "/dev/$name" "$ROOT/dev/$name"
  done
  mkdir "$ROOT/dev/pts" "$ROOT/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$ROOT/dev/pts"
  mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
  ln -s pts/ptmx "$ROOT/dev/ptmx" && ln -s /proc/self/fd "$ROOT/dev/fd"
}

bind() { # a file or folder of this machine, at the same path there, read-only
  if [ -d "$1" ]; then mkdir -p "$ROOT$1"; else mkdir -p "$ROOT${1%/*}" && touch "$ROOT$1"; fi
  mount --bind "$1" "$ROOT$1" && mount -o remount,bind,ro "$ROOT$1"
}

# How this machine reaches a package index, for the other one.
share_package_index() {
  local files file path
  files=$(python3 -m pip config debug 2>/dev/null | sed -nE 's/^ +(\/.*), exists: True$/\1/p' || true)
  for file in $files; do
    install -D -m 644 "$file" "$ROOT${file/#$HOME\//$HOME_IN/}"
  done
  VARIABLES=$(env | grep -iE '^(PIP_[A-Z_]+|SSL_CERT_FILE|REQUESTS_CA_BUNDLE|(https?|no)_proxy)=' |
    grep -v '^PIP_CACHE_DIR=' || true)
  # A folder that serves as an index has its files beside it.
  { cat /dev/null $files; echo "$VARIABLES"; } | tr ' =' '\n\n' | sed -n 's#^\(file://\)\{0,1\}/#/#p' |
    sed 's#/simple/\{0,1\}$##' | sort -u | while read -r path; do
      [ ! -e "$path" ] || bind "$path"
    done
  mkdir -p "$FRESH_DIR/pip-cache" "$ROOT$HOME_IN/.cache/pip"
  chown 1000:1000 "$FRESH_DIR/pip-cache"
  mount --bind "$FRESH_DIR/pip-cache" "$ROOT$HOME_IN/.cache/pip"
}

new_machine() { # name, packages...
  ROOT=$FRESH_DIR/$RELEASE-$1
  shift
  [ ! -e "$ROOT" ] || rm -rf --one-file-system "$ROOT"
  ROOTS+=("$ROOT")
  bare_root
  mount_devices
  cp -L /etc/resolv.conf /etc/hosts "$ROOT/etc/"
  mkdir -p "$FRESH_DIR/$RELEASE-debs/partial"
  mount --bind "$FRESH_DIR/$RELEASE-debs" "$ROOT/var/cache/apt/archives"
  local log=$LOGS/apt.log
  chroot "$ROOT" sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq -y --no-install-recommends "$@"' sh "$@" >"$log" 2>&1 || fail "apt-get: see $log"
  chroot "$ROOT" useradd --uid 1000 --create-home user
  share_package_index
  chown -R 1000:1000 "$ROOT$HOME_IN" 2>/dev/null || true
}

as_user() { # folder, command... on the fresh machine
  local folder=$1 variables
  shift
  mapfile -t variables <<<"$VARIABLES"
  chroot --userspec=1000:1000 "$ROOT" /usr/bin/env -i HOME=$HOME_IN USER=user LANG=C.UTF-8 \
    PATH=/usr/local/bin:/usr/bin:/bin "${variables[@]:-_=}" \
    sh -c 'cd "$1" && shift && exec "$@"' sh "$folder" "$@"
}

# What a command printed that a reader of the summary wants: pytest's counts, or a score.
gist() {
  sed 's/\x1b\[[0-9;]*m//g' "$1" | grep -E '[0-9]+ (passed|failed|error)|^ +length ' |
    sed -E 's/^[= │]+|[= │]+$//g; s/  +/ /g' | paste -sd';' || true
}

step() { # name, folder, command...
  local name=$1 folder=$2 log=$LOGS/$1.log start=$SECONDS rc=0
  shift 2
  echo "fresh_machine: $RELEASE: $* ($log)" >&2
  as_user "$folder" "$@" >"$log" 2>&1 </dev/null || rc=$?
  local outcome=ok
  [ $rc = 0 ] || { outcome="FAILED (exit code $rc)" FAILED=1; tail -n 15 "$log" >&2; }
  SUMMARY+="  $*: $outcome, $((SECONDS - start)) s; $(gist "$log")"$'\n'
  return $rc
}

describe() { # what the machine is, and how large an environment on it became
  local python=$1
  SUMMARY+="  $(. "$ROOT/etc/os-release" && echo "$PRETTY_NAME"), $(as_user / ldd --version |
    sed -n '1s/.* /glibc /p'), $(as_user / "$python" -V); packages: $2"$'\n'
  SUMMARY+="  environment: $(du -sm "$ROOT${python%/bin/*}" | cut -f1) MB; $(as_user / "$python" -m pip \
    list --format=freeze 2>/dev/null | grep -iE '^(pybullet|torch|numpy)' | paste -sd' ')"$'\n'
}

part_tree() {
  local packages target options=()
  packages=$(readme_packages)
  [ -n "$packages" ] || fail "README.md names no 'apt-get install …'"
  # shellcheck disable=SC2086
  new_machine tree $packages
  git clone --quiet --no-local "$HERE" "$ROOT$TREE" && git -C "$ROOT$TREE" checkout --quiet "$COMMIT"
  chown -R 1000:1000 "$ROOT$TREE"
  [ $TORCH = yes ] || options=(EXTRAS=test)
  SUMMARY+="From the source tree:"$'\n'
  for target in $TARGETS; do
    step "$target" $TREE make "$target" "${options[@]}" || true
  done
  [ ! -e "$ROOT$TREE/.venv" ] || describe $TREE/.venv/bin/python "$packages"
}

part_wheel() {
  if [ -z "$WHEEL" ]; then
    make -C "$HERE" --silent wheel >"$LOGS/make-wheel.log" 2>&1 || fail "make wheel: see $LOGS/make-wheel.log"
    WHEEL=$(ls -t "$HERE"/dist/*.whl | head -1)
  fi
  new_machine wheel python3-venv
  local bin=$HOME_IN/env/bin
  install -D -o 1000 -g 1000 -m 644 "$WHEEL" -t "$ROOT$HOME_IN"
  SUMMARY+="From the wheel ($(du -k "$WHEEL" | cut -f1) kB):"$'\n'
  as_user $HOME_IN python3 -m venv env
  step install $HOME_IN $bin/pip install --quiet "./${WHEEL##*/}" &&
    step evaluate $HOME_IN $bin/calvin-eval --ckpt builtin:expert --num-chains 2 --video 1 --out run &&
    step report $HOME_IN $bin/calvin-eval report run || true
  describe $bin/python python3-venv
  SUMMARY+="  videos: $(find "$ROOT$HOME_IN/run" -name '*.mp4' -size +1k | wc -l); doctor: $(as_user $HOME_IN \
    $bin/calvin-eval doctor 2>&1 | sed -n 's/^. \(physics\|images\) */\1 /p' | paste -sd';')"$'\n'
}

finish() {
  local root
  cd /
  for root in "${ROOTS[@]}"; do
    awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/self/mounts | sort -r |
      xargs -r -n1 umount --lazy
    [ $KEEP = yes ] || rm -rf --one-file-system "$root"
  done
}

main() {
  enter_namespaces "$@"
  read_options "$@"
  COMMIT=$(git -C "$HERE" rev-parse HEAD)
  LOGS=$FRESH_DIR/logs/$RELEASE SUMMARY="" FAILED=0 ROOTS=()
  mkdir -p "$LOGS"
  trap finish EXIT
  trap 'exit 130' INT TERM # pid 1 of a namespace hears no others
  for part in $PARTS; do "part_$part"; done
  echo "$RELEASE, tree at commit ${COMMIT:0:9}, $(date +%F), $(nproc) cores:"
  printf '%s' "$SUMMARY"
  if [ $FAILED = 0 ]; then echo "All of it worked."; else echo "Something failed: see $LOGS."; fi
  exit $FAILED
}

main "$@"
