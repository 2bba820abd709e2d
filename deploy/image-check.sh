#!/usr/bin/env bash
# Proves the image where there is no container engine: builds it with buildah on a bare Debian 12 made by debootstrap, starts
# its entry point as its user, asks for an action, and does so again with the root file system read-only.
#
#   deploy/image-check.sh [--volume FROM:TO[:ro]]... [--port N] [--mirror URL] [--keep]
#
# Run by hand, as root. Where packages come through a proxy or a mirror, mount what pip needs into the build:
#   --volume /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt:ro
#   --volume "$HOME/.config/pip/pip.conf:/etc/pip.conf:ro"
# --port is for a machine whose port 8080 is taken (the network is shared), --keep leaves base and image for another run.
set -euo pipefail

BASE=localhost/actd-check-base
IMAGE=localhost/actd-check
mirror=http://deb.debian.org/debian
port=8080
keep=no
volumes=()

stop() {
    echo "image-check: $1" >&2
    exit 1
}

step() {
    printf '\n== %s\n' "$1"
}

while [ $# -gt 0 ]; do
    case "$1" in
        --keep) keep=yes && shift && continue ;;
        --volume) volumes+=(--volume "${2:?--volume needs FROM:TO}") ;;
        --port) port=${2:?--port needs a number} ;;
        --mirror) mirror=${2:?--mirror needs an address} ;;
        *) stop "$1 is not an option: expected --volume, --port, --mirror or --keep" ;;
    esac
    shift 2
done

for tool in buildah debootstrap curl pgrep python3 unshare; do
    command -v "$tool" > /dev/null || stop "$tool is missing: install the Debian packages buildah, debootstrap, curl, procps, python3 and util-linux"
done
[ "$(id -u)" -eq 0 ] || stop "debootstrap and chroot need root"
url=http://127.0.0.1:$port
curl --noproxy '*' -s -o /dev/null "$url/" && stop "port $port is taken: choose another with --port"

repository=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
container=
server=

clean_up() {
    if [ -n "$server" ]; then kill "$server" 2> /dev/null && wait "$server" || true; fi
    if [ -n "$container" ]; then buildah rm "$container" > /dev/null || true; fi
    if [ "$keep" = no ]; then
        # By number, because the build leaves an image without a name too.
        buildah images --all --quiet | sort | comm -13 "$work/images" - | xargs --no-run-if-empty buildah rmi --force > /dev/null || true
    fi
    rm -rf "$work"
}
trap clean_up EXIT
buildah images --all --quiet | sort > "$work/images"

make_base() {
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$work/base" "$mirror" > "$work/log" \
        || { tail -n 20 "$work/log" >&2 && stop "debootstrap failed"; }
    rm -rf "$work"/base/var/cache/apt/archives/*.deb
    local blank
    blank=$(buildah from scratch)
    buildah add --quiet "$blank" "$work/base" / > /dev/null
    buildah commit --quiet --rm "$blank" "$BASE" > /dev/null
    rm -rf "$work/base"
}

# What the image says of itself, a word a line, for another port where one was asked for: files command, health, environment.
read_image() {
    buildah inspect --type image "$IMAGE" | python3 -c '
import json, pathlib, sys

config = json.load(sys.stdin)["Docker"]["config"]
said = {"command": config["Entrypoint"] + config["Cmd"], "health": config["Healthcheck"]["Test"][1:], "environment": config["Env"]}
for name, words in said.items():
    pathlib.Path(sys.argv[1], name).write_text("".join(word.replace("8080", sys.argv[2]) + "\n" for word in words))
' "$work" "$port"
    mapfile -t command < "$work/command"
    mapfile -t health < "$work/health"
    mapfile -t environment < "$work/environment"
}

# One observation in the middle of the declared ranges, as a controller would send it.
ask() {
    python3 - "$url" << 'PYTHON'
import json
import sys
from urllib.request import ProxyHandler, Request, build_opener

call = build_opener(ProxyHandler({})).open
served = json.load(call(sys.argv[1] + "/policy", timeout=5))
middle = {field["name"]: ((field["low"] or 0) + (field["high"] or 0)) / 2 for field in served["observation"]["fields"]}
body = json.dumps({"session": "image-check", "observation": middle}).encode()
answer = json.load(call(Request(sys.argv[1] + "/act", body, {"Content-Type": "application/json"}), timeout=5))
print("POST /act", body.decode())
print("      ->", json.dumps(answer))
assert answer["action"] in range(len(served["actions"])), "this is not one of its actions"
assert answer["source"] == "policy" and answer["durability"] == "journal", "this is not a durable decision of the policy"
PYTHON
}

# Waits for the server that was just started, asks it, checks its health ($1...: how to run a command beside it), stops it.
visit() {
    local tries=0
    until curl --noproxy '*' -sf -o /dev/null "$url/ready"; do
        tries=$((tries + 1))
        if [ "$tries" -gt 150 ] || ! kill -0 "$server" 2> /dev/null; then
            cat "$work/log" >&2
            stop "the entry point did not become ready"
        fi
        sleep 0.2
    done
    ask
    "$@" "${health[@]}" || stop "the health check does not pass"
    echo "health check: passed"
    # buildah passes no signal on: it goes to the entry point itself, as an engine's would.
    local entry=$server
    until [ "$(cat "/proc/$entry/comm")" = "${command[0]}" ]; do entry=$(pgrep --oldest --parent "$entry"); done
    kill -TERM "$entry"
    wait "$server" && echo "stopped when told to, with status 0" || stop "it ended with status $?"
    server=
    curl --noproxy '*' -s -o /dev/null "$url/" && stop "something still answers on port $port"
    if "$@" "${health[@]}" 2> /dev/null; then stop "the health check passes with nothing served"; fi
}

if [ "$keep" = yes ] && buildah inspect --type image "$BASE" > /dev/null 2>&1; then
    step "the base of an earlier run"
else
    step "a base: Debian 12 with Python and pip"
    make_base
fi

step "the image"
buildah bud --isolation chroot --format docker --build-arg "BASE=$BASE" "${volumes[@]}" --tag "$IMAGE" "$repository"
buildah images | grep -E "^REPOSITORY|$IMAGE"
read_image
container=$(buildah from "$IMAGE")
root=$(buildah mount "$container")
echo "/app: $(du -sm "$root/app" | cut -f 1) MB"
[ -z "$(find "$root" -xdev -path '*/site-packages/torch')" ] || stop "there is torch in the image"

step "as its user: ${command[*]}"
buildah run --isolation chroot "$container" -- id
touch "$work/before"
buildah run --isolation chroot "$container" -- "${command[@]}" > "$work/log" 2>&1 &
server=$!
visit buildah run --isolation chroot "$container" --
written=$(find "$root" -xdev -newer "$work/before" -type f -not -path "$root/data/*" -not -path "$root/tmp/*" -not -path "$root/etc/*")
[ -z "$written" ] || stop "it wrote outside /data and /tmp: $written"

step "the same with the root file system read-only, no capabilities and no new privileges"
install --directory --owner=65532 --group=65532 "$work/data"
install --directory --mode=1777 "$work/tmp"
# A mount namespace of its own: what is mounted in it goes with the process.
sealed=(env --ignore-environment "${environment[@]}" unshare --mount bash -euc '
root=$1 work=$2
shift 2
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --bind "$work/data" "$root/data"
mount --bind "$work/tmp" "$root/tmp"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
exec chroot "$root" setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all env --chdir=/app "$@"
' sealed "$root" "$work")
"${sealed[@]}" sh -c 'id; touch /app/written /written 2>&1; echo "in /data: $(ls /data)"'
"${sealed[@]}" "${command[@]}" > "$work/log" 2>&1 &
server=$!
visit "${sealed[@]}"
find "$work/data" -type f -printf 'kept in /data: %P, %s bytes\n' | sort

step "proved: builds, answers, and needs nothing but /data and /tmp to write to"
