#!/usr/bin/env bash
# Makes the environment, fetches the weights and examines the machine, then becomes the supervisor that runs the apps.
#
# No `set -e`: what may fail is checked where it stands. No `set -m` either: it takes hold of the terminal and stops a
# script that was started with `&`. Each step gets a session of its own (setsid) instead, so that Ctrl-C reaches this
# script alone, which then ends the step and all of its children.
set -u
cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" || exit 1

readonly VENV=.venv
readonly STAMP=$VENV/installed  # what was installed there, written last
readonly PYTHON=$VENV/bin/python

usage() {
    cat <<'TEXT'
Usage: bash start_app.sh [asr|tts|both] [--check] [--help]
       bash start_app.sh indextts [--accept-licence]

  asr       speech to text only (http://127.0.0.1:6006)
  tts       text to speech only (http://127.0.0.1:7860)
  both      the two of them; this is the default
  indextts  install IndexTTS2 (some 20 GB) into cache_hub, once you accept its licence; start nothing
  --check   install if needed, show what will run and what stops it, fetch nothing, start nothing
  --help    this text

The first run makes .venv and installs requirements.txt; later runs do so only when that file has changed.
Before speech to text starts, SenseVoiceSmall (0.9 GB) is fetched into cache_hub if it is not there; what was begun is
continued. Without a network the embedded recogniser runs. STEADYVOICE_HUB=none fetches nothing.
An app that crashes is started again after 1, 2, 4 ... 30 s. Ctrl-C, SIGTERM and SIGHUP let running requests
finish (STEADYVOICE_DRAIN_S, 30 s) and leave no process behind.

  STEADYVOICE_PYTHON   the Python, 3.11 or newer, to make .venv with; else the first that is found
  All other settings, STEADYVOICE_ASR_PORT among them, are in docs/settings.md.

Exit code: 0 the apps were asked to stop, --check found nothing, or IndexTTS2 is installed; 1 no usable Python, or
the installation failed; 2 a problem that --check would show, an engine whose weights could not be fetched,
IndexTTS2 could not be installed, or a wrong argument; 143 stopped before the apps were started.
TEXT
}

say() { printf 'start_app: %s\n' "$*" >&2; }

# Runs a step in the background and waits for it: bash answers a signal only between foreground commands.
attend() {
    setsid "$@" &
    wait "$!"
}

# shellcheck disable=SC2317  # a trap calls it
end_early() {
    local job
    for job in $(jobs -rp); do kill -TERM -- "-$job" 2>/dev/null || kill -TERM "$job" 2>/dev/null; done
    exit 143
}

find_python() {
    # An environment that works keeps its Python, even if a newer one has been installed since.
    local candidate candidates=("$PYTHON" python3.13 python3.12 python3.11 python3 python)
    [ -z "${STEADYVOICE_PYTHON:-}" ] || candidates=("$STEADYVOICE_PYTHON")
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return 0
        fi
    done
    say "no Python 3.11 or newer among: ${candidates[*]}. Install one (Debian, Ubuntu: apt-get install python3 python3-venv)," \
        "or name one in STEADYVOICE_PYTHON."
    return 1
}

# What an installation depends on: the text of requirements.txt and the Python, by its second number.
fingerprint() {
    "$1" -c 'import hashlib, pathlib, sys
print(hashlib.sha256(pathlib.Path("requirements.txt").read_bytes()).hexdigest(), "%d.%d" % sys.version_info[:2])' 2>/dev/null
}

install() {
    local base wanted present
    base=$(find_python) || return 1
    wanted=$(fingerprint "$base")
    present=$(fingerprint "$PYTHON")  # empty if there is no environment, or the Python beneath it has gone
    [ "$wanted" != "$present" ] || [ "$wanted" != "$(cat "$STAMP" 2>/dev/null)" ] || return 0

    rm -f "$STAMP"  # from here until its end the installation is incomplete, and the next run repeats it
    if [ "$wanted" != "$present" ]; then
        say "making $VENV with $base"
        if ! "$base" -c 'import venv, ensurepip' 2>/dev/null; then
            say "$base cannot make an environment: its venv module is missing. Debian, Ubuntu: apt-get install" \
                "python${wanted##* }-venv"
            return 1
        fi
        attend "$base" -m venv --clear "$VENV" || { say "making $VENV failed; the reason is above"; return 1; }
    fi
    # A run that was cut short may have left an environment without pip.
    "$PYTHON" -m pip --version >/dev/null 2>&1 || attend "$PYTHON" -m ensurepip --upgrade ||
        { say "$VENV has no pip and cannot get one: remove the folder and start again"; return 1; }
    say "installing requirements.txt into $VENV; the first time this takes minutes"
    if ! attend "$PYTHON" -m pip install --disable-pip-version-check --requirement requirements.txt; then
        say "installing requirements.txt failed; pip says why above. Check the network and the free disk, then start again."
        return 1
    fi
    echo "$wanted" >"$STAMP"
}

# Brings the weights. Whatever keeps them away stops the start only if an engine was asked for that needs them: status 2.
fetch() {
    local status
    attend "$PYTHON" -m steadyvoice.provision.download
    status=$?
    [ "$status" -ne 2 ] || return 2
    [ "$status" -eq 0 ] || say "fetching SenseVoiceSmall ended with status $status; going on without it"
}

wanted="" check="" licence=""
for argument in "$@"; do
    case $argument in
        asr | tts | both | indextts)
            [ -z "$wanted" ] || { say "name one of asr, tts, both, indextts"; usage >&2; exit 2; }
            wanted=$argument
            ;;
        --check) check=1 ;;
        --accept-licence) licence=$argument ;;
        -h | --help) usage; exit 0 ;;
        *) say "unknown argument: $argument"; usage >&2; exit 2 ;;
    esac
done
wanted=${wanted:-both}
if { [ "$wanted" = indextts ] && [ -n "$check" ]; } || { [ "$wanted" != indextts ] && [ -n "$licence" ]; }; then
    say "--check is not for indextts, --accept-licence is for it alone"
    usage >&2
    exit 2
fi

trap '' PIPE  # Ctrl-C also ends the `tee` behind us; writing to it must not end us before the apps
trap end_early INT TERM HUP
exec 9<requirements.txt || exit 1  # as a lock: a second terminal must not install into the same folder at the same time
flock -n 9 || { say "another start_app.sh is installing; waiting for it"; attend flock 9; }
install || exit 1
exec 9<&-

export -n STEADYVOICE_PYTHON  # ours alone: the apps refuse settings that they do not know
# In our place, as it asks on the terminal, which a step in the background has not.
[ "$wanted" != indextts ] || exec "$PYTHON" -m steadyvoice.provision.indextts_install ${licence:+"$licence"}
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
export GRADIO_ANALYTICS_ENABLED=False
# Before the preflight, which then shows the engine that will run.
[ -n "$check" ] || [ "$wanted" = tts ] || fetch || exit 2
attend "$PYTHON" -m steadyvoice.provision.preflight "$wanted" || exit
[ -z "$check" ] || exit 0

# Asked of the settings, since .env counts as well.
drain_s=$("$PYTHON" -c 'from steadyvoice.settings import load_settings; print(round(load_settings().drain_s))' 2>/dev/null)
# In our place: it answers the signals from here on, and its exit code is ours.
exec "$PYTHON" -m steadyvoice.provision.supervisor --drain-s "${drain_s:-30}" "$wanted"
