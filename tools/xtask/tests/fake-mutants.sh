#!/bin/sh
# Stands for cargo with cargo-mutants: $FAKE_PLACE/mutants has a line for each mutant, `fate file:line:column: what`. Writes down how it was called.
echo "$*" >>"$FAKE_PLACE/log"
[ "$1" = mutants ] || exit "${FAKE_SUITE:-0}"
case "$*" in
*--version*) exit 0 ;;
*--list*)
    comma=
    echo "["
    while read -r _ name; do
        file=${name%%:*}
        line=${name#*:}
        echo "$comma{\"name\": \"$name\", \"file\": \"$file\", \"package\": \"${file%%/*}\", \"span\": {\"start\": {\"line\": ${line%%:*}}}}"
        comma=,
    done <"$FAKE_PLACE/mutants"
    echo "]"
    exit 0
    ;;
esac
for word; do
    [ "$output" = next ] && output=$word
    [ "$word" = --output ] && output=next
done
mkdir -p "$output/mutants.out"
for word; do
    case "$word" in --re=*) ;; *) continue ;; esac
    while read -r fate name; do
        [ "$fate" != lost ] && printf '%s\n' "$name" | grep -qP "${word#--re=}" && echo "$name" >>"$output/mutants.out/$fate.txt"
    done <"$FAKE_PLACE/mutants"
done
exit "${FAKE_CODE:-2}"
