# Puts one fault of seeded-bugs.txt into a copy of the sources; see there for the form.
#
#   awk -v root=DIR -v name=FAULT -f seeded-bugs.awk seeded-bugs.txt
#
# Prints the files that it has changed. Fails, and says why, if a place is not found, or found twice.

function trim(s) {
    gsub(/^[ \t]+|[ \t]+$/, "", s)
    return s
}

function put(   path, n, i, j, at, found, line, lines) {
    if (!olds)
        return
    path = root "/" file
    while ((getline line < path) > 0)
        lines[++n] = line
    close(path)
    for (i = 1; i + olds - 1 <= n; i++) {
        for (j = 1; j <= olds && trim(lines[i + j - 1]) == old[j]; j++)
            ;
        if (j > olds) {
            found++
            at = i
        }
    }
    if (found != 1) {
        printf "%s: its place in %s is there %d times\n", name, file, found > "/dev/stderr"
        failed = 1
        exit
    }
    printf "" > path
    for (i = 1; i < at; i++)
        print lines[i] > path
    for (i = 1; i <= news; i++)
        print new[i] > path
    for (i = at + olds; i <= n; i++)
        print lines[i] > path
    close(path)
    print file
    olds = news = 0
    edits++
}

/^=== / {
    put()
    here = $2
    sub(/:$/, "", here)
    on = here == name
}
!on { next }
/^--- / {
    put()
    file = $2
}
/^[ -]/ && !/^--- / { old[++olds] = trim(substr($0, 2)) }
/^[ +]/ { new[++news] = substr($0, 2) }

END {
    if (!failed)
        put()
    if (!failed && !edits)
        print name ": no such fault" > "/dev/stderr"
    exit failed || !edits
}
