_micro() {
    local IFS=$'\n' cur="${COMP_WORDS[COMP_CWORD]}"
    local line="${COMP_LINE:0:COMP_POINT}"
    local -a words
    IFS=$' \t\n' read -ra words <<< "$line"
    [[ "$line" == *" " ]] && words+=("")
    local typed="${words[-1]}"
    COMPREPLY=($(micro __complete -- "${words[@]:1}" 2>/dev/null))
    if [[ ${#COMPREPLY[@]} -eq 0 ]]; then
        COMPREPLY=($(compgen -f -- "$cur"))
        return
    fi
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace
    if [[ "$typed" == *=* && "$COMP_WORDBREAKS" == *=* ]]; then
        COMPREPLY=("${COMPREPLY[@]#"${typed%"$cur"}"}")
    fi
}
complete -o filenames -F _micro micro
