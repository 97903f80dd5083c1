#!/usr/bin/env bash
# The full study on a GPU, in calls that each end by themselves within a time limit and continue where the last stopped.
#
#   HYCAM_DATA=FOLDER benchmarks/gpu_study.sh WHEELS CACHE [SECONDS] [STUDY ...]
#
# WHEELS   a folder of wheels: what of the package's requirements, and of setuptools, the machine's own Python lacks (no network is used)
# CACHE    a folder as ~/.cache/hycam is: backbones/smollm2-135m, and wheels/ with the data of retention
# SECONDS  of this call, 450 by default; what runs then is stopped and goes on from its checkpoint in the next call
# STUDY    study files, by default those below in their order; each is run as far as it goes before the next begins
#
# The results of finished cells are small JSON files under docs/results/, with their plans; where OUT names a folder,
# they are packed there as results.tar.gz. A results.tar.gz beside this script's repository is unpacked first, so that a bare machine goes on
# with what another has finished.
set -euo pipefail
wheels=$(realpath "${1:?a folder of wheels is needed}")
HYCAM_CACHE=$(realpath "${2:?a folder with the backbone is needed}")
HYCAM_DATA=$(realpath "${HYCAM_DATA:?HYCAM_DATA has to name the folder of the five datasets}")
OUT=${OUT:+$(realpath "$OUT")}
limit=${3:-450}
shift $(($# < 3 ? $# : 3))
cd "$(dirname "$0")/.."
export HYCAM_CACHE HYCAM_DATA HF_HUB_OFFLINE=1
studies=("$@")
if ((${#studies[@]} == 0)); then
    studies=(recipes/full/{learning-rates,study,num-specialized,retention,retention-training}.yaml
        recipes/experiments/learning-rates.yaml recipes/experiments/{where,multipliers,noise,inner,interference,data-ladder}.yaml)
fi

if [[ -f results.tar.gz ]]; then tar -xzf results.tar.gz; fi
if [[ ! -f .gpu/complete ]]; then
    python3 -m venv --without-pip --system-site-packages .gpu
    install=(python3 -m pip --python .gpu/bin/python install --quiet --no-index --find-links "$wheels")
    "${install[@]}" 'setuptools>=77' # builds the package below; a machine's own is often older
    "${install[@]}" --no-build-isolation --editable .
    touch .gpu/complete
fi

unfinished=() # studies with failed cells, which the next call tries again
is_over=
for study in "${studies[@]}"; do
    left=$((limit - SECONDS))
    if ((left <= 30)); then is_over=yes && break; fi
    echo "== $study, at most $left s"
    status=0
    # Ctrl-C is what stops a study cleanly; 130 is its exit status then.
    timeout --signal=INT --kill-after=20 "$left" .gpu/bin/python -m hycam.cli.main study "$study" || status=$?
    case $status in
        0) ;;
        124 | 130) is_over=yes && break ;;
        137) # killed: by timeout when it did not stop, or for want of memory
            if ((SECONDS >= limit)); then is_over=yes && break; fi
            unfinished+=("$study") ;;
        *) unfinished+=("$study") ;;
    esac
done
if [[ -n ${OUT:-} && -d docs/results ]]; then
    find docs/results \( -path '*/cells/*.json' -o -name plan.json -o -name study.yaml \) -print0 | tar --null -czf "$OUT/results.tar.gz" --files-from -
fi
if [[ -n $is_over ]]; then echo "the time is up; the same command continues"; fi
if ((${#unfinished[@]})); then
    echo "not finished, for the reasons above: ${unfinished[*]}; the same command tries again"
    exit 1
fi
if [[ -z $is_over ]]; then echo "complete"; fi
