#!/usr/bin/env bash
# Measures this code on one NVIDIA GPU in less than twelve minutes.
#
#     TFDS_DATA_DIR=DIR benchmarks/gpu.sh
#
# The stages, in the order of their worth:
#
#     step_NETWORK  a training step of five networks in bfloat16 beside eager PyTorch,
#                   with the machine's limits (benchmarks/train_step.py)
#     same_bits     whether two trainings with max pooling end in the same bits, with
#                   and without XLA's deterministic operations (benchmarks/same_bits.py)
#     inference     ResNet-50's evaluation and latency in bfloat16 beside PyTorch
#                   (benchmarks/inference.py)
#     compiled_NETWORK  the step beside torch.compile, which takes minutes to compile
#     training      ResNet-20 on CIFAR-10 for as many epochs as fit into the rest
#
# A stage writes NAME.tmp in RESULTS_DIR, by default runs/gpu, which becomes NAME.txt
# when the stage is complete; those of train_step.py and inference.py also write NAME.json
# with all figures. The training has the run directory cifar10 there, and our compiled
# programs the folder cache. requirements.txt is needed, PyTorch is not. The same command
# again leaves out what is complete and goes on with the rest. It ends, also if a signal
# stops it, with the table of all complete stages and a line for each other one. The
# exit code is 0 if all stages are complete, 1 if one failed, or else 75.
#
# BUDGET has the seconds for the whole call, 700 by default. A stage begins if the
# seconds are left that it is said to need below. It may take those or half of what is
# left, whichever is more, and the last stage all of it. The needs are guesses: nothing
# was measured on a GPU yet.
#
# DEVICE=cpu measures the CPU. MINIATURE=1 shows that all stages work, in minutes on a
# CPU, with LeNet-5 and a few images; its RESULTS_DIR is another, runs/cpu_miniature.
# PYTHON names the interpreter. Relative paths count from the root of the repository.
set -eu
cd "$(dirname "$0")/.."
DEVICE=${DEVICE:-gpu} PYTHON=${PYTHON:-python} BUDGET=${BUDGET:-700}
RESULTS_DIR=${RESULTS_DIR:-runs/$DEVICE${MINIATURE:+_miniature}}
mkdir -p "$RESULTS_DIR"
RESULTS_DIR=$(realpath "$RESULTS_DIR")
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$RESULTS_DIR/cache}

networks=(resnet50 vgg16 googlenet_bn densenet121 resnext50_32x4d)
evaluated=resnet50
flags=(--device="$DEVICE" --rounds=3)  # bfloat16 on a GPU, else float32
same=()
recipe=(--config=configs/cifar10.py:resnet20)
if [ -n "${MINIATURE:-}" ]; then
  networks=(lenet5_modern)
  evaluated=lenet5_modern
  flags+=(--rounds=1 --batch=2 --steps=1)
  recipe=(
    --config=configs/lenet5.py:modern --config.dataset.train_split='train[:64]'
    --config.dataset.eval_split='test[:20]' --config.batch_size=32
    --config.num_epochs=2
  )
  same=("${recipe[@]}" --steps=2)
fi
if [ "$DEVICE" = cpu ]; then export JAX_PLATFORMS=cpu; fi

parts=2 failed=0 backend= todo=() steps=() compiled=()
for network in "${networks[@]}"; do
  steps+=("step_$network") compiled+=("compiled_$network")
done
stages=("${steps[@]}" same_bits inference "${compiled[@]}" training)
stop() {
  local name
  kill $(jobs -p) || true
  wait
  for name in "${stages[@]}"; do
    if [ -e "$RESULTS_DIR/$name.txt" ]; then continue; fi
    if [[ " ${todo[*]}" != *" $name: "* ]]; then
      todo+=("$name: a signal came before its end; the same command goes on")
    fi
  done
  report
  exit 75
}
trap stop INT TERM

# Ends the script if a package of main.py's is missing, or if JAX runs elsewhere: without
# a GPU it takes the CPU.
check() {
  if [ -n "$backend" ]; then return; fi
  backend=$("$PYTHON" -c '
import sys
try:
    import jax, main, train
except ImportError as error:
    sys.exit(f"{error}: pip install -r requirements.txt")
print(jax.default_backend())')
  if [ "$backend" != "$DEVICE" ]; then
    echo "DEVICE=$DEVICE: JAX runs on $backend" >&2
    exit 1
  fi
}

# stage NAME SECONDS COMMAND...
stage() {
  local name=$1 need=$2 file=$RESULTS_DIR/$1 left=$((BUDGET - SECONDS)) code=0
  shift 2
  if [ -e "$file.txt" ]; then return; fi
  if [ "$left" -lt "$need" ]; then
    todo+=("$name: it needs $need s and $left s are left; the same command goes on")
    return
  fi
  check
  local limit=$((left / parts > need ? left / parts : need)) began=$SECONDS
  echo "$name: at most $limit s"
  timeout --kill-after=15 "$limit" "$@" >"$file.tmp" 2>&1 &
  wait $! || code=$?
  # 137 is a kill: by timeout, when the limit is over, or by the system.
  if [ "$code" = 137 ] && [ $((SECONDS - began)) -ge "$limit" ]; then code=124; fi
  case $code in
    0) mv "$file.tmp" "$file.txt" ;;
    75 | 124) todo+=("$name: stopped after $limit s; the same command goes on") ;;
    137)
      failed=1
      todo+=("$name: the system killed it, as for want of memory; see $file.tmp")
      ;;
    *)
      failed=1
      todo+=("$name: failed with $code, see $file.tmp: $(tail -n 1 "$file.tmp")")
      ;;
  esac
}

# show TITLE NAME...: prints the text of complete stages, then the table; no line twice.
show() {
  local title=$1 name files=()
  shift
  for name; do
    if [ -e "$RESULTS_DIR/$name.txt" ]; then files+=("$RESULTS_DIR/$name.txt"); fi
  done
  if [ ${#files[@]} = 0 ]; then return 0; fi
  printf '\n## %s\n\n' "$title"
  awk '!/^\|/ && NF && !seen[$0]++' "${files[@]}"
  echo
  awk '/^\|/ && !seen[$0]++' "${files[@]}"
}

report() {
  local file
  show steps "${steps[@]}"
  show same_bits same_bits
  show inference inference
  show 'beside torch.compile' "${compiled[@]}"
  for file in "$RESULTS_DIR"/training.*; do
    if [ ! -e "$file" ]; then continue; fi
    printf '\n## training\n\n'
    awk '/images\/s/ { rate = $0 } /images counted/ { result = $0 }
      END { print rate; print result }' "$file"
  done
  if [ ${#todo[@]} = 0 ]; then return 0; fi
  printf '\n## not complete\n\n'
  printf '%s\n' "${todo[@]}"
}

for network in "${networks[@]}"; do
  stage "step_$network" 85 \
    "$PYTHON" -m benchmarks.train_step --networks="$network" "${flags[@]}" \
    --contestants=torch,ours --out="$RESULTS_DIR/step_$network.json"
done
stage same_bits 85 "$PYTHON" -m benchmarks.same_bits "${same[@]}"
stage inference 70 \
  "$PYTHON" -m benchmarks.inference --networks="$evaluated" "${flags[@]}" \
  --out="$RESULTS_DIR/inference.json"
for network in "${networks[@]}"; do
  stage "compiled_$network" 85 \
    "$PYTHON" -m benchmarks.train_step --networks="$network" "${flags[@]}" \
    --contestants=compiled,ours --out="$RESULTS_DIR/compiled_$network.json"
done
parts=1
stage training 60 "$PYTHON" main.py --workdir="$RESULTS_DIR/cifar10" "${recipe[@]}"

report
if [ ${#todo[@]} = 0 ]; then exit 0; fi
exit $((failed ? 1 : 75))
