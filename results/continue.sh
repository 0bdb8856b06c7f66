#!/bin/bash
# Continue the published results where they stop, in the virtual environment. Call it again until it says that nothing is left.
#
#     results/continue.sh cpu 120     # protocol standard, for 120 minutes
#     results/continue.sh gpu 8       # the textbook's setting and the full width, on one GPU
#
# Published records and declared looks are copied into results/, so that only missing runs are trained. Finished and interrupted runs are
# kept there. `python -m ablations.publish STUDY --protocol PROTOCOL` publishes a study.
set -euo pipefail
part=${1-} minutes=${2-}
if [[ $# != 2 || ! $part =~ ^(cpu|gpu)$ || ! $minutes =~ ^(0|[1-9][0-9]*)$ ]]; then
    echo "usage: results/continue.sh cpu|gpu MINUTES" >&2
    exit 2
fi
end=$((SECONDS + 60 * minutes))
cd "$(dirname "$0")/.."

require_time() {
    if ((SECONDS >= end)); then
        echo "The time is up; call again to continue."
        exit
    fi
}

# Give a command the time that is left: continued run num_1x1 --protocol d2l
continued() {
    require_time
    echo "== $*"
    python -m "ablations.$1" "${@:2}" --budget "$((end - SECONDS))s"
}

for published in results/reference/*/*/{runs/*,looks}.json; do
    own=results/${published#results/reference/}
    if [[ -e $published && ! -e $own ]]; then
        mkdir -p "${own%/*}"
        cp "$published" "${own%/*}/.copy" # under its own name only when it is whole
        mv "${own%/*}/.copy" "$own"
    fi
done

case $part in
cpu)
    continued run num_1x1 --protocol standard
    continued run num_1x1 --protocol standard --variants confirmatory --until-decided
    continued run heads --protocol standard --variants confirmatory --until-decided
    continued run pooling --protocol standard --variants confirmatory
    continued run class_block,wide_mlp,label_noise --protocol standard
    continued tune best --protocol standard --trials 48
    continued tune num_1x1 --protocol standard --trials 30
    continued run num_1x1 --protocol standard --tuned
    ;;
gpu)
    [[ -e results/bench-gpu.json ]] || python -m nin.bench --quick --json results/bench-gpu.json
    continued run textbook --protocol d2l --variants nin --seeds 30
    continued run textbook --protocol d2l
    continued run num_1x1,heads,class_block --protocol d2l
    continued run num_1x1,heads,class_block --protocol full
    ;;
esac
require_time # the last command may have ended for want of it
echo "Nothing is left to train."
