#!/usr/bin/env bash
# What to change on this machine for a node, and why: settings of the kernel, huge pages, CPU clocks, interrupts of the network.
#
#   deploy/tune.sh              says what is as it should be (ok) and what should be changed (do); changes nothing
#   deploy/tune.sh --apply      as root: prints each change, then makes it; what is ok is left alone, so a second run does nothing
#
# What is applied lasts until the next start of the machine; deploy/90-keyloom.conf, in /etc/sysctl.d, keeps the settings of the
# kernel. `keyloom doctor` says whether a node can run at all. KEYLOOM_TUNE_ROOT is where proc and sys are found, for tests.
set -euo pipefail

root=${KEYLOOM_TUNE_ROOT:-}
settings=$(dirname "${BASH_SOURCE[0]}")/90-keyloom.conf
apply=no
failed=0
changes=0

case ${1-} in
    '') ;;
    --apply) apply=yes ;;
    *)
        sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d; s/^# \?//' >&2
        exit 2
        ;;
esac
if [[ $apply = yes && -z $root && $EUID -ne 0 ]]; then
    echo "tune.sh: --apply changes settings of the kernel: run it as root" >&2
    exit 1
fi

# advise NAME FILE NOW WANTED WHY: what is NOW in FILE should be WANTED.
advise() {
    if [[ $3 = "$4" ]]; then
        printf 'ok  %s is %s\n' "$1" "$3"
        return
    fi
    changes=$((changes + 1))
    printf 'do  %s: %s -> %s\n    %s\n    echo %s > %s\n' "$1" "$3" "$4" "$5" "$4" "$2"
    # In a group of its own, so that what the shell says of a file that cannot be opened goes the same way.
    if [[ $apply = yes ]] && ! { printf '%s\n' "$4" >"$2"; } 2>/dev/null; then
        printf '    failed: %s takes no %s\n' "$2" "$4"
        failed=1
    fi
}

# The settings of deploy/90-keyloom.conf, each with the comment above it. A minus before a name: older kernels have it not.
tune_kernel() {
    local line why='' name wanted file now
    while IFS= read -r line; do
        case $line in
            '#'*)
                why=${line#\# }
                continue
                ;;
            *=*) ;;
            *) continue ;;
        esac
        name=${line%%=*} wanted=${line#*=}
        name=${name//[ -]/} wanted=${wanted// /}
        file=$root/proc/sys/${name//.//}
        [[ -r $file ]] || continue
        now=$(<"$file")
        # Longer queues than these do no harm.
        if [[ $name = net.* && $now =~ ^[0-9]+$ && $now -gt $wanted ]]; then
            wanted=$now
        fi
        advise "$name" "$file" "$now" "$wanted" "$why"
    done <"$settings"
}

tune_huge_pages() {
    local file=$root/sys/kernel/mm/transparent_hugepage/enabled now wanted
    [[ -r $file ]] || return 0
    now=$(<"$file")
    # [always] madvise never: the chosen one is in brackets.
    [[ $now != *\[*\]* ]] || now=${now#*\[} now=${now%%\]*}
    wanted=$now
    [[ $now != always ]] || wanted=madvise
    advise 'transparent huge pages' "$file" "$now" "$wanted" \
        'Else memory may grow, and pages are put together while requests wait.'
}

tune_clocks() {
    local file cpu now wanted
    for file in "$root"/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
        [[ -r $file ]] || continue
        cpu=${file%/cpufreq/*}
        now=$(<"$file")
        wanted=$now
        case $now in
            performance | schedutil) ;;
            *) wanted=performance ;;
        esac
        advise "governor of ${cpu##*/}" "$file" "$now" "$wanted" \
            'The clock frequency follows the load late, which shows in latencies.'
    done
}

# Each queue of a network card interrupts one CPU, which then handles the packets of its connections. One queue for each CPU, in
# turn, so that no core does it for all; a card of one queue leaves that to the kernel (RPS).
tune_interrupts() {
    local cpus card irq queue file now wanted mask
    cpus=$(cpu_list)
    local -a cpu
    read -r -a cpu <<<"$cpus"
    [[ ${#cpu[@]} -gt 1 ]] || return 0
    for card in "$root"/sys/class/net/*; do
        # Only real cards have a device.
        [[ -e $card/device ]] || continue
        queue=0
        # Queues are numbered as their interrupts are.
        for irq in $(printf '%s\n' "$card"/device/msi_irqs/* | sed 's#.*/##' | sort -n); do
            file=$root/proc/irq/$irq/smp_affinity_list
            [[ -r $file ]] || continue
            now=$(<"$file")
            wanted=${cpu[queue % ${#cpu[@]}]}
            advise "CPU of interrupt $irq (${card##*/})" "$file" "$now" "$wanted" \
                'One CPU for each queue of the card: else one of them handles the packets of all.'
            queue=$((queue + 1))
        done
        if [[ -e $card/queues/rx-0/rps_cpus && ! -e $card/queues/rx-1 ]]; then
            file=$card/queues/rx-0/rps_cpus
            now=$(<"$file")
            mask=$(cpu_mask "${cpu[@]}")
            # The kernel shows zeros and commas that need not be written.
            [[ $(bare "$now") != $(bare "$mask") ]] || now=$mask
            advise "packets of ${card##*/}, of one queue" "$file" "$now" "$mask" \
                'The card has one queue, so one CPU would handle the packets of all connections.'
        fi
    done
    if [[ -z $root ]] && pgrep -x irqbalance >/dev/null 2>&1; then
        echo 'see irqbalance runs, and moves interrupts again: systemctl disable --now irqbalance'
    fi
}

# CPUs that are online, one word each.
cpu_list() {
    local range first last list=''
    local online
    online=$(cat "$root/sys/devices/system/cpu/online" 2>/dev/null || true)
    for range in ${online//,/ }; do
        first=${range%-*} last=${range#*-}
        while ((first <= last)); do
            list+="$first "
            first=$((first + 1))
        done
    done
    echo "$list"
}

# The CPUs as the kernel takes a set of them: 32 to a word, the highest first.
cpu_mask() {
    local -a words=()
    local one word text=''
    for one in "$@"; do
        words[one / 32]=$((${words[one / 32]:-0} | 1 << (one % 32)))
    done
    for ((word = one / 32; word >= 0; word--)); do
        text+=$(printf '%08x' "${words[word]:-0}")
        ((word == 0)) || text+=,
    done
    echo "$text"
}

bare() {
    local text=${1//,/}
    # Leading zeros.
    echo "${text#"${text%%[!0]*}"}"
}

tune_kernel
tune_huge_pages
tune_clocks
tune_interrupts
if [[ $changes -eq 0 ]]; then
    echo 'nothing is to be done'
elif [[ $apply = no ]]; then
    echo "$changes to do: as root, $0 --apply"
fi
exit "$failed"
