#!/bin/sh
# Verify the records in this folder with OpenSSH and coreutils alone; nothing of it is trusted but the key's
# fingerprint, which you give as you know it from elsewhere:
#
#     sh verify.sh SHA256:...
#
# 0: nothing found, 1: something was (each line says what), 2: it could not be done.
LC_ALL=C
export LC_ALL
[ $# -eq 1 ] || { echo "usage: sh verify.sh SHA256:FINGERPRINT" >&2; exit 2; }
cd "$(dirname "$0")" || exit 2
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
found() { echo "FOUND: $*"; : > "$work/found"; }

# signed KEY NAMESPACE SIGNATURE FILE WHAT
signed() {
    printf 'auditor %s\n' "$1" > "$work/signers"
    ssh-keygen -Y verify -f "$work/signers" -I auditor -n "$2" -s "$3" < "$4" > "$work/said" 2>&1 ||
        found "$5: $(tail -n 1 "$work/said")"
}
digest() { sha256sum | cut -d ' ' -f 1; }
is_yours() { [ "$(printf '%s\n' "$1" | ssh-keygen -lf - 2> /dev/null | cut -d ' ' -f 2)" = "$2" ] && known=yes; }

# 1. The key is the one you know, or followed it: each signed which is the next, and the next that it follows.
known='' number=1 key=$(sed -n 's/^from //p' records/log/handover-1/handover 2> /dev/null)
key=${key:-$(cat record.pub)}
is_yours "$key" "$1"
while [ -e "records/log/handover-$number" ]; do
    step=log/handover-$number text=records/log/handover-$number/handover
    next=$(sed -n 's/^to //p' "$text") size=$(sed -n 's/^entries \([0-9]*\) sha256:.*/\1/p' "$text")
    [ "$(sed -n 's/^from //p' "$text")" = "$key" ] || found "$step is not by the key before it"
    signed "$key" statelesskit-key "records/$step/old.sig" "$text" "$step/old.sig"
    signed "$next" statelesskit-key "records/$step/new.sig" "$text" "$step/new.sig"
    sum=$(head -n "${size:-0}" records/log/entries | digest)
    grep -qx "entries $size sha256:$sum" "$text" || found "$step names other entries than the log has"
    grep -qx "log $(head -n 1 records/log/checkpoint)" "$text" || found "$step is of another log"
    key=$next number=$((number + 1))
    is_yours "$key" "$1"
done
[ "$(ls -d records/log/handover-* 2> /dev/null | wc -l)" = $((number - 1)) ] || found "log: a hand-over was removed"
[ "$key" = "$(cat record.pub)" ] || known=''
[ "$known" ] || { echo "FOUND: record.pub is not the key $1, nor follows it; nothing here can be believed"; exit 1; }
# 2. The last one signed the checkpoint.
signed "$key" statelesskit-log records/log/checkpoint.sig records/log/checkpoint log/checkpoint
# 3. The checkpoint is that of the log, and the log names each record's statement.
grep -qx "entries sha256:$(digest < records/log/entries)" records/log/checkpoint || found "log/entries is not what the checkpoint says"
cd records || exit 2
sha256sum --quiet --strict -c log/entries > "$work/said" 2>&1 || while read -r line; do found "$line"; done < "$work/said"

# Print what a statement says its record's files are, as sha256sum reads it.
files_of() {
    sed -n 's/^{"payload":"\([A-Za-z0-9+\/=]*\)".*/\1/p' "$1/statement.dsse.json" | base64 -d 2> /dev/null |
        tr '{' '\n' | sed -n 's/^"sha256":"\([0-9a-f]\{64\}\)"},"name":"\([^"\\\/]*\)"}.*/\1  .\/\2/p'
}
# 4. What was pruned is said by the records of those runs.
: > "$work/pruned"
for folder in *-audit-prune-*/; do
    [ -f "$folder/pruned" ] && files_of "${folder%/}" | grep -q '  \./pruned$' && cat "$folder/pruned" >> "$work/pruned"
done
# 5. Each record is in the log, its files are those of its statement, and there are no others.
for folder in */; do
    name=${folder%/}
    [ "$name" = log ] && continue
    grep -q "  $name/statement\.dsse\.json\$" log/entries || found "$name is not in the log"
    [ -L "$name" ] && { found "$name is a link"; continue; }
    files_of "$name" > "$work/files"
    [ -s "$work/files" ] || found "$name: its statement names no files"
    grep -q "  $name/statement\.dsse\.json\$" "$work/pruned" && {
        [ "$(ls -A "$name")" = statement.dsse.json ] || found "$name was pruned, and holds other files"
        continue
    }
    (cd "$name" && sha256sum --quiet --strict -c "$work/files") > "$work/said" 2>&1 ||
        while read -r line; do found "$name: $line"; done < "$work/said"
    for file in "$name"/* "$name"/.[!.]*; do
        base=${file#"$name"/}
        case $base in statement.dsse.json | '*' | '.[!.]*') continue ;; esac
        [ -f "$file" ] && [ ! -L "$file" ] && grep -qF "  ./$base" "$work/files" || found "$name: $base is not of the record"
    done
done
[ ! -e "$work/found" ] || exit 1
echo "verified: $(wc -l < log/entries) records, nothing altered. Compare with the checkpoint you kept of before:"
head -n 3 log/checkpoint
