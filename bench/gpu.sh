#!/usr/bin/env bash
# Carry bench/gpu.py to a machine with a GPU that has torch, transformers and peft, and perhaps no network.
#
#   here    bash bench/gpu.sh prepare [FOLDER]   packs the project and the packages that are missing there, 45 MiB
#   there   bash FOLDER/run.sh [--steps a,b ...] measures; see bench/gpu.py. First try --tiny here, with that machine's packages
#
# FOLDER is .gpu by default. PYTHON_THERE names the Python of that machine, 3.12 by default.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
there=${PYTHON_THERE:-3.12}

# What such a machine lacks. Pure Python of any version runs there; compiled parts are fetched for its version.
pure="lm_eval datasets evaluate dill sqlitedict.py word2number more_itertools pytablewriter dataproperty mbstrdecoder
    pathvalidate tabledata tcolorpy typepy chardet rouge_score nltk annotated_types annotated_doc typing_inspection
    pydantic typer shellingham typing_extensions.py"
compiled="pydantic_core multiprocess"
told_by_metadata="lm_eval datasets evaluate dill bitsandbytes pydantic typer typing_extensions typing_inspection"

version() { # of a package, as this project's environment has it
    basename "$(ls -d "$site/$1"-*.dist-info)" .dist-info
}

prepare() {
    local folder=${1:-.gpu} name
    site=$(echo "$root"/.venv/lib/python3*/site-packages)
    rm -rf "$folder" && mkdir -p "$folder/project/bench" "$folder/site-packages/bitsandbytes"
    for name in prune heal eval recipes bench/gpu.py bench/gpu_steps; do
        cp -r "$root/$name" "$folder/project/$name"
    done
    for name in $pure; do cp -r "$site/$name" "$folder/site-packages/"; done
    for name in $told_by_metadata; do cp -r "$site/$(version "$name").dist-info" "$folder/site-packages/"; done
    # bitsandbytes' kernels are loaded by ctypes, so they fit any Python; those of CUDA 13 alone are taken.
    tar -C "$site/bitsandbytes" --exclude='*.so' --exclude='*.dll' -cf - . | tar -C "$folder/site-packages/bitsandbytes" -xf -
    cp "$site"/bitsandbytes/libbitsandbytes_cpu.so "$site"/bitsandbytes/libbitsandbytes_cuda13*.so \
        "$folder/site-packages/bitsandbytes/"
    "$root/.venv/bin/python" -m pip install --quiet --no-deps --no-compile --target "$folder/site-packages" 'liger-kernel>=0.8,<0.9'
    for name in $compiled; do
        "$root/.venv/bin/python" -m pip install --quiet --no-deps --no-compile --only-binary=:all: \
            --python-version "$there" --implementation cp --platform manylinux2014_x86_64 \
            --platform manylinux_2_17_x86_64 --target "$folder/site-packages" "$(version "$name" | sed 's/-/==/')"
    done
    # Of lm-eval's tasks only the index is used: every task of ours is made in memory.
    find "$folder/site-packages/lm_eval/tasks" -mindepth 1 -maxdepth 1 -type d -exec rm -rf {} +
    find "$folder" \( -name __pycache__ -o -name tests -o -name '*.pyc' \) -prune -exec rm -rf {} +
    cat >"$folder/run.sh" <<'EOF'
#!/usr/bin/env bash
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHONPATH="$here/site-packages:$here/project${PYTHONPATH:+:$PYTHONPATH}" exec python3 "$here/project/bench/gpu.py" "$@"
EOF
    du -sm "$folder" | awk '{ print $1 " MiB in " $2 }'
}

case ${1:-help} in
prepare) shift && prepare "$@" ;;
*) sed -n '2,7p' "${BASH_SOURCE[0]}" ;;
esac
