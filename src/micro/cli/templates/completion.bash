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
    compopt +o filenames
    [[ "${COMPREPLY[0]}" == *[=/] ]] && compopt -o nospace
    # bash replaces only what follows the last = or :, or starts with the last @
    [[ "$cur" == [=:] ]] && cur=
    if [[ "$typed" == *"$cur" ]]; then
        local kept="${typed%"$cur"}"
        COMPREPLY=("${COMPREPLY[@]#"${kept%@}"}")
    fi
}
complete -o filenames -F _micro micro
